"""The TopK encoder: choose `k` latents of each row, and give them values that carry gradients.

Where the matmul policy is bf16 the product that chooses is made in bf16, `MARGIN` latents more than
`k` are kept, and their values are computed again exactly: rounding to 8 bits misplaces latents only
near the cut, within these. Values and gradients are fp32 under every policy.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.kernels import reference, sparse_cpu
from monosem.kernels.dense import AT_ONCE, FEWEST_ROWS, large_empty
from monosem.kernels.dispatch import has_cpu_kernel
from monosem.kernels.pattern import Pattern, even
from monosem.kernels.select import top_k
from monosem.runtime import matmul

MARGIN = 8
"""Candidates beyond `k` that are scored again (none of 8,192 rows measured needed more)."""


def encode_top_k(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, "batch k"], Pattern]:
    """The `k` largest pre-activations of each row, differentiable, and which latents they are."""
    n_latents = W_enc.shape[1]
    if not has_cpu_kernel(x, centre, W_enc, b_enc):
        pre = reference.pre_activations(x, centre, W_enc, b_enc)
        indices = top_k(pre.detach(), k)[1]
        return pre.gather(1, indices), even(indices.int(), n_latents)
    with torch.no_grad():
        values, pattern = _choose(x - centre, W_enc, b_enc, k)
    return sparse_cpu.encode_at(x, centre, W_enc, b_enc, pattern, values), pattern


def _choose(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, "batch k"], Pattern]:
    n_latents = W_enc.shape[1]
    if matmul.current() != "bf16" or k + MARGIN >= n_latents:
        values, indices = top_k(torch.addmm(b_enc, x, W_enc), k)
        return values, even(indices.int(), n_latents)
    candidates = _candidates(x, W_enc, b_enc, k + MARGIN)
    pattern = even(candidates.int(), n_latents)
    exact = sparse_cpu.inner(x, W_enc, pattern) + b_enc[candidates]
    values, kept = exact.topk(k, dim=1, sorted=False)
    return values, even(candidates.gather(1, kept).int(), n_latents)


def _candidates(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    n: int,
) -> Int64[Tensor, "batch n"]:
    """The `n` largest pre-activations of each row, as a product in bf16 sees them."""
    n_latents = W_enc.shape[1]
    rows = max(1, min(max(FEWEST_ROWS, AT_ONCE // n_latents), len(x)))
    x, W_enc, b_enc = x.bfloat16(), W_enc.bfloat16(), b_enc.bfloat16()
    block = large_empty(rows, n_latents, torch.bfloat16)
    found = torch.empty(len(x), n, dtype=torch.int64)
    for some, out in zip(x.split(rows), found.split(rows), strict=True):
        rough = torch.addmm(b_enc, some, W_enc, out=block[: len(some)])
        out.copy_(top_k(rough, n)[1])
    return found
