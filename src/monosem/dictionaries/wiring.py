"""Wiring: which sites a dictionary of any architecture reads, and which it writes.

    sae          x̂ = decode(encode(x))                  it writes what it reads
    transcoder   ŷ = decode(encode(x)) + x @ W_skip      one site to another; `W_skip` only with `skip`
    crosscoder   several sites, side by side in x: latents are shared, each site has its own columns
    clt          as many sites read as written; latents of layer l read site l, and write sites l, l + 1, …

Several sites are one wide activation: their columns stand side by side, each divided by its own
scale. A row of `W_dec` is one latent's decoder vectors of all sites, and what an architecture says of
a row (its norm, an L1 penalty times it) it says of them together. In a cross-layer transcoder the first
n_latents / n_layers latents belong to the first layer, and so on. Its `W_enc` has the rows of one site,
for that is what a latent reads, and its decoder is a matrix for each layer, over the columns it writes.
Latents of all layers compete for one k, or share one l0.

Transcoders: Dunefsky et al. 2024, arXiv:2406.11944; skip: Paulo et al. 2025, arXiv:2501.18823;
crosscoders: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders; cross-layer transcoders:
Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs/methods.html.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError

Kind = Literal["sae", "transcoder", "crosscoder", "clt"]
KINDS: tuple[Kind, ...] = ("sae", "transcoder", "crosscoder", "clt")


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How the columns of a dictionary belong to sites; the default is one site, read and written."""

    kind: Kind = "sae"
    """What is made of what."""
    widths_in: tuple[int, ...] = ()
    """Widths of the sites that are read, side by side; empty for one site."""
    widths_out: tuple[int, ...] = ()
    """Widths of the sites that are written; empty for one site."""
    skip: bool = False
    """Whether a learnt linear map of the input is added to the output."""

    def __post_init__(self) -> None:
        """Refuse what cannot be wired."""
        if self.kind not in KINDS:
            raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}, got `{self.kind}`.")
        if any(width < 1 for width in (*self.widths_in, *self.widths_out)):
            raise ConfigError(
                f"Sites have at least one column, got widths {self.widths_in} and {self.widths_out}. Give "
                "the widths of its sites."
            )
        if self.skip and self.autoencodes:
            raise ConfigError(
                f"A `{self.kind}` writes what it reads: a skip would be all it learns. Leave `skip` out, "
                "or choose another target."
            )
        if self.kind == "crosscoder" and self.widths_in != self.widths_out:
            raise ConfigError(
                f"A crosscoder writes the sites it reads, but the widths are {self.widths_in} and "
                f"{self.widths_out}. Give the same sites."
            )
        if self.kind == "clt" and len(self.widths_in) != len(self.widths_out):
            raise ConfigError(
                f"A cross-layer transcoder reads as many sites as it writes, got {len(self.widths_in)} "
                f"and {len(self.widths_out)}. Name one target for each site."
            )
        if self.kind == "clt" and len(set(self.widths_in)) > 1:
            raise ConfigError(
                "The layers of a cross-layer transcoder read sites of one width, got "
                f"{self.widths_in}. Name sites of one kind."
            )

    @property
    def autoencodes(self) -> bool:
        """Whether what it writes is what it reads."""
        return self.kind in ("sae", "crosscoder")

    def columns_in(self, d_in: int) -> tuple[slice, ...]:
        """The columns of the input that belong to each site."""
        return _columns(self.widths_in or (d_in,))

    def columns_out(self, d_out: int) -> tuple[slice, ...]:
        """The columns of the output that belong to each site."""
        return _columns(self.widths_out or (d_out,))

    def check(self, d_in: int, d_out: int, n_latents: int) -> None:
        """Raise `ConfigError` unless a dictionary of this shape can be wired so."""
        for name, widths, whole in (
            ("widths_in", self.widths_in, d_in),
            ("widths_out", self.widths_out, d_out),
        ):
            if widths and whole and sum(widths) != whole:
                raise ConfigError(
                    f"`{name}` {widths} make {sum(widths)} columns, but the dictionary has {whole}. "
                    "Give the widths of its sites."
                )
        if self.kind == "clt" and self.widths_in and n_latents % len(self.widths_in):
            raise ConfigError(
                f"`n_latents` {n_latents} cannot be shared evenly by {len(self.widths_in)} layers. Choose "
                "a multiple."
            )

    @property
    def n_layers(self) -> int:
        """Layers of a cross-layer transcoder, each with latents of its own; 1 of everything else."""
        return max(1, len(self.widths_in)) if self.kind == "clt" else 1

    def latents_of(self, layer: int, n_latents: int) -> slice:
        """The latents of one layer."""
        each = n_latents // self.n_layers
        return slice(layer * each, (layer + 1) * each)

    def written(self, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
        """Of each layer: its latents, and the columns it writes of `[n_latents d_out]`."""
        n_latents, d_out = shape
        firsts = [own.start for own in self.columns_out(d_out)] if self.n_layers > 1 else [0]
        layers = range(self.n_layers)
        return [(self.latents_of(i, n_latents), slice(firsts[i], d_out)) for i in layers]


def _columns(widths: tuple[int, ...]) -> tuple[slice, ...]:
    ends = list(itertools.accumulate(widths))
    return tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))


def per_column(scales: tuple[float, ...], columns: tuple[slice, ...]) -> Float[Tensor, " d"]:
    """Each site's scale at each of its columns."""
    parts = [torch.full((c.stop - c.start,), s) for c, s in zip(columns, scales, strict=True)]
    return torch.cat(parts)
