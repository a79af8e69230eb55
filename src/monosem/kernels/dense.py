"""Dense products under the matmul policy, for dictionaries whose latents are computed all at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.runtime import matmul


def product(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, "d n"]
) -> Float[Tensor, "*batch n"]:
    """`x @ weight`; rounded to bfloat16, result included, where the policy says so.

    Gradients reach the fp32 weights through the same rounded products.
    """
    if matmul.current() != "bf16" or x.dtype != torch.float32:
        return x @ weight
    return x.bfloat16() @ weight.bfloat16()
