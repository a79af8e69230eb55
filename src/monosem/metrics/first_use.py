"""First use: whether a dictionary from elsewhere fits the activations it is given, before work starts.

A file that loads may belong to another layer, to inputs of another scale, or to a model whose weights
were processed, and then means nothing without a sign of it. So its FVU is measured on one batch: above
1, or more than twice what was recorded with it, is an error. It names what would fit: every site of the
same width, and inputs scaled to √d or centred, are tried on the same batch.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.metrics.reconstruction import fvu
from monosem.metrics.stream import AnyDictionary, Place, blocks, on_device, side_by_side, visit

N_TOKENS = 4096
"""Tokens of the batch."""
MOST_BYTES = 2**30
"""What the activations of other sites may take at once; a large model has hundreds of sites."""
WORST = 1.0
TIMES_RECORDED = 2.0
BETTER = 0.5
"""Something else is named where its FVU is at most this share of what was found."""


@torch.no_grad()
def check_first_use(dictionaries: Mapping[str, AnyDictionary], place: Place) -> None:
    """Raise `ConfigError` for a dictionary of another library that does not fit; ours are not looked at."""
    foreign = {name: d for name, d in dictionaries.items() if d.origin.source}
    if not foreign:
        return
    contexts = visit(place.store, "train", 0)
    block = next(blocks(place.store, contexts, N_TOKENS))
    seen = place.model.capture(block.tokens, place.sites)
    chosen = block.ordinary.to(place.model.device)
    x, target = (side_by_side(seen, side)[chosen] for side in (place.reads, place.writes))
    for name, dictionary in foreign.items():
        there = on_device(dictionary, x.device)
        found = fvu(target, there(x))
        recorded = dictionary.origin.metrics.get("fvu")
        limit = WORST if recorded is None else min(WORST, TIMES_RECORDED * recorded)
        if not found <= limit:
            raise ConfigError(_message(name, there, place, found, recorded, block.tokens, chosen))


def _message(
    name: str,
    dictionary: AnyDictionary,
    place: Place,
    found: float,
    recorded: float | None,
    tokens: Tensor,
    chosen: Tensor,
) -> str:
    against = f"{WORST:g}" if recorded is None else f"the recorded {recorded:.3g}"
    said = (
        f"The dictionary `{name}` ({dictionary.origin.source}) has an FVU of {found:.3g} at "
        f"`{place.site}` of `{place.model.name}`, against {against}: it does not fit what it reads."
    )
    tried = {
        what: value
        for what, value in _others(dictionary, place, tokens, chosen).items()
        if value <= BETTER * found
    }
    if tried:
        best = min(tried, key=lambda what: tried[what])
        return f"{said} {best} its FVU would be {tried[best]:.3g}. Correct the site or the file."
    return (
        f"{said} Nothing that was tried fits: other sites of the width, scaled or centred inputs. Check the "
        "language model and its tokenizer, the site, the scale of its inputs, and how the model's weights "
        "were processed."
    )


def _others(
    dictionary: AnyDictionary, place: Place, tokens: Tensor, chosen: Tensor
) -> dict[str, float]:
    """Return the FVU where it reads something else than was said, by what that is."""
    if place.target or len(place.reads) > 1:
        return {}
    model, found = place.model, {}
    sites = [site for site in model.sites() if _width(place, site) == dictionary.d_in]
    at_once = max(1, MOST_BYTES // (4 * tokens.numel() * dictionary.d_in))
    for start in range(0, len(sites), at_once):
        for site, value in model.capture(tokens, sites[start : start + at_once]).items():
            x = value.flatten(2).float()[chosen]
            if site != place.site:
                found[f"At `{site}`"] = fvu(x, dictionary(x))
            else:
                found |= _changed(dictionary, x)
    return found


def _changed(dictionary: AnyDictionary, x: Float[Tensor, "rows d"]) -> dict[str, float]:
    scale = (x.square().sum(1).mean() / x.shape[1]).sqrt()
    centre = x.mean(1, keepdim=True)
    return {
        "With inputs scaled so that E‖x‖² = d": fvu(x, dictionary(x / scale) * scale),
        "With inputs from which their own mean is taken (centred writing weights)": fvu(
            x, dictionary(x - centre) + centre
        ),
    }


def _width(place: Place, site: str) -> int:
    """Return the width of a site, 0 for one that has no vector for each token."""
    try:
        return place.model.width(site)
    except ConfigError:
        return 0
