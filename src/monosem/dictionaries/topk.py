"""TopK: keep the `k` largest latents of each row.

    pre     = (x - b_dec) @ W_enc + b_enc
    latents = relu(top_k(pre))
    x_hat   = latents @ W_dec + b_dec
    loss    = mse(x_hat, target) / variance + aux_weight * aux_k

`aux_k` asks the `k_aux` strongest dead latents to reconstruct what the living left over, so that the
dead learn (losses.py). The encoder starts as the decoder's transpose, scaled so that unit inputs give
unit outputs; `b_dec` at the geometric median; rows of `W_dec` stay unit vectors, and their gradients
perpendicular to them. Gao et al. 2024, arXiv:2406.04093, sections 2.3 and A.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary, DictionaryConfig, SparseLatents, TrainState
from monosem.dictionaries.config import at_least, at_most_latents
from monosem.dictionaries.geometry import geometric_median, remove_parallel_, unit_rows_
from monosem.dictionaries.losses import aux_k, auxiliary_k, mse
from monosem.kernels import dispatch
from monosem.kernels.dense import product
from monosem.kernels.encoder import encode_top_k
from monosem.kernels.pattern import Pattern

N_UNIT_INPUTS = 256
"""Random unit vectors on which the encoder's scale is measured."""


@dataclass(frozen=True, kw_only=True)
class TopKConfig(DictionaryConfig):
    """TopK's own knobs."""

    k: int = 32
    """Number of active latents a vector, at most."""
    k_aux: int = 0
    """Dead latents asked to help; 0 is the power of two nearest to `d_in / 2`."""
    aux_weight: float = 1 / 32
    """Weight of the dead latents' term; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Refuse a `k` that cannot be, and negative weights."""
        super().__post_init__()
        at_most_latents("k", self.k, self.n_latents)
        at_least("k_aux", self.k_aux, 0)
        at_least("aux_weight", self.aux_weight, 0)


class TopK(Dictionary[TopKConfig], name="topk", config=TopKConfig):
    """The dictionary of Gao et al."""

    loss_scale: ClassVar[str] = "mean over entries, divided by the variance of the data"

    variance: Tensor

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        d_in, d_out, n_latents = self.d_in, self.d_out, self.n_latents
        W_dec = torch.randn(n_latents, d_out, generator=generator)
        unit_rows_(W_dec)
        tied = d_in == d_out
        rows = W_dec.clone() if tied else torch.randn(n_latents, d_in, generator=generator)
        unit_rows_(rows)
        # one latent's encoder vector is contiguous in memory: the sparse kernels read it whole
        self.W_enc = nn.Parameter(rows.t())
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.register_buffer("variance", torch.ones(()))
        self._scale_encoder_(generator)

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
        pre, pattern = encode_top_k(x, self.centre, self.W_enc, self.b_enc, self.config.k)
        return SparseLatents(pre.relu(), pattern.indices, self.n_latents)

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse`, and `aux_k` of the dead."""
        pre, pattern = encode_top_k(x, self.centre, self.W_enc, self.b_enc, self.config.k)
        values = pre.relu()
        prediction = dispatch.decode(values, self.W_dec, pattern) + self.b_dec
        self._count(values, pattern)
        terms = {"mse": mse(prediction, target) / self.variance}
        if self.config.aux_weight > 0:
            aux = self._aux(x, (target - prediction).detach(), state)
            terms["aux_k"] = self.config.aux_weight * aux
        return terms

    @override
    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Put `b_dec` at the geometric median of the targets, and measure their variance."""
        with torch.no_grad():
            self.b_dec.copy_(geometric_median(target))
            self.variance.copy_(mse(target, target.mean(0).expand_as(target)))
        if not self.variance > 0:
            raise ConfigError(
                f"The sample of {len(target)} activations is constant: there is nothing to learn. "
                "Sample more of them, or choose another site."
            )

    @override
    def before_step_(self) -> None:
        """Keep the gradient of `W_dec` perpendicular to its rows."""
        if self.W_dec.grad is not None:
            remove_parallel_(self.W_dec.grad, self.W_dec.detach())

    @override
    def after_step_(self) -> None:
        """Make the rows of `W_dec` unit vectors again."""
        unit_rows_(self.W_dec.detach())

    @override
    def fold_(self, input_scale: float) -> None:
        """Scale the biases; rows must be unit vectors, or folding would change what is chosen."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1)
        if not bool(((norms - 1).abs() < 1e-3).all()):
            raise ConfigError(
                f"Rows of `W_dec` have norms {float(norms.min()):.4g} to {float(norms.max()):.4g}; "
                "`topk` folds only with unit rows. Call `after_step_()` first."
            )
        super().fold_(input_scale)
        self.variance.mul_(input_scale**2)

    def _aux(
        self,
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> Float[Tensor, ""]:
        k = self.config.k_aux or auxiliary_k(self.d_in)
        if x.device.type != "cpu":
            # which latents are dead stays on the device: asking would stop the host in each step
            pre = (x - self.centre) @ self.W_enc + self.b_enc
            return aux_k(pre.masked_fill(~state.dead, -torch.inf), self.W_dec, residual, k)
        dead = state.dead.nonzero()[:, 0]
        if len(dead) == 0:
            return residual.new_zeros(())
        columns = self.W_enc.t()[dead].t()
        pre = product(x - self.centre, columns).to(x.dtype) + self.b_enc[dead]
        return aux_k(pre, self.W_dec[dead], residual, k)

    def _count(self, values: Float[Tensor, "batch k"], pattern: Pattern) -> None:
        fired = (values.detach() > 0).flatten().long()
        counts = torch.zeros(self.n_latents, dtype=torch.int64, device=values.device)
        self.firing = counts.index_add_(0, pattern.indices.flatten(), fired)

    @torch.no_grad()
    def _scale_encoder_(self, generator: torch.Generator) -> None:
        x = torch.randn(N_UNIT_INPUTS, self.d_in, generator=generator)
        unit_rows_(x)
        norms = torch.linalg.vector_norm(self.decode(self.encode_sparse(x)), dim=1)
        self.W_enc.div_(norms.mean().clamp_min(1e-6))
