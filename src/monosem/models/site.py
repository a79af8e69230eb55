"""A site: a place in a transformer where activations are read or replaced.

Sites carry TransformerLens's names, because papers and published dictionaries use them:
`blocks.6.hook_resid_post`, `blocks.6.attn.hook_z`, `hook_embed`. The `hook_` may be left out.
Here attn_out and mlp_out are always what is *added to the residual* (after a post-norm, where
the family has one), `hook_q` and `hook_k` are what the scores are made of (after rotary embedding
and q/k norms), and `hook_normalized` is what the next sublayer reads (with the norm's gain).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from monosem.core.errors import unknown_name

RESIDUAL_POINTS = (
    "hook_embed",
    "hook_pos_embed",
    "hook_resid_pre",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Points whose activations live in the residual stream, unnormalised."""

LAYER_POINTS = (
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Points of one block, in the order of the forward pass."""

FIRST_POINTS = ("hook_embed", "hook_pos_embed")
LAST_POINTS = ("ln_final.hook_scale", "ln_final.hook_normalized")

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Site:
    """One place: a point of block `layer`, or of the whole model where `layer` is None."""

    layer: int | None
    point: str

    @property
    def name(self) -> str:
        """The canonical name, with `hook_`."""
        return self.point if self.layer is None else f"blocks.{self.layer}.{self.point}"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, site: "str | Site") -> "Site":
        """Return the site that `site` names, with or without `hook_`.

        Knows every point, not which of them a model has; an unknown one raises `UnknownNameError`.

        >>> str(Site.parse("blocks.6.attn.z"))
        'blocks.6.attn.hook_z'
        """
        if isinstance(site, Site):
            return site
        match = _IN_BLOCK.fullmatch(site)
        layer, point = (int(match[1]), _hooked(match[2])) if match else (None, _hooked(site))
        points = FIRST_POINTS + LAST_POINTS if layer is None else LAYER_POINTS
        if point not in points:
            shown = 0 if layer is None else layer
            raise unknown_name("site", site, site_names(range(shown, shown + 1)))
        return cls(layer, point)


def site_names(layers: range) -> list[str]:
    """Return the names of all points of `layers` and of the whole model, in forward order."""
    blocks = [Site(layer, point).name for layer in layers for point in LAYER_POINTS]
    return [*FIRST_POINTS, *blocks, *LAST_POINTS]


def listing(sites: Iterable["Site"]) -> str:
    """Return `sites` for a message, each point once for all blocks that have it.

    >>> listing([Site(None, "hook_embed"), Site(0, "hook_mlp_out"), Site(1, "hook_mlp_out")])
    'hook_embed, blocks.{0..1}.hook_mlp_out'
    """
    layers: dict[str, list[int | None]] = {}
    for site in sites:
        layers.setdefault(site.point, []).append(site.layer)
    return ", ".join(_spanned(point, those[0], those[-1]) for point, those in layers.items())


def _spanned(point: str, first: int | None, last: int | None) -> str:
    return Site(first, point).name if first == last else f"blocks.{{{first}..{last}}}.{point}"


def _hooked(point: str) -> str:
    head, dot, last = point.rpartition(".")
    return point if last.startswith("hook_") else f"{head}{dot}hook_{last}"
