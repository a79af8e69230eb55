"""Pearson correlation of every latent with every neuron, accumulated over a stream.

    r[l, i] = (E[a_l n_i] - E[a_l] E[n_i]) / (σ(a_l) σ(n_i))        over all ordinary tokens

Neurons are shifted by their mean over the first block (a shift changes no covariance), so that the
two terms of the numerator do not cancel; products of one block are in single precision, sums over
blocks in double. A latent is zero nearly everywhere, so its products are weighted sums of the few
neuron vectors on which it fired: never a dense [tokens n_latents].
"""

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from monosem.features.directions import BLOCK, largest
from monosem.features.tables import Ranked, Statistics
from monosem.kernels import dispatch
from monosem.runtime.distributed import World

DENSE_FROM = 0.1
"""Share of entries from which a dense product of a block is the quicker one."""


class Correlation:
    """Running sums over blocks of tokens."""

    def __init__(self, n_latents: int) -> None:
        """Start empty; the first block decides shift, width and device."""
        self._n_latents = n_latents
        self._n_tokens = 0
        self._shift: Tensor | None = None

    def add(
        self,
        neurons: Float[Tensor, "tokens d_mlp"],
        values: Float[Tensor, " entries"],
        rows: Int32[Tensor, " entries"],
        offsets: Int64[Tensor, " n_latents_and_one"],
    ) -> None:
        """Add a block: its neurons, and its entries by latent with the row of `neurons` of each."""
        neurons = neurons.float()
        shift = self._shift
        if shift is None:
            n = len(neurons)
            shift = self._begin(neurons.mean(0) if n else neurons.new_zeros(neurons.shape[1]))
        centred = neurons - shift
        self._n_tokens += len(centred)
        self._sums += centred.sum(0)
        self._squares += centred.square().sum(0)
        self._products += self._product(centred, values, rows, offsets)

    def strongest(self, statistics: Statistics, n: int) -> Ranked:
        """Return the `n` neurons with the largest correlation in size for each latent.

        None for a latent, and never a neuron, that is the same on every token.
        """
        if self._shift is None or n == 0:
            return Ranked.none(self._n_latents)
        indices: list[Tensor] = []
        values: list[Tensor] = []
        for first in range(0, self._n_latents, BLOCK):
            pearson = self.pearson(statistics, slice(first, first + BLOCK))
            best, _ = largest(pearson.abs().nan_to_num(-1.0), n)
            indices.append(best)
            values.append(pearson.gather(1, best))
        return Ranked(indices=torch.cat(indices).numpy(), values=torch.cat(values).numpy())

    def pearson(self, statistics: Statistics, rows: slice) -> Float[Tensor, "latents d_mlp"]:
        """Return the coefficients of some latents, NaN where something is the same on every token."""
        n, found = self._n_tokens, statistics.moments
        share = torch.from_numpy(statistics.n_fired[rows] / n)
        active_mean = torch.from_numpy(np.nan_to_num(found.mean[rows]))
        variance = torch.from_numpy(np.nan_to_num(found.variance[rows]))
        mean = share * active_mean
        deviation = (share * (variance + active_mean**2) - mean**2).clamp(min=0).sqrt()
        neuron_mean = self._sums.cpu() / n
        neuron_deviation = (self._squares.cpu() / n - neuron_mean**2).clamp(min=0).sqrt()
        covariance = self._products[rows].cpu() / n - mean[:, None] * neuron_mean
        scale = deviation[:, None] * neuron_deviation
        return torch.where(scale > 0, covariance / scale, torch.nan)

    def agree(self, world: World, d_mlp: int, device: torch.device) -> None:
        """Shift neurons as rank 0 does, which has seen the first block."""
        shift = self._shift if world.rank == 0 else None
        agreed = world.copy_(torch.empty(d_mlp, device=device) if shift is None else shift)
        if world.rank:
            self._begin(agreed)

    def sum_(self, world: World) -> None:
        """Make the sums those of the blocks of all ranks."""
        self._n_tokens = int(world.sum_(torch.tensor(self._n_tokens)))
        world.sum_all_([self._sums, self._squares, self._products])

    def _begin(self, shift: Float[Tensor, " d_mlp"]) -> Float[Tensor, " d_mlp"]:
        self._shift = shift
        zeros = torch.zeros(len(shift), dtype=torch.float64, device=shift.device)
        self._sums, self._squares = zeros, zeros.clone()
        self._products = zeros.new_zeros(self._n_latents, len(shift))
        return shift

    def _product(
        self,
        centred: Float[Tensor, "tokens d_mlp"],
        values: Float[Tensor, " entries"],
        rows: Int32[Tensor, " entries"],
        offsets: Int64[Tensor, " n_latents_and_one"],
    ) -> Float[Tensor, "n_latents d_mlp"]:
        if len(values) < DENSE_FROM * len(centred) * self._n_latents:
            return dispatch.decode_ragged(values, rows, offsets, centred)
        latents = torch.arange(self._n_latents, device=rows.device).repeat_interleave(
            offsets.diff()
        )
        dense = centred.new_zeros(self._n_latents, len(centred))
        dense[latents, rows.long()] = values
        return dense @ centred
