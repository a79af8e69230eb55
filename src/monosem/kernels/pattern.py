"""Pattern: which latents the rows of a batch use, and the same seen from the latents.

Both the encoder's and the decoder's gradients add rows up by latent, so the sort that turns the
pattern round is made once and kept.
"""

from dataclasses import dataclass
from functools import cached_property

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
    starts: Int32[Tensor, " n_latents"]
    """Where the entries of each latent begin."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """`k` latents out of `n_latents` in each row of a batch."""

    indices: Int32[Tensor, "batch k"]
    n_latents: int

    @cached_property
    def row_starts(self) -> Int32[Tensor, " batch_and_one"]:
        """Where each row begins, as compressed sparse rows need it."""
        batch, k = self.indices.shape
        return torch.arange(0, batch * k + 1, k, dtype=torch.int32, device=self.indices.device)

    @cached_property
    def transposed(self) -> Transposed:
        """The pattern seen from the latents."""
        flat = self.indices.flatten()
        order = flat.sort(stable=True).indices
        counts = torch.bincount(flat, minlength=self.n_latents)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
        return Transposed(order, (order // self.indices.shape[1]).int(), starts.int())
