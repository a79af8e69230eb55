"""Dictionaries in an attribution: features, error and bias at the site that each writes."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations.processing import for_model
from monosem.circuits.targets import Target
from monosem.circuits.terms import Group
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.wired import Wired
from monosem.models.language_model import LanguageModel
from monosem.models.site import Site


class Placed:
    """A dictionary at the site it writes."""

    def __init__(self, model: LanguageModel, dictionary: Dictionary[Any]) -> None:
        reads, writes = dictionary.sites_in, dictionary.sites_out
        if len(reads) != 1 or len(writes) != 1:
            raise ConfigError(
                f"A dictionary reads {len(reads)} sites and writes {len(writes)}; attributions take those of "
                "one site each. Save it with its `site`, or leave it out."
            )
        self.read, self.write = (str(model.check_site(site)) for site in (*reads, *writes))
        if type(dictionary).effect is not Wired.effect:
            raise ConfigError(
                f"The rows of a `{dictionary.architecture}` are scaled by the activation it reads, so its "
                "features add no fixed vectors. Use a dictionary of another architecture."
            )
        self.dictionary = for_model(dictionary, model, reads, writes).to(model.device)

    def skipped(self, seen: dict[str, Tensor]) -> Tensor:
        """Return what the skip makes of what it reads, in that one's shape."""
        x = seen[self.read]
        return x.flatten(2) @ self.dictionary.W_skip.detach().to(x)

    def groups(
        self,
        x: Float[Tensor, "pos d_in"],
        y: Float[Tensor, "pos d_out"],
        g: Float[Tensor, "pos d_out"],
    ) -> list[Group]:
        """Return features, error and decoder bias of what was read, what is written, and its gradient."""
        d, layer = self.dictionary, Site.parse(self.write).layer
        latents = d.encode_sparse(x.to(d.b_enc.dtype)).ragged()
        rows, indices = latents.rows(), latents.indices.long()
        values, vectors = latents.values.to(y), d.W_dec.detach().to(y)[latents.indices.long()]
        b_dec = d.b_dec.detach().to(y)
        error = (y - b_dec).index_add(0, rows, -values[:, None] * vectors)
        adds = values * (vectors * g[rows]).sum(1)
        return [
            Group(
                kind="feature",
                site=self.write,
                layer=layer,
                positions=rows,
                indices=indices,
                activations=values,
                values=adds,
            ),
            each_position("error", self.write, layer, error, g),
            each_position("bias", f"{self.write} b_dec", layer, b_dec.expand_as(g), g),
        ]


def place(
    model: LanguageModel, dictionaries: Iterable[Dictionary[Any]], targets: Sequence[Target]
) -> dict[str, Placed]:
    """Return the dictionaries by the site they write; those behind all targets are left out."""
    known = [Placed(model, d) for d in dictionaries]
    written = [p.write for p in known]
    if len(set(written)) < len(written):
        raise ConfigError(
            f"Two dictionaries write `{max(written, key=written.count)}`. Pass one for each site."
        )
    order = model.sites().index
    last = max(order(target.site) for target in targets)
    return {p.write: p for p in known if max(order(p.read), order(p.write)) <= last}


def each_position(
    kind: str,
    site: str,
    layer: int | None,
    x: Float[Tensor, "pos d"],
    g: Float[Tensor, "pos d"],
) -> Group:
    """Return what a vector at each position adds, given the target's gradient there."""
    return Group(
        kind=kind,
        site=site,
        layer=layer,
        positions=torch.arange(len(x), device=x.device),
        indices=None,
        activations=x.detach().norm(dim=-1),
        values=(x.detach() * g).sum(-1),
    )
