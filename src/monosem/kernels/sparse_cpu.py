"""Products with sparse latents on the CPU, forwards and backwards, without a dense `[batch n_latents]`.

    encode_at   pre[b, j]  = (x[b] - centre) · W_enc[:, i[b, j]] + b_enc[i[b, j]]
    decode_at   x_hat[b]   = Σ_j values[b, j] W_dec[i[b, j]]

`j` runs over the entries of row `b`, as many as its `Pattern` says. Three primitives carry both
directions: `gather_sum` (rows of a matrix, weighted, added up by batch row), `scatter_sum` (rows of
the batch added up by latent) and `inner` (dot products at the chosen places). `kernels.reference`
says the same with dense matrices.
"""

import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from monosem.kernels import workspace
from monosem.kernels.pattern import Pattern

AT_ONCE = 2**19
"""Numbers made at once, which stay in the caches until they are where they belong."""


PARTS = 16
"""Parts of a matrix that is read from end to end."""


def centred(
    x: Float[Tensor, "batch d_in"], centre: Float[Tensor, " d_in"]
) -> Float[Tensor, "batch d_in"]:
    """`x - centre`, which lives to the end of the step."""
    made = workspace.empty_for_the_step(x.shape[0], x.shape[1], x.dtype)
    return torch.sub(x, centre, out=made)


def encode_at(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    pattern: Pattern,
    values: Float[Tensor, "*entries"],
    centred: Float[Tensor, "batch d_in"] | None = None,
) -> Float[Tensor, "*entries"]:
    """Give the pre-activations `values` at the chosen places their gradients.

    Whoever chose has computed them already; `inner(x - centre, W_enc, pattern)` plus the biases.
    `centred` is `x - centre`, if it is at hand too.
    """
    with torch.no_grad():
        centred = x - centre if centred is None else centred
    return _EncodeAt.apply(x, centre, W_enc, b_enc, pattern, values, centred)  # pyright: ignore[reportReturnType]


