"""Sparse latents: which latents of which row are active, and how much.

`SparseLatents` keeps the same number of entries in each row (the TopK kinds); `RaggedLatents` keeps
as many as there are, as compressed sparse rows. Both decode and densify to the same thing. An entry
of value zero is allowed and means an inactive latent.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseLatents:
    """`k` entries in each row."""

    values: Float[Tensor, "batch k"]
    indices: Int32[Tensor, "batch k"]
    n_latents: int

    def dense(self) -> Float[Tensor, "batch n_latents"]:
        """The same latents with their zeros; gradients flow to `values`."""
        empty = self.values.new_zeros(len(self.values), self.n_latents)
        return empty.scatter(1, self.indices.long(), self.values)

    def active(self) -> Int64[Tensor, " active"]:
        """Index of the latent of each entry above zero, row after row."""
        return self.indices[self.values > 0].long()

    def ragged(self) -> "RaggedLatents":
        """The entries above zero as compressed sparse rows."""
        positive = self.values > 0
        ends = positive.sum(1).cumsum(0)
        return RaggedLatents(
            values=self.values[positive],
            indices=self.indices[positive],
            offsets=torch.cat([ends.new_zeros(1), ends]),
            n_latents=self.n_latents,
        )

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class RaggedLatents:
    """Compressed sparse rows: the entries of row `i` are `offsets[i]:offsets[i + 1]`."""

    values: Float[Tensor, " entries"]
    indices: Int32[Tensor, " entries"]
    offsets: Int64[Tensor, " rows_and_one"]
    n_latents: int

    def dense(self) -> Float[Tensor, "batch n_latents"]:
        """The same latents with their zeros; gradients flow to `values`."""
        empty = self.values.new_zeros(len(self), self.n_latents)
        return empty.index_put((self.rows(), self.indices.long()), self.values)

    def rows(self) -> Int64[Tensor, " entries"]:
        """Row of each entry."""
        counts = self.offsets.diff()
        return torch.arange(len(self), device=counts.device).repeat_interleave(counts)

    def active(self) -> Int64[Tensor, " active"]:
        """Index of the latent of each entry above zero, row after row."""
        return self.indices[self.values > 0].long()

    def ragged(self) -> "RaggedLatents":
        """Itself: both kinds answer to the same name."""
        return self

    def __len__(self) -> int:
        return len(self.offsets) - 1


AnyLatents = Float[Tensor, "*batch n_latents"] | SparseLatents | RaggedLatents


def ragged_from_dense(latents: Float[Tensor, "batch n_latents"]) -> RaggedLatents:
    """The positive entries of dense latents as compressed sparse rows."""
    rows, indices = (latents > 0).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(latents))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return RaggedLatents(latents[rows, indices], indices.int(), offsets, latents.shape[1])
