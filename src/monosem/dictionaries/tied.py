"""Tied: the encoder is the decoder's transpose, and there is no bias but the encoder's.

    latents = relu(x @ W_dec.T + b_enc)
    x_hat   = latents @ W_dec
    loss    = mse(x_hat, target) + l1 * mean over the batch of Σ latents

Rows of `W_dec` are unit vectors (unit_norm.py). Cunningham et al. 2023, arXiv:2309.08600, section 2.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import RaggedLatents, TrainState
from monosem.dictionaries.coefficient import Coefficient, PenaltyConfig
from monosem.dictionaries.geometry import directions, geometric_median
from monosem.dictionaries.latents import ragged_from_dense
from monosem.dictionaries.losses import mse
from monosem.dictionaries.start import sparse_start
from monosem.dictionaries.unit_norm import UnitNorm
from monosem.kernels import dispatch
from monosem.kernels.dense import count_products_above_zero, product


@dataclass(frozen=True, kw_only=True)
class TiedConfig(PenaltyConfig):
    """The tied dictionary has no knobs but those of its penalty."""

    def __post_init__(self) -> None:
        """Refuse sites whose scales could not be folded into one matrix."""
        super().__post_init__()
        if self.wiring.kind != "sae":
            raise ConfigError(
                f"A tied dictionary reads and writes one site with one matrix; it cannot be wired as a "
                f"`{self.wiring.kind}`. Choose `relu`."
            )

    @override
    def with_widths(self, d_in: int, d_out: int) -> "TiedConfig":
        """The same configuration for a site of this width."""
        if d_in != d_out:
            raise ConfigError(
                f"A tied dictionary reconstructs what it reads, but the widths are {d_in} and {d_out}. "
                "Use it at one site, or choose `relu`."
            )
        return super().with_widths(d_in, d_out)


class Tied(UnitNorm[TiedConfig], name="tied", config=TiedConfig):
    """The dictionary of Cunningham et al."""

    loss_scale: ClassVar[str] = "mean over entries"

    def __init__(self, config: TiedConfig) -> None:
        super().__init__(config)
        self.conventions = dataclasses.replace(self.conventions, subtract_b_dec=False)
        generator = torch.Generator().manual_seed(config.seed)
        self.W_dec = nn.Parameter(directions(self.d_in, self.d_in, self.n_latents, generator)[1])
        self.b_enc = nn.Parameter(torch.zeros(self.n_latents))
        self.register_buffer("b_dec", torch.zeros(self.d_out), persistent=False)
        self.coefficient = Coefficient(self.config)

    @property
    def W_enc(  # noqa: N802  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> Float[Tensor, "d_in n_latents"]:
        """The decoder's transpose: the same memory."""
        return self.W_dec.t()

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`."""
        self.check_width(x)
        return (product(x, self.W_enc).to(self.b_enc.dtype) + self.b_enc).relu()

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> RaggedLatents:
        """The positive latents of `x`."""
        return ragged_from_dense(self.encode(x))

    @override
    def firings(self, x: Float[Tensor, "batch d_in"]) -> Int64[Tensor, " n_latents"]:
        """The same count, without a list of entries that nobody reads."""
        self.check_width(x)
        return count_products_above_zero(x, self.W_enc, self.b_enc)

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse` and `l1`."""
        seen = dispatch.autoencode(x, self.centre, self.W_enc, self.b_enc, self.W_dec)
        self.firing = seen.firing
        weight = self.coefficient(seen.firing.sum() / len(x), state)
        return {"mse": mse(seen.decoded, target), "l1": weight * seen.total / len(x)}

    @override
    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Put `b_enc` where few latents are active."""
        if self.config.l1 is None:
            middle = geometric_median(x)
            centred, weights = x - middle, (self.W_enc, self.W_dec, self.config.l0)
            start = sparse_start(centred, centred, *weights, subtract=True, same=True)
            with torch.no_grad():
                self.b_enc.copy_(-start.bound - middle @ self.W_enc)

    @override
    def fold_(self, input_scale: float) -> None:
        """Scale the bias; rows must be unit vectors, for their norm cannot move into the encoder."""
        self.check_unit_rows()
        self.b_enc.mul_(input_scale)
