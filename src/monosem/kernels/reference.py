"""The kernels said plainly with dense matrices: what they are tested against.

Also what runs where there is no kernel; every operation exists on every device.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.kernels.dense import count_positive, policy_type
from monosem.kernels.pattern import Pattern


class Autoencoded(NamedTuple):
    """What a step of a ReLU autoencoder needs of its latents."""

    decoded: Float[Tensor, "batch d_out"]
    """Weighted sum of decoder rows, without a bias."""
    total: Float[Tensor, ""]
    """Sum of the latents over the batch."""
    firing: Int64[Tensor, " n_latents"]
    """On how many rows each latent is above zero."""


def pre_activations(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
) -> Float[Tensor, "batch n_latents"]:
    """All pre-activations."""
    return (x - centre) @ W_enc + b_enc


def encode_at(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
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


def autoencode(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
) -> Autoencoded:
    """Latents, all of them; in the policy's type, for they are the largest tensors of a step."""
    kind = policy_type(x)
    centred, encoder, decoder = (t.to(kind) for t in (x - centre, W_enc, W_dec))
    latents = torch.addmm(b_enc.to(kind), centred, encoder).relu()
    decoded, total = (latents @ decoder).to(x.dtype), latents.sum(dtype=x.dtype)
    return Autoencoded(decoded, total, count_positive(latents.detach()))