def decode_at(
    values: Float[Tensor, "*entries"], W_dec: Float[Tensor, "n_latents d_out"], pattern: Pattern
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of decoder rows, differentiable in values and rows."""
    return _DecodeAt.apply(values, W_dec, pattern)  # pyright: ignore[reportReturnType]


def gather_sum(
    weights: Float[Tensor, "*entries"], rows: Float[Tensor, "n d"], pattern: Pattern
) -> Float[Tensor, "batch d"]:
    """For each row of the batch, the weighted sum of the rows it chose."""
    return _bags(rows, pattern.row_starts, pattern.indices.flatten(), weights.flatten())


def scatter_sum(
    weights: Float[Tensor, "*entries"], vectors: Float[Tensor, "batch d"], pattern: Pattern
) -> Float[Tensor, "n_latents d"]:
    """For each latent, the weighted sum of the batch rows that chose it."""
    seen = pattern.transposed
    return _bags(vectors, seen.starts, seen.rows, weights.flatten().index_select(0, seen.order))


def _bags(
    rows: Float[Tensor, "n d"],
    starts: Int32[Tensor, " bags_and_one"],
    indices: Int32[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
) -> Float[Tensor, "bags d"]:
    """For each bag of entries, the weighted sum of its rows."""
    return functional.embedding_bag(
        indices, rows, starts, per_sample_weights=weights, mode="sum", include_last_offset=True
    )


def bag_blocks(
    rows: Float[Tensor, "n d"],
    starts: Int32[Tensor, " bags_and_one"],
    indices: Int32[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    *,
    together: int = 1,
) -> Iterator[Float[Tensor, "some d"]]:
    """The same in blocks of bags, each small enough to be used while it is in the caches.

    Each block has a multiple of `together` bags.
    """
    n = together * max(1, AT_ONCE // (together * rows.shape[1]))
    cuts = [*starts[:-1:n].tolist(), len(indices)]
    for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
        some = starts[i * n : (i + 1) * n + 1] - begin
        yield _bags(rows, some, indices[begin:end], weights[begin:end])


def inner(
    vectors: Float[Tensor, "batch d"], columns: Float[Tensor, "d n_latents"], pattern: Pattern
) -> Float[Tensor, "*entries"]:
    """Dot product of each row of the batch with each column it chose."""
    if len(pattern) > pattern.n_latents:
        found = _products(pattern.row_starts, pattern.indices.flatten(), vectors, columns)
        return found.view(pattern.indices.shape)
    # by latent: the larger matrix is read once from end to end, the smaller one stays in the caches
    seen = pattern.transposed
    found = torch.empty_like(pattern.indices, dtype=vectors.dtype)
    products = _products(seen.starts, seen.rows, columns.t(), vectors.t())
    found.view(-1).scatter_(0, seen.order, products)
    return found


def _weighted_sum(weights: Float[Tensor, " n"], rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """`weights @ rows`, read by all threads: one product would be by one of them."""
    if len(weights) % PARTS:
        return weights @ rows
    return torch.bmm(weights.view(PARTS, 1, -1), rows.view(PARTS, -1, rows.shape[1])).sum((0, 1))


def _products(
    row_starts: Int32[Tensor, " n_and_one"],
    indices: Int32[Tensor, " entries"],
    rows: Float[Tensor, "n d"],
    columns: Float[Tensor, "d m"],
) -> Float[Tensor, " entries"]:
    """Entries of `rows @ columns` at the places of compressed sparse rows."""
    _announce_sparse_rows()
    places = torch.sparse_csr_tensor(
        row_starts,
        indices,
        rows.new_zeros(len(indices)),
        (len(rows), columns.shape[1]),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(places, rows, columns, beta=0.0).values()


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # noqa: ARG004 (its gradient is asked for, as of the next)
        centre: Tensor,  # noqa: ARG004
        W_enc: Tensor,
        b_enc: Tensor,  # noqa: ARG004
        pattern: Pattern,
        values: Tensor,
        centred: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(W_enc)
        ctx.pattern, ctx.centred = pattern, centred
        return values.clone()  # an output may not be an input that wants no gradient

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        (W_enc,) = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        rows = W_enc.t().contiguous()  # no copy where encoder vectors are contiguous, as ours are
        d_b_enc = gradient.new_zeros(pattern.n_latents)
        d_b_enc.index_add_(0, pattern.indices.flatten(), gradient.flatten())
        needs_x, needs_centre, needs_W_enc, needs_b_enc, *_ = ctx.needs_input_grad
        return (
            gather_sum(gradient.contiguous(), rows, pattern) if needs_x else None,
            -_weighted_sum(d_b_enc, rows) if needs_centre else None,
            deliver(W_enc, gradient, ctx.centred, pattern, transposed=True)
            if needs_W_enc
            else None,
            d_b_enc if needs_b_enc else None,
            None,
            None,
            None,
        )


class _DecodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pattern = pattern
        return gather_sum(values, W_dec, pattern)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        gradient = grad_outputs[0].contiguous()
        values, W_dec = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        needs_values, needs_W_dec, _ = ctx.needs_input_grad
        return (
            inner(gradient, W_dec.t(), pattern) if needs_values else None,
            deliver(W_dec, values, gradient, pattern) if needs_W_dec else None,
            None,
        )


def deliver(
    weight: Tensor,
    weights: Float[Tensor, "*entries"],
    vectors: Float[Tensor, "batch d"],
    pattern: Pattern,
    *,
    transposed: bool = False,
) -> Tensor | None:
    """The gradient of `weight`; None if the workspace keeps it."""
    kept = workspace.gradient(weight, transposed=transposed)
    if kept is not None:
        seen = pattern.transposed
        weights = weights.flatten().index_select(0, seen.order)
        kept.add(bag_blocks(vectors, seen.starts, seen.rows, weights))
        return None
    gradient = scatter_sum(weights, vectors, pattern)
    return gradient.t() if transposed else gradient


@functools.cache
def _announce_sparse_rows() -> None:
    # torch warns once in a process that compressed sparse rows are in beta; nobody can act on it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [0.0], (1, 1))
