"""The sparse products said plainly with dense matrices: what the kernels are tested against.

Also what runs where there is no kernel; every operation exists on every device.
"""

from jaxtyping import Float
from torch import Tensor

from monosem.kernels.pattern import Pattern


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
) -> Float[Tensor, "batch k"]:
    """Pre-activations at the chosen places."""
    return pre_activations(x, centre, W_enc, b_enc).gather(1, pattern.indices.long())


def decode_at(
    values: Float[Tensor, "batch k"], W_dec: Float[Tensor, "n_latents d_out"], pattern: Pattern
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of decoder rows."""
    empty = values.new_zeros(len(values), pattern.n_latents)
    return empty.scatter_add(1, pattern.indices.long(), values) @ W_dec
