"""Sites by pattern: `blocks.*.hook_{resid_post,mlp_out}` over the names of a model."""

import fnmatch
import re
from collections.abc import Iterable, Sequence

from monosem.core.errors import UnknownNameError, suggestion
from monosem.models.language_model import LanguageModel

_BRACES = re.compile(r"\{([^{}]*)\}")

NO_VECTORS = ("attn_scores", "pattern", "scale")
"""Points where a token has no vector: `*` leaves them out, unless the pattern names them."""


def matching_sites(model: LanguageModel, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the sites of `model` that any of `patterns` names, each once, in forward order.

    `*`, `?` and `[…]` stand for characters, `{a,b}` for either; a plain name may leave `hook_` out.
    Patterns find what has a vector for each token: scores, patterns of attention and scales of norms
    only where their own names stand in the pattern.
    `UnknownNameError` lists names near to a pattern that matches nothing.
    """
    names = model.sites()
    found: set[str] = set()
    for pattern in patterns:
        for single in braced(pattern):
            if not set("*?[") & set(single):
                found.add(str(model.check_site(single)))
                continue
            matched = [
                name
                for name in fnmatch.filter(names, single)
                if not any(
                    name.endswith(f"hook_{point}") and point not in single for point in NO_VECTORS
                )
            ]
            if not matched:
                raise UnknownNameError(_nothing(model, pattern, single, names))
            found.update(matched)
    return tuple(name for name in names if name in found)


def braced(pattern: str) -> list[str]:
    """Return `pattern` once for every choice that its braces leave.

    >>> braced("blocks.{0,1}.hook_{a,b}")
    ['blocks.0.hook_a', 'blocks.0.hook_b', 'blocks.1.hook_a', 'blocks.1.hook_b']
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [
        whole
        for choice in match[1].split(",")
        for whole in braced(f"{before}{choice.strip()}{after}")
    ]


def _nothing(model: LanguageModel, pattern: str, single: str, names: Sequence[str]) -> str:
    part = f" (its part `{single}`)" if single != pattern else ""
    near = suggestion(single.replace("*", "0"), names)
    return (
        f"No site of `{model.name}` matches `{pattern}`{part}.{near} A pattern names sites as "
        "`blocks.*.hook_resid_post` does."
    )
