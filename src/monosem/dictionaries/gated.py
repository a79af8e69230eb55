"""Gated: one half of the encoder decides which latents are active, the other says how much.

    pi      = (x - b_dec) @ W_enc
    gate    = pi + b_enc                                                  (the paper's b_gate)
    latents = (gate > 0) * relu(exp(r_mag) * pi + b_mag)
    x_hat   = latents @ W_dec + b_dec
    loss    = mse(x_hat, target)
            + l1 * mean over the batch of Σ relu(gate)
            + mse(relu(gate) @ W_dec.detach() + b_dec.detach(), target)

The penalty bears on the gate alone, so that it does not shrink the latents; the last term keeps the
gate, which the step function hides from `x_hat`, in touch with the data, and the decoder is frozen in
it lest it serve two masters. `r_mag` and the biases start at zero, the encoder as the decoder's
transpose; where `l1` is steered, biases leave few latents active, and encoder vectors are no longer than
LONGEST (start.py). Rows of `W_dec` are unit vectors (unit_norm.py). Rajamanoharan et al. 2024,
arXiv:2404.16014, section 3.2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from monosem.dictionaries.base import RaggedLatents, TrainState
from monosem.dictionaries.coefficient import Coefficient, PenaltyConfig
from monosem.dictionaries.geometry import directions
from monosem.dictionaries.latents import ragged_from_dense
from monosem.dictionaries.losses import mse
from monosem.dictionaries.start import LONGEST, sparse_start
from monosem.dictionaries.unit_norm import UnitNorm
from monosem.kernels import layers, parts


@dataclass(frozen=True, kw_only=True)
class GatedConfig(PenaltyConfig):
    """The gated dictionary has no knobs but those of its penalty."""


class Gated(UnitNorm[GatedConfig], name="gated", config=GatedConfig):
    """The dictionary of Rajamanoharan et al., first of two."""

    loss_scale: ClassVar[str] = "mean over entries"

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        W_enc, W_dec = directions(self.d_read, self.d_out, self.n_latents, generator)
        self.W_enc = nn.Parameter(W_enc)
        self.b_enc = nn.Parameter(torch.zeros(self.n_latents))
        self.r_mag = nn.Parameter(torch.zeros(self.n_latents))
        self.b_mag = nn.Parameter(torch.zeros(self.n_latents))
        self.keep_decoder_(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.coefficient = Coefficient(self.config)

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`."""
        self.check_width(x)
        pi = parts.product(x - self.centre, self.W_enc).to(x.dtype)
        return (pi + self.b_enc > 0) * (self.r_mag.exp() * pi + self.b_mag).relu()

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> RaggedLatents:
        """The positive latents of `x`."""
        return ragged_from_dense(self.encode(x))

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse`, `l1`, and `gate_mse` of what the gates alone would reconstruct."""
        magnitudes = self.r_mag, self.b_mag
        seen = layers.autoencode_gated(
            x, self.centre, self.W_enc, self.b_enc, *magnitudes, self.decoders
        )
        self.firing = seen.firing
        weight = self.coefficient(self.firing.sum() / len(x), state)
        x_hat, frozen = seen.decoded + self.b_dec, seen.of_gates + self.b_dec.detach()
        return {
            "mse": mse(x_hat, target),
            "l1": weight * seen.total / len(x),
            "gate_mse": mse(frozen, target),
        }

    @override
    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Put `b_dec` at the geometric median, and both biases where few latents are active."""
        super().initialise_(x, target)
        if self.config.l1 is not None:
            return
        with torch.no_grad():
            centred = x - self.centre, target - self.b_dec
            weights, same = (self.W_enc, self.W_dec, self.config.l0), self.writes_what_it_reads
            start = sparse_start(*centred, *weights, subtract=True, same=same, longest=LONGEST)
            self.W_enc.copy_(start.scale * start.columns)
            self.b_enc.fill_(-start.scale * start.bound)
            self.b_mag.fill_(-start.scale * start.bound)

    @override
    def fold_(self, input_scale: float) -> None:
        """Scale the biases, that of the magnitudes too, by what their latents are scaled by."""
        norms = self.row_norms()
        self.b_mag.mul_(torch.where(norms > 0, norms, 1.0) * input_scale)
        super().fold_(input_scale)
