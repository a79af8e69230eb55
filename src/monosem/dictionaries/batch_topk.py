"""BatchTopK: keep the `k * batch` largest latents of a batch, so that rows share their k out.

    pre       = (x - b_dec) @ W_enc + b_enc
    latents   = relu(pre) where it is among the k * batch largest of the batch          in training
    latents   = pre where pre >= threshold                                              ever after
    threshold = running mean over batches of the smallest latent that was kept
    x_hat     = latents @ W_dec + b_dec
    loss      = mse(x_hat, target) / variance + aux_weight * aux_k

What a row keeps in training depends on its batch; the threshold makes it depend on the row alone.
How it starts and how the dead learn: auxiliary.py. Bussmann et al. 2024, arXiv:2412.06410, section 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from monosem.dictionaries.auxiliary import Auxiliary, AuxiliaryConfig
from monosem.dictionaries.base import RaggedLatents, TrainState
from monosem.dictionaries.config import share
from monosem.dictionaries.latents import ragged_from_dense
from monosem.dictionaries.selection import batch_top_k
from monosem.kernels import parts, shared
from monosem.kernels.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(AuxiliaryConfig):
    """BatchTopK's own knobs."""

    threshold_memory: float = 0.02
    """Share of the run over which the threshold is averaged: short enough to follow the learning rate
    down, long enough to smooth batches. A number of steps, as elsewhere (1,000), would be most of a
    short run."""

    def __post_init__(self) -> None:
        """Refuse a memory that is not a share."""
        super().__post_init__()
        share("threshold_memory", self.threshold_memory)


class BatchTopK(Auxiliary[BatchTopKConfig], name="batch_topk", config=BatchTopKConfig):
    """The dictionary of Bussmann et al."""

    threshold: Tensor

    def __init__(self, config: BatchTopKConfig) -> None:
        super().__init__(config)
        # until a batch was seen all positive latents count
        self.register_buffer("threshold", torch.zeros(()))

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x` that reach the threshold."""
        self.check_width(x)
        flat = (x - self.centre).reshape(-1, self.d_in)
        pre = parts.pre_activations(flat, self.W_enc, self.b_enc).relu()
        return (pre * (pre >= self.threshold)).reshape(*x.shape[:-1], self.n_latents)

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> RaggedLatents:
        """The latents of `x` that reach the threshold."""
        return ragged_from_dense(self.encode(x))

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse`, and `aux_k` of the dead; the threshold learns on the way."""
        latents, pattern = self.chosen(x, state)
        residual, error = self.residual(latents, pattern, target)
        return {"mse": error / self.variance} | self.aux_terms(x, residual, state)

    @override
    def fold_(self, input_scale: float) -> None:
        """Scale the biases and the threshold."""
        super().fold_(input_scale)
        self.threshold.mul_(input_scale)

    def chosen(
        self, x: Float[Tensor, "batch d_in"], state: TrainState
    ) -> tuple[Float[Tensor, " entries"], Pattern]:
        """The latents that training keeps of this batch; the threshold follows the smallest."""
        k, ranks = self.config.k, state.ranks
        most = min(k * ranks.size, self.n_latents)  # all that are chosen may be of one rank's rows
        pre, pattern = batch_top_k(x, self.centre, self.W_enc, self.b_enc, most)
        if ranks.size > 1:
            n = k * ranks.size * len(x)
            pre, pattern = shared.batch_largest(pre, pattern, n, ranks, self.n_latents)
        latents = pre.relu()
        self._follow_(latents.detach(), state)
        return latents, pattern

    @torch.no_grad()
    def _follow_(self, kept: Float[Tensor, " entries"], state: TrainState) -> None:
        none = kept.new_full((), torch.inf)
        smallest = torch.where(kept > 0, kept, torch.inf).amin() if kept.numel() else none
        smallest = state.ranks.smallest_(smallest)
        smallest = torch.where(smallest.isfinite(), smallest, self.threshold)
        memory = self.config.threshold_memory * state.n_steps
        self.threshold.lerp_(smallest, 1 / (1 + min(float(state.step), memory)))
