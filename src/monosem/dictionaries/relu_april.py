"""ReLU with free decoder norms and a penalty that knows them: the recipe of April 2024.

    latents = relu(x @ W_enc + b_enc)
    x_hat   = latents @ W_dec + b_dec
    loss    = mse(x_hat, target) + l1 * mean over the batch of Σ latents[i] * ‖W_dec[i]‖

Long rows do not dodge this penalty, so that nothing needs to keep them short, and nothing is resampled.
`b_dec` is not subtracted from the input. The encoder starts as the decoder's transpose; where `l1` is
given rows have a norm of 0.1 and biases are zero, as in the recipe. Conerly et al. 2024,
transformer-circuits.pub/2024/april-update, "Update on how we train SAEs".
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from monosem.dictionaries.base import Dictionary, RaggedLatents, TrainState
from monosem.dictionaries.coefficient import Coefficient, PenaltyConfig
from monosem.dictionaries.geometry import directions, geometric_median
from monosem.dictionaries.latents import ragged_from_dense
from monosem.dictionaries.losses import mse
from monosem.dictionaries.start import sparse_start
from monosem.kernels import layers, parts
from monosem.kernels.dense import count_products_above_zero

START_NORM = 0.1
"""Norm of the decoder rows at the start of the recipe."""


@dataclass(frozen=True, kw_only=True)
class ReLUAprilConfig(PenaltyConfig):
    """The recipe has no knobs but those of its penalty.

    Its `l1` is 5 beside the sum over entries, which is 5 / d_in here, and its `l1_warmup` 0.05.
    """


class ReLUApril(Dictionary[ReLUAprilConfig], name="relu_april", config=ReLUAprilConfig):
    """The dictionary of the April update."""

    loss_scale: ClassVar[str] = "mean over entries"

    def __init__(self, config: ReLUAprilConfig) -> None:
        super().__init__(config)
        self.conventions = dataclasses.replace(self.conventions, subtract_b_dec=False)
        generator = torch.Generator().manual_seed(config.seed)
        W_enc, W_dec = directions(self.d_read, self.d_out, self.n_latents, generator)
        # Adam's steps are as long for all weights: for rows of 0.1 they are large
        norm = 1.0 if config.l1 is None else START_NORM
        self.W_enc = nn.Parameter(W_enc.mul_(norm))
        self.b_enc = nn.Parameter(torch.zeros(self.n_latents))
        self.keep_decoder_(W_dec.mul_(norm))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.coefficient = Coefficient(self.config)

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`."""
        self.check_width(x)
        return (parts.product(x, self.W_enc).to(self.b_enc.dtype) + self.b_enc).relu()

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
        norms = self.row_norms()
        norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
        # the same dictionary with unit rows, whose latents carry the norms, and a plain sum of them
        W_enc, b_enc = self.W_enc * norms, self.b_enc * norms
        each = zip(self.decoders, layers.latents_of(self.decoders), strict=True)
        unit = [rows / norms[latents, None] for rows, latents in each]
        seen = layers.autoencode(x, self.centre, W_enc, b_enc, unit)
        self.firing = seen.firing
        weight = self.coefficient(seen.firing.sum() / len(x), state)
        return {
            "mse": mse(seen.decoded + self.b_dec, target),
            "l1": weight * seen.total / len(x),
        }

    @override
    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Put `b_dec` at the geometric median and `b_enc` where few latents are active."""
        if self.config.l1 is not None:
            return
        with torch.no_grad():
            self.b_dec.copy_(geometric_median(target))
            middle = geometric_median(x)
            weights = self.W_enc, self.W_dec, self.config.l0
            centred, same = (x - middle, target - self.b_dec), self.writes_what_it_reads
            start = sparse_start(*centred, *weights, subtract=True, same=same)
            self.W_enc.copy_(start.scale * start.columns)
            self.b_enc.copy_(-start.scale * start.bound - parts.plain_product(middle, self.W_enc))
