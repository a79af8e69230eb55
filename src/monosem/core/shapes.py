"""Axis legend of the whole library, and the tensor aliases used in signatures.

    batch      vectors in a batch                 n_latents  latents of a dictionary
    pos        positions in a context             n_heads    attention heads
    d_in       width of what a dictionary reads   d_head     width of one head
    d_out      width of what it reconstructs      vocab      tokens of the vocabulary
    n_sites    sites read or written at once      k          active latents kept a token

Annotations are jaxtyping's; the tests check every one of them at run time.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Activations = Float[Tensor, "*batch d_in"]
Targets = Float[Tensor, "*batch d_out"]
Latents = Float[Tensor, "*batch n_latents"]
TokenIds = Int[Tensor, "batch pos"]
TokenMask = Bool[Tensor, "batch pos"]
Scalar = Float[Tensor, ""]

__all__ = ["Activations", "Latents", "Scalar", "Targets", "TokenIds", "TokenMask"]
