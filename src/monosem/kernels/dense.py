"""Dense products under the matmul policy, for dictionaries whose latents are computed all at once."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.runtime import matmul

AT_ONCE, FEWEST_ROWS = 2**21, 256
"""Products looked at while they are still in the caches; but fewer rows waste the product."""


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
    if latents.device.type != "cpu":
        return (latents > 0).sum(0)
    counts = torch.zeros(latents.shape[1], dtype=torch.int64)
    for rows in latents.split(255):  # a byte holds their count: six times as fast
        if rows.dtype == torch.bfloat16:  # read as integers they have the same signs: four times
            counts += rows.view(torch.int16).clamp(0, 1).sum(0, dtype=torch.int16)
        else:
            counts += (rows > 0).view(torch.uint8).sum(0, dtype=torch.uint8)
    return counts


def count_products_above_zero(
    x: Float[Tensor, "batch d"], weight: Float[Tensor, "d n"], bias: Float[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """On how many rows each of `x @ weight + bias` is above zero, under the matmul policy.

    The products are looked at block by block in the caches, and kept nowhere.
    """
    kind = policy_type(x)
    x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
    if x.device.type != "cpu":
        return count_positive(torch.addmm(bias, x, weight))
    counts = torch.zeros(len(bias), dtype=torch.int64)
    rows = max(FEWEST_ROWS, AT_ONCE // len(bias))
    block = large_empty(min(rows, len(x)), len(bias), kind)
    for some in x.split(rows):
        counts += count_positive(torch.addmm(bias, some, weight, out=block[: len(some)]))
    return counts


def large_empty(n: int, m: int, kind: torch.dtype) -> Float[Tensor, "{n} {m}"]:
    """An uninitialised `[n, m]` on the CPU, cheap to touch for the first time.

    NumPy asks the kernel for huge pages, torch's allocator does not: first touching 32 MB in pages of
    4 kB costs a fifth of the product that fills them.
    """
    return torch.from_numpy(np.empty((n, m), dtype=f"i{kind.itemsize}")).view(kind)
