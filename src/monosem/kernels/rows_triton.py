"""Sums and products of chosen rows on a GPU, in Triton: what `sparse_triton` is made of.

    bag_sums    out[b]  = Σ over the entries e of bag b of weights[e] * rows[indices[e]]
    inner       out[e]  = vectors[row of e] · rows[indices[e]]
    residuals   left[b, p] = target[b] - b_dec - Σ over the entries of the pieces up to p

Each number is summed by one program in the order of its entries: no atomics, so that the same inputs
give the same bits. Numbers of 16 bits are read as they are and summed in float32; float64 stays what
it is. With `TRITON_INTERPRET=1` set before Triton is imported, tensors on the CPU pass too, slowly.

Importing this module imports Triton: `dispatch` does, when a tensor on a GPU asks for it.
"""

# Triton's decorators and pointers have no types that pyright could follow.
# pyright: reportUntypedFunctionDecorator=false, reportMissingParameterType=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32
from torch import Tensor

WIDEST = 1024
"""Columns of a row that a program holds at once."""


@triton.jit
@no_type_check
def _bag_sums(
    rows,
    starts,
    indices,
    weights,
    out,
    weight_sums,
    d,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    total = tl.zeros((BLOCK,), dtype=SUM)
    weight_total = tl.zeros((1,), dtype=SUM)
    for entry in range(tl.load(starts + bag), tl.load(starts + bag + 1)):
        row = tl.load(indices + entry).to(tl.int64)
        weight = tl.load(weights + entry).to(SUM)
        total += weight * tl.load(rows + row * d + columns, mask=inside, other=0.0).to(SUM)
        weight_total += weight
    tl.store(out + bag * d + columns, total, mask=inside)
    one = tl.arange(0, 1)
    tl.store(weight_sums + bag + one, weight_total, mask=one == tl.program_id(1))  # by the first


@triton.jit
@no_type_check
def _inner(vectors, rows, starts, indices, out, d, BLOCK: tl.constexpr, SUM: tl.constexpr):
    vector = tl.program_id(0).to(tl.int64)
    for entry in range(tl.load(starts + vector), tl.load(starts + vector + 1)):
        row = tl.load(indices + entry).to(tl.int64)
        total = tl.zeros((BLOCK,), dtype=SUM)
        for first in range(0, d, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < d
            a = tl.load(vectors + vector * d + columns, mask=inside, other=0.0).to(SUM)
            total += a * tl.load(rows + row * d + columns, mask=inside, other=0.0).to(SUM)
        tl.store(out + entry, tl.sum(total, axis=0))


@triton.jit
@no_type_check
def _residuals(
    values,
    rows,
    starts,
    indices,
    b_dec,
    target,
    left,
    squares,
    d,
    pieces,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    rest = tl.load(target + row * d + columns, mask=inside, other=0.0).to(SUM)
    rest -= tl.load(b_dec + columns, mask=inside, other=0.0).to(SUM)
    square = tl.zeros((BLOCK,), dtype=SUM)
    for piece in range(0, pieces):
        bag = row * pieces + piece
        for entry in range(tl.load(starts + bag), tl.load(starts + bag + 1)):
            latent = tl.load(indices + entry).to(tl.int64)
            value = tl.load(values + entry).to(SUM)
            rest -= value * tl.load(rows + latent * d + columns, mask=inside, other=0.0).to(SUM)
        tl.store(left + bag * d + columns, rest, mask=inside)
        square += rest * rest
    tl.store(squares + row * tl.num_programs(1) + part, tl.sum(square, axis=0))


def bag_sums(
    rows: Float[Tensor, "n d"],
    starts: Int32[Tensor, " bags_and_one"],
    indices: Int32[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
) -> tuple[Float[Tensor, "bags d"], Float[Tensor, " bags"]]:
    """For each bag of entries the weighted sum of its rows, and the sum of its weights."""
    rows, n, d = rows.contiguous(), len(starts) - 1, rows.shape[1]
    out = torch.empty(n, d, dtype=rows.dtype, device=rows.device)
    weight_sums = torch.empty(n, dtype=weights.dtype, device=rows.device)
    block = _block(d)
    if n:
        grid = (n, triton.cdiv(d, block))
        entries = starts, indices.contiguous(), weights.contiguous()
        kind = _kind_of_sums(rows, weights)
        _bag_sums[grid](rows, *entries, out, weight_sums, d, BLOCK=block, SUM=kind)
    return out, weight_sums


def inner(
    vectors: Float[Tensor, "batch d"],
    rows: Float[Tensor, "n d"],
    starts: Int32[Tensor, " batch_and_one"],
    indices: Int32[Tensor, " entries"],
) -> Float[Tensor, " entries"]:
    """Dot product of each vector with each of the rows it chose, in the type of `vectors`."""
    vectors, rows, d = vectors.contiguous(), rows.contiguous(), rows.shape[1]
    out = torch.empty(len(indices), dtype=vectors.dtype, device=vectors.device)
    if len(vectors) and len(indices):
        kind = _kind_of_sums(vectors, rows)
        given = vectors, rows, starts, indices.contiguous()
        _inner[(len(vectors),)](*given, out, d, BLOCK=_block(d), SUM=kind)
    return out


def residuals(
    values: Float[Tensor, " entries"],
    rows: Float[Tensor, "n d"],
    starts: Int32[Tensor, " bags_and_one"],
    indices: Int32[Tensor, " entries"],
    b_dec: Float[Tensor, " d"],
    target: Float[Tensor, "batch d"],
) -> tuple[Float[Tensor, "batch pieces d"], Float[Tensor, ""]]:
    """What each prefix of the pieces of a row leaves of its target, and the sum of all squares."""
    rows, target, (batch, d) = rows.contiguous(), target.contiguous(), target.shape
    pieces = (len(starts) - 1) // batch if batch else 1
    kind, block = _kind_of_sums(values, rows, target), _block(d)
    parts = triton.cdiv(d, block)
    left = torch.empty(batch, pieces, d, dtype=target.dtype, device=target.device)
    wide = torch.float64 if kind == tl.float64 else torch.float32
    squares = torch.empty(batch, parts, dtype=wide, device=target.device)
    if batch:
        entries = values.contiguous(), rows, starts, indices.contiguous()
        outputs = b_dec.contiguous(), target, left, squares
        _residuals[(batch, parts)](*entries, *outputs, d, pieces, BLOCK=block, SUM=kind)
    return left, squares.sum()


def _block(d: int) -> int:
    return min(WIDEST, int(triton.next_power_of_2(d)))


def _kind_of_sums(*tensors: Tensor) -> tl.dtype:
    return tl.float64 if any(t.dtype == torch.float64 for t in tensors) else tl.float32
