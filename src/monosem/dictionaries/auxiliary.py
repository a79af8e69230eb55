"""What the TopK kinds share: how they start, and a loss from which dead latents learn.

    W_enc, W_dec   the same random unit vectors, W_enc scaled so that unit inputs give unit outputs,
                   but no longer than LONGEST (start.py)
    b_dec          the geometric median of the data
    loss           mse(x_hat, target) / variance + aux_weight * aux_k
    aux_k          ‖scale * relu(top_k_aux(pre of the dead)) @ W_dec - e‖² / ‖e - mean of e‖²
    e              target - x_hat, what the living left over; it carries no gradient

`aux_k` asks the `k_aux` strongest dead latents to reconstruct `e`. In the paper `scale` is 1. But latents
that only just died are as strong as the living, and `e` is small: what such a loss teaches them first
is to be silent, and in short runs many more are dead with it than without. So `scale` is what suits
them best, one number a batch: they learn directions, and are not pushed down (`aux_fit`).
Gao et al. 2024, arXiv:2406.04093, sections A.1 and A.2.
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from monosem.dictionaries.base import DictionaryConfig, TrainState
from monosem.dictionaries.config import at_least, at_most_latents
from monosem.dictionaries.geometry import directions, unit_rows_
from monosem.dictionaries.losses import auxiliary_k, variance
from monosem.dictionaries.selection import top_k
from monosem.dictionaries.start import LONGEST
from monosem.dictionaries.unit_norm import UnitNorm
from monosem.kernels import layers, shared
from monosem.kernels.pattern import Pattern

N_UNIT_INPUTS = 256
"""Random unit vectors on which the encoder's scale is measured."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig(DictionaryConfig):
    """Knobs that all TopK kinds have."""

    k: int = 32
    """Number of active latents a vector, at most."""
    k_aux: int = 0
    """Dead latents asked to help; 0 is the power of two nearest to `d_in / 2`."""
    aux_weight: float = 1 / 32
    """Weight of the dead latents' term; 0 leaves it out."""
    aux_fit: bool = True
    """Whether the dead are held to the residual at the scale that suits them best. The paper's way,
    False, left 166 latents of 4,096 dead after 500 steps where this left 1 (`batch_topk`: 579 and 1)."""

    def __post_init__(self) -> None:
        """Refuse a `k` that cannot be, and negative weights."""
        super().__post_init__()
        at_most_latents("k", self.k, self.n_latents)
        at_least("k_aux", self.k_aux, 0)
        at_least("aux_weight", self.aux_weight, 0)


A = TypeVar("A", bound=AuxiliaryConfig)


class Auxiliary(UnitNorm[A], Generic[A]):
    """What the TopK kinds share; none itself."""

    loss_scale: ClassVar[str] = "mean over entries, divided by the variance of the data"

    variance: Tensor

    def __init__(self, config: A) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        W_enc, W_dec = directions(self.d_read, self.d_out, self.n_latents, generator)
        self.W_enc = nn.Parameter(W_enc)
        self.b_enc = nn.Parameter(torch.zeros(self.n_latents))
        self.keep_decoder_(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.register_buffer("variance", torch.ones(()))
        self._scale_encoder_(generator)

    @override
    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Put `b_dec` at the geometric median of the targets, and measure their variance."""
        super().initialise_(x, target)
        with torch.no_grad():
            self.variance.copy_(variance(target))

    @override
    def fold_(self, input_scale: float) -> None:
        """Scale the biases; rows must be unit vectors, or folding would change what is chosen."""
        if self.conventions.unit_rows:
            self.check_unit_rows()
            super().fold_(input_scale)
        else:
            self.b_enc.mul_(input_scale)
            self.b_dec.mul_(input_scale)
        self.variance.mul_(input_scale**2)

    def residual(
        self,
        latents: Float[Tensor, "*entries"],
        pattern: Pattern,
        target: Float[Tensor, "batch d_out"],
    ) -> tuple[Float[Tensor, "batch d_out"], Float[Tensor, ""]]:
        """What the chosen latents leave of `target`, and its mean square; counts who fired."""
        self.count(latents, pattern)
        left = layers.residual(latents, self.decoders, self.b_dec, pattern, target)
        return left.residual, left.square / target.numel()

    def count(self, latents: Float[Tensor, "*entries"], pattern: Pattern) -> None:
        """Note on how many rows each latent fired."""
        fired = (latents.detach() > 0).flatten().long()
        counts = torch.zeros(self.n_latents, dtype=torch.int64, device=latents.device)
        self.firing = counts.index_add_(0, pattern.indices.flatten(), fired)

    def aux_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`aux_k` of the dead, weighted; nothing where it has no weight."""
        if self.config.aux_weight == 0:
            return {}
        return {"aux_k": self.config.aux_weight * self._aux_k(x, residual.detach(), state)}

    def _aux_k(
        self,
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> Float[Tensor, ""]:
        k = self.config.k_aux or auxiliary_k(self.d_in)
        weights = self.centre, self.W_enc, self.b_enc, self.decoders
        fit, ranks = self.config.aux_fit, state.ranks
        if ranks.size > 1:
            whole = self.centre, self.encoder(), self.b_enc, self.W_dec
            return shared.dead_error(x, *whole, state.dead, residual, k, fit=fit, rows=ranks)
        return layers.dead_error(x, *weights, state.dead, residual, k, fit=fit)

    @torch.no_grad()
    def _scale_encoder_(self, generator: torch.Generator) -> None:
        x = torch.randn(N_UNIT_INPUTS, self.d_in, generator=generator)
        unit_rows_(x)
        pre, pattern = top_k(x, self.centre, self.W_enc, self.b_enc, self.config.k)
        x_hat = layers.decode(pre.relu(), self.decoders, pattern)
        norms = torch.linalg.vector_norm(x_hat, dim=1)
        self.W_enc.mul_(norms.mean().clamp_min(1e-6).reciprocal().clamp_max(LONGEST))
