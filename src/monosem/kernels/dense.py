"""Dense products under the matmul policy, for dictionaries whose latents are computed all at once."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.kernels import parts, workspace
from monosem.runtime import matmul

AT_ONCE, FEWEST_ROWS = 2**23, 256
"""Products looked at while they are still in the caches; but fewer rows waste the product."""


def product(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, "d n"]
) -> Float[Tensor, "*batch n"]:
    """`x @ weight`; rounded to bfloat16, result included, where the policy says so.

    Gradients reach the fp32 weights through the same rounded products.
    """
    if not matmul.in_bf16() or x.dtype != torch.float32:
        return x.to(torch.promote_types(x.dtype, weight.dtype)) @ weight
    return x.bfloat16() @ weight.bfloat16()


def policy_type(x: Float[Tensor, "..."]) -> torch.dtype:
    """The type in which large dense latents of `x` are best kept during a step."""
    return torch.bfloat16 if matmul.in_bf16() and x.dtype == torch.float32 else x.dtype


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


@torch.no_grad()
def count_products_above_zero(
    x: Float[Tensor, "batch d"], weight: Float[Tensor, "d_read n"], bias: Float[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """On how many rows each of `x @ weight + bias` (parts.py) is above zero, under the matmul policy.

    The products are looked at block by block in the caches, and kept nowhere.
    """
    x = x.to(weight.dtype)
    if x.device.type != "cpu":
        kind = policy_type(x)
        return count_positive(parts.pre_activations(x.to(kind), weight.to(kind), bias.to(kind)))
    counts = torch.zeros(len(bias), dtype=torch.int64)
    for block in product_blocks(x, weight, bias):
        counts += count_positive(block)
    return counts


def product_blocks(
    x: Float[Tensor, "batch d"], weight: Float[Tensor, "d_read n"], bias: Float[Tensor, " n"]
) -> Iterator[Float[Tensor, "rows n"]]:
    """`x @ weight + bias` (parts.py) on the CPU under the matmul policy, block by block of rows.

    All blocks are the same memory, small enough to be looked at while it is in the caches.
    """
    kind, n = policy_type(x), len(bias)
    rows = max(1, min(max(FEWEST_ROWS, AT_ONCE // n), len(x)))
    block = workspace.empty("products", rows, n, kind)
    if kind == x.dtype:
        for some in x.split(rows):
            yield parts.affine(bias, some, weight, out=block[: len(some)])
        return
    # the bias is the weight of one more input of each part, always 1: adding it takes 8 % longer
    width = len(weight)
    n_parts = x.shape[1] // width
    rounded = workspace.empty("rounded weight", n, width + 1, kind)
    rounded[:, :width], rounded[:, width] = weight.t(), bias
    inputs = torch.ones(len(x), n_parts, width + 1, dtype=kind)
    inputs[:, :, :width] = x.unflatten(1, (n_parts, width))
    for some in inputs.flatten(1).split(rows):
        yield parts.multiply(some, rounded.t(), out=block[: len(some)])
