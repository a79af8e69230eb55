"""Which kernel runs where: by device and type of numbers, never by guess.

CPU in float32 or float64: `sparse_cpu`. CUDA decodes with torch's own `embedding_bag`. Everything
else, and every other type, takes the plain `reference`.
"""

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor
from torch.nn import functional

from monosem.kernels import reference, sparse_cpu
from monosem.kernels.pattern import Pattern


def decode(
    values: Float[Tensor, "batch k"], W_dec: Float[Tensor, "n_latents d_out"], pattern: Pattern
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of the decoder rows of `pattern`, differentiable."""
    if has_cpu_kernel(values, W_dec):
        return sparse_cpu.decode_at(values, W_dec, pattern)
    if values.is_cuda:
        return functional.embedding_bag(
            pattern.indices, W_dec, per_sample_weights=values.to(W_dec.dtype), mode="sum"
        )
    return reference.decode_at(values.to(W_dec.dtype), W_dec, pattern)


def decode_ragged(
    values: Float[Tensor, " entries"],
    indices: Int32[Tensor, " entries"],
    offsets: Int64[Tensor, " rows_and_one"],
    W_dec: Float[Tensor, "n_latents d_out"],
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of decoder rows for compressed sparse rows, differentiable."""
    weights = values.to(W_dec.dtype)
    if W_dec.device.type in ("cpu", "cuda"):
        starts = offsets[:-1].int()
        return functional.embedding_bag(
            indices, W_dec, starts, per_sample_weights=weights, mode="sum"
        )
    rows = torch.arange(len(offsets) - 1, device=W_dec.device).repeat_interleave(offsets.diff())
    empty = W_dec.new_zeros(len(offsets) - 1, len(W_dec))
    return empty.index_put((rows, indices.long()), weights) @ W_dec


def has_cpu_kernel(*tensors: Tensor) -> bool:
    """Whether the CPU kernels take these tensors."""
    kinds = {tensor.dtype for tensor in tensors}
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return on_cpu and len(kinds) == 1 and kinds <= {torch.float32, torch.float64}
