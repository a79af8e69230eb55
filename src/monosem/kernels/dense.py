"""Dense products under the matmul policy, for dictionaries whose latents are computed all at once."""

import torch
from jaxtyping import Float, Int64
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


def policy_type(x: Float[Tensor, "..."]) -> torch.dtype:
    """The type in which large dense latents of `x` are best kept during a step."""
    return torch.bfloat16 if matmul.current() == "bf16" and x.dtype == torch.float32 else x.dtype


def count_positive(latents: Float[Tensor, "batch n_latents"]) -> Int64[Tensor, " n_latents"]:
    """On how many rows each latent is above zero."""
    positive = latents > 0
    if latents.device.type != "cpu":
        return positive.sum(0)
    counts = torch.zeros(latents.shape[1], dtype=torch.int64)
    for rows in positive.view(torch.uint8).split(255):  # a byte holds the count: six times as fast
        counts += rows.sum(0, dtype=torch.uint8)
    return counts
