"""The kernels said plainly with dense matrices: what they are tested against.

Also what runs where there is no kernel; every operation exists on every device.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.kernels import parts
from monosem.kernels.dense import count_positive, policy_type, product
from monosem.kernels.pattern import Pattern
from monosem.kernels.select import largest_positive

FITTED_ROWS = 256
"""Rows of a batch that say at which scale the dead fit best."""
LEAST_SCALE, LARGEST_SCALE = 0.01, 100.0
"""Bounds of that scale; dead latents that point away from the residual would turn it round."""


class Autoencoded(NamedTuple):
    """What a step of a ReLU autoencoder needs of its latents."""

    decoded: Float[Tensor, "batch d_out"]
    """Weighted sum of decoder rows, without a bias."""
    total: Float[Tensor, ""]
    """Sum of the latents over the batch."""
    firing: Int64[Tensor, " n_latents"]
    """On how many rows each latent is above zero."""


class AutoencodedTwice(NamedTuple):
    """What a step of a gated autoencoder needs of its gates and latents."""

    decoded: Float[Tensor, "batch d_out"]
    """Decoder rows weighted by latents, without a bias."""
    of_gates: Float[Tensor, "batch d_out"]
    """The same rows weighted by open gates; they have no gradient of it."""
    total: Float[Tensor, ""]
    """Sum of the open gates over the batch."""
    firing: Int64[Tensor, " n_latents"]
    """On how many rows each latent is above zero."""


class Residual(NamedTuple):
    """What a reconstruction leaves of its target."""

    residual: Float[Tensor, "batch d_out"]
    """Target less reconstruction."""
    square: Float[Tensor, ""]
    """Sum of squares; a step is quickest where the loss sees only this."""


def pre_activations(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
) -> Float[Tensor, "batch n_latents"]:
    """All pre-activations."""
    return parts.plain_product(x - centre, W_enc) + b_enc


def encode_at(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    pattern: Pattern,
) -> Float[Tensor, "*entries"]:
    """Pre-activations at the chosen places."""
    pre = pre_activations(x, centre, W_enc, b_enc)
    return pre[pattern.rows, pattern.indices.flatten()].view(pattern.indices.shape)


def decode_at(
    values: Float[Tensor, "*entries"], W_dec: Float[Tensor, "n_latents d_out"], pattern: Pattern
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of decoder rows."""
    empty = values.new_zeros(len(pattern), pattern.n_latents)
    places = pattern.rows, pattern.indices.flatten()
    return empty.index_put(places, values.flatten(), accumulate=True) @ W_dec


def residual_at(
    values: Float[Tensor, "*entries"],
    W_dec: Float[Tensor, "n_latents d_out"],
    b_dec: Float[Tensor, " d_out"],
    pattern: Pattern,
    target: Float[Tensor, "batch d_out"],
) -> Residual:
    """Target less weighted sum of decoder rows and bias; of rows in pieces, each prefix of the pieces."""
    return residual_of(decode_at(values, W_dec, pattern), b_dec, target)


def residual_of(
    pieces: Float[Tensor, "rows d_out"],
    b_dec: Float[Tensor, " d_out"],
    target: Float[Tensor, "batch d_out"],
) -> Residual:
    """The same of pieces that were decoded."""
    prefixes = pieces.view(len(target), -1, target.shape[1]).cumsum(1)
    residuals = target[:, None] - (prefixes + b_dec)
    return Residual(residuals[:, -1], residuals.square().sum())


def dead_error(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
    dead: Bool[Tensor, " n_latents"],
    residual: Float[Tensor, "batch d_out"],
    k: int,
    *,
    fit: bool,
) -> Float[Tensor, ""]:
    """How badly the `k` strongest dead latents of each row reconstruct what the living left over.

        y = relu(top_k(pre of dead latents)) @ W_dec        e = residual
        ‖scale * y - e‖² / ‖e - mean of e‖², 0 where all rows of e are alike, NaN -> 0

    `pre` carries the gradient to the encoder vectors of the dead; the residual carries none. `scale`
    is 1, or with `fit` what brings `y` nearest to `e`. Whether rows are alike is decided before
    dividing, so that no gradient is ever NaN. Gao et al. 2024, arXiv:2406.04093, section A.2.
    """
    residual = residual.detach()
    latents = pre_activations(x, centre, W_enc, b_enc).masked_fill(~dead, -torch.inf).relu()
    if k < len(dead):
        places = largest_positive(latents.detach(), k)
        latents = torch.zeros_like(latents).scatter(1, places, latents.gather(1, places))
    return share_left(product(latents, W_dec).to(W_dec.dtype), residual, fit=fit)


def share_left(
    found: Float[Tensor, "batch d_out"], residual: Float[Tensor, "batch d_out"], *, fit: bool
) -> Float[Tensor, ""]:
    """The last line of `dead_error`'s formula, of the dead's `found` reconstruction."""
    scale = fitted_scale(found.detach(), residual) if fit else 1.0
    error = (scale * found - residual).square().sum()
    spread = (residual - residual.mean(0)).square().sum()
    alike = spread <= torch.finfo(spread.dtype).tiny
    shown = torch.where(alike, 0 * error, error / torch.where(alike, 1.0, spread))
    return shown.nan_to_num(0.0, 0.0, 0.0)


def fitted_scale(
    found: Float[Tensor, "batch d_out"], wanted: Float[Tensor, "batch d_out"]
) -> Float[Tensor, ""]:
    """What to multiply `found` by, that it comes nearest to `wanted`; a few rows, in no order, say it."""
    found, wanted = found[:FITTED_ROWS], wanted[:FITTED_ROWS]
    return scale_of((found * wanted).sum(), found.square().sum())


def scale_of(along: Float[Tensor, ""], square: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """`along / square`, within bounds; 1 where there is nothing to scale."""
    silent = square <= torch.finfo(square.dtype).tiny
    scale = along / torch.where(silent, 1.0, square)
    return torch.where(silent, 1.0, scale.clamp(LEAST_SCALE, LARGEST_SCALE))


def autoencode_gated(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    r_mag: Float[Tensor, " n_latents"],
    b_mag: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
) -> AutoencodedTwice:
    """Gates and latents, all of them."""
    pi = parts.product(x - centre, W_enc).to(x.dtype)
    gate = (pi + b_enc).relu()
    latents = (gate.detach() > 0) * (r_mag.exp() * pi + b_mag).relu()
    decoded = product(latents, W_dec).to(x.dtype)
    of_gates = product(gate, W_dec.detach()).to(x.dtype)
    return AutoencodedTwice(decoded, of_gates, gate.sum(), count_positive(latents.detach()))


def autoencode(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
) -> Autoencoded:
    """Latents, all of them; in the policy's type, for they are the largest tensors of a step."""
    kind = policy_type(x)
    centred, encoder, bias, decoder = (t.to(kind) for t in (x - centre, W_enc, b_enc, W_dec))
    latents = parts.pre_activations(centred, encoder, bias).relu()
    decoded, total = (latents @ decoder).to(x.dtype), latents.sum(dtype=x.dtype)
    return Autoencoded(decoded, total, count_positive(latents.detach()))
