"""Pattern: which latents the rows of a batch use, and the same seen from the latents.

Rows are compressed: each may use as many latents as it likes. Both the encoder's and the decoder's
gradients add rows up by latent, so the sort that turns the pattern round is made once and kept.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Transposed:
    """Entries of a pattern in the order of their latents."""

    order: Int64[Tensor, " entries"]
    """Entries of the pattern, flattened, sorted by latent."""
    rows: Int32[Tensor, " entries"]
    """Row of each entry in that order."""
    starts: Int32[Tensor, " n_latents_and_one"]
    """Where the entries of each latent begin; the last one is where the last latent's end."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Latents of each row of a batch; values at a pattern have the shape of its `indices`."""

    indices: Int32[Tensor, "*entries"]
    """`[entries]`, row after row; `[batch k]` where each row has `k`."""
    row_starts: Int32[Tensor, " batch_and_one"]
    """Where each row begins among the entries; the last one is where the last row ends."""
    n_latents: int

    @cached_property
    def rows(self) -> Int32[Tensor, " entries"]:
        """Row of each entry."""
        counts = self.row_starts.diff()
        rows = torch.arange(len(counts), dtype=torch.int32, device=counts.device)
        return rows.repeat_interleave(counts, output_size=self.indices.numel())

    @cached_property
    def transposed(self) -> Transposed:
        """The pattern seen from the latents."""
        flat = self.indices.flatten()
        if flat.device.type == "cpu":
            order = stable_order(flat, self.n_latents)
            counts = torch.bincount(flat, minlength=self.n_latents)
            starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        else:  # counting asks a GPU for the largest index; searching does not
            latents, order = flat.sort(stable=True)
            starts = starts_of(latents, self.n_latents)
        return Transposed(order, self.rows.index_select(0, order), starts)

    def __len__(self) -> int:
        return len(self.row_starts) - 1


def even(indices: Int32[Tensor, "batch k"], n_latents: int) -> Pattern:
    """The pattern in which each row has `k` latents."""
    batch, k = indices.shape
    starts = torch.arange(batch + 1, dtype=torch.int32, device=indices.device) * k
    return Pattern(indices, starts, n_latents)


def stable_order(latents: Int32[Tensor, " entries"], n_latents: int) -> Int64[Tensor, " entries"]:
    """Where the entries of each latent are, latent by latent.

    NumPy sorts 16 bits by counting: two to thirteen times as fast as torch's sort, which compares below
    32,768 entries, and whose threads wait for each other above.
    """
    keys = latents.numpy()
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if n_latents > 2**16:  # the lower bits come first: the sort is stable
        order = order[np.argsort((keys >> 16).astype(np.uint16)[order], kind="stable")]
    return torch.from_numpy(order)


def starts_of(
    latents: Int32[Tensor, " entries"], n_latents: int
) -> Int32[Tensor, " n_latents_and_one"]:
    """Where each latent begins among sorted ones."""
    firsts = torch.arange(n_latents + 1, dtype=torch.int32, device=latents.device)
    return torch.searchsorted(latents, firsts, out_int32=True)


def at_places(places: Int64[Tensor, " entries"], batch: int, n_latents: int) -> Pattern:
    """The pattern of sorted places in a flattened `[batch n_latents]`."""
    firsts = torch.arange(batch + 1, device=places.device) * n_latents
    starts = torch.searchsorted(places, firsts)
    return Pattern((places % n_latents).int(), starts.int(), n_latents)
