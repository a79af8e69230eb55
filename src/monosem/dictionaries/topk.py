"""TopK: keep the `k` largest latents of each row.

    pre     = (x - b_dec) @ W_enc + b_enc
    latents = relu(top_k(pre))
    x_hat   = latents @ W_dec + b_dec
    loss    = mse(x_hat, target) / variance + aux_weight * aux_k

With `multi_weight` the same loss is asked of the 4k largest too (Multi-TopK), after which k may be
chosen anew at any time:

    loss   += multi_weight * mse(relu(top_4k(pre)) @ W_dec + b_dec, target) / variance

How it starts and how the dead learn: auxiliary.py; unit rows of `W_dec`: unit_norm.py. Gao et al. 2024,
arXiv:2406.04093, sections 2.3, A, and 5.3 (Multi-TopK).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from monosem.dictionaries.auxiliary import Auxiliary, AuxiliaryConfig
from monosem.dictionaries.base import SparseLatents, TrainState
from monosem.dictionaries.config import at_least
from monosem.dictionaries.selection import top_k
from monosem.kernels.pattern import Pattern, even

MULTI = 4
"""How many times `k` latents Multi-TopK keeps beside the `k`."""


@dataclass(frozen=True, kw_only=True)
class TopKConfig(AuxiliaryConfig):
    """TopK's own knobs."""

    multi_weight: float = 0.0
    """Weight of the error that 4k latents leave, 1/8 in the paper; 0 leaves Multi-TopK out."""

    def __post_init__(self) -> None:
        """Refuse a negative weight."""
        super().__post_init__()
        at_least("multi_weight", self.multi_weight, 0)


class TopK(Auxiliary[TopKConfig], name="topk", config=TopKConfig):
    """The dictionary of Gao et al."""

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`, zeros included."""
        self.check_width(x)
        flat = x.reshape(-1, self.d_in)
        return self.encode_sparse(flat).dense().reshape(*x.shape[:-1], self.n_latents)

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        """The `k` chosen latents of each row; those that were not positive have value zero."""
        self.check_width(x)
        latents, pattern = self._chosen(x, self.config.k)
        return SparseLatents(latents, pattern.indices, self.n_latents)

    @override
    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction of `x`, or of its target, from `k` rows of the decoder each."""
        self.check_width(x)
        flat = x.reshape(-1, self.d_in)
        made = self.reconstruct(flat, self.encode_sparse(flat))
        return made.reshape(*x.shape[:-1], self.d_out)

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse`, `multi` if it has a weight, and `aux_k` of the dead."""
        terms: dict[str, Float[Tensor, ""]] = {}
        k, weight = self.config.k, self.config.multi_weight
        if weight == 0:
            latents, pattern = self._chosen(x, k)
        else:
            many, wide = self._chosen(x, min(MULTI * k, self.n_latents))
            terms["multi"] = weight * self.residual(many, wide, target)[1] / self.variance
            latents, pattern = _largest(many, wide, k)
        residual, error = self.residual(latents, pattern, target)
        terms["mse"] = error / self.variance
        return terms | self.aux_terms(x, residual, state)

    def _chosen(
        self, x: Float[Tensor, "batch d_in"], k: int
    ) -> tuple[Float[Tensor, "batch k"], Pattern]:
        pre, pattern = top_k(x, self.centre, self.W_enc, self.b_enc, k)
        return pre.relu(), pattern


def _largest(
    latents: Float[Tensor, "batch many"], pattern: Pattern, k: int
) -> tuple[Float[Tensor, "batch k"], Pattern]:
    """The `k` largest of the latents that were chosen already."""
    places = torch.topk(latents.detach(), k, dim=1, sorted=False).indices
    return latents.gather(1, places), even(pattern.indices.gather(1, places), pattern.n_latents)
