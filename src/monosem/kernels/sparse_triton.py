"""Products with sparse latents on a GPU, forwards and backwards, without a dense `[batch n_latents]`.

    choose_…       which latents are largest, of a row or of a batch, and their exact values
    encode_at      pre[b, j]  = (x[b] - centre) · W_enc[:, i[b, j]] + b_enc[i[b, j]]
    decode_at      x_hat[b]   = Σ_j values[b, j] W_dec[i[b, j]]
    dead_error     what the strongest dead latents leave of a residual
    residual_at    target - b_dec - x_hat, of each prefix of a row's pieces, and the sum of squares

What `sparse_cpu`, `residual_cpu` and `dead_cpu` do on the CPU; `kernels.reference` says it with
dense matrices. Gradients of weights are sums by latent over the transposed pattern, in one order: the
same inputs give the same bits. Nothing here asks the device for a number.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable

from monosem.kernels import rows_triton
from monosem.kernels.dense import policy_type
from monosem.kernels.pattern import Pattern, at_places, even
from monosem.kernels.reference import Residual, share_left

AT_ONCE = 2**28
"""Products of the encoder that are there at once: 512 MB in bfloat16."""
DEAD_MARGIN = 8
"""Candidates beyond `k` dead latents that are scored again where products are rounded."""
MORE = 1.1
"""How many times `k` entries of a batch are scored again where they were chosen by rounded products."""


@torch.no_grad()
def choose_top_k(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
    margin: int,
) -> tuple[Float[Tensor, "batch k"], Int32[Tensor, "batch k"]]:
    """The `k` largest pre-activations of each row and which they are, without gradients.

    Where the policy's products are rounded, `margin` more are found and all of them made again.
    """
    kind, n_latents = policy_type(centred), len(b_enc)
    rounded = kind != centred.dtype
    n = min(k + margin, n_latents) if rounded else k
    values = torch.empty(len(centred), n, dtype=kind, device=centred.device)
    indices = torch.empty(len(centred), n, dtype=torch.int32, device=centred.device)
    weight, bias = W_enc.to(kind), b_enc.to(kind)
    rows = max(1, AT_ONCE // n_latents)
    for first in range(0, len(centred), rows):
        some = slice(first, first + rows)
        found = torch.addmm(bias, centred[some].to(kind), weight).topk(n, dim=1, sorted=False)
        values[some], indices[some] = found.values, found.indices
    if not rounded:
        return values, indices
    kept = _exact(centred, W_enc, b_enc, even(indices, n_latents)).topk(k, dim=1, sorted=False)
    return kept.values, indices.gather(1, kept.indices)


@torch.no_grad()
def choose_batch_top_k(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, " entries"], Pattern]:
    """The `k * batch` largest pre-activations of the batch and where they are, without gradients.

    The one block of products is in the policy's type. Where that rounds, `MORE` as many are found and
    all of them made again.
    """
    kind, shape = policy_type(centred), (len(centred), len(b_enc))
    rounded, n = kind != centred.dtype, k * shape[0]
    products = torch.addmm(b_enc.to(kind), centred.to(kind), W_enc.to(kind)).flatten()
    n_found = min(math.ceil(MORE * n), len(products)) if rounded else n
    places = products.topk(n_found, sorted=False).indices.sort().values
    if rounded:
        exact = _exact(centred, W_enc, b_enc, at_places(places, *shape))
        kept = exact.topk(n, sorted=False).indices.sort().values
        return exact[kept], at_places(places[kept], *shape)
    return products[places], at_places(places, *shape)


def encode_at(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    pattern: Pattern,
    values: Float[Tensor, "*entries"],
) -> Float[Tensor, "*entries"]:
    """Give the pre-activations `values` at the chosen places their gradients."""
    return _EncodeAt.apply(x, centre, W_enc, b_enc, pattern, values)  # pyright: ignore[reportReturnType]


def decode_at(
    values: Float[Tensor, "*entries"], W_dec: Float[Tensor, "n_latents d_out"], pattern: Pattern
) -> Float[Tensor, "batch d_out"]:
    """Weighted sum of decoder rows, differentiable in values and rows."""
    return _DecodeAt.apply(values, W_dec, pattern)  # pyright: ignore[reportReturnType]


def residual_at(
    values: Float[Tensor, "*entries"],
    W_dec: Float[Tensor, "n_latents d_out"],
    b_dec: Float[Tensor, " d_out"],
    pattern: Pattern,
    target: Float[Tensor, "batch d_out"],
) -> Residual:
    """The residual of the last prefix and the squares of all, differentiable.

    `pattern` has as many rows for each row of `target` as there are pieces, one after another.
    """
    return Residual(*_ResidualAt.apply(values, W_dec, b_dec, pattern, target))  # pyright: ignore[reportGeneralTypeIssues]


def dead_error(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
    dead: Bool[Tensor, " n_latents"],
    residual: Float[Tensor, "batch d_out"],
    k: int,
    *,
    fit: bool,
) -> Float[Tensor, ""]:
    """`reference.dead_error` from the `k` strongest dead latents of each row alone.

    The living have a bias of minus infinity: they are chosen where too few are dead, and are silent.
    """
    n_latents, bias = len(b_enc), b_enc.masked_fill(~dead, -torch.inf)
    k, centred = min(k, n_latents), (x - centre).detach()
    values, indices = choose_top_k(centred, W_enc, bias, k, DEAD_MARGIN)
    pattern = even(indices, n_latents)
    latents = encode_at(x, centre, W_enc, bias, pattern, values).relu()
    return share_left(decode_at(latents, W_dec, pattern), residual.detach(), fit=fit)


def gather_sum(
    weights: Float[Tensor, "*entries"], rows: Float[Tensor, "n d"], pattern: Pattern
) -> Float[Tensor, "batch d"]:
    """For each row of the batch, the weighted sum of the rows it chose."""
    entries = pattern.indices.flatten(), weights.flatten()
    return rows_triton.bag_sums(rows, pattern.row_starts, *entries)[0]


def scatter_sum(
    weights: Float[Tensor, "*entries"], vectors: Float[Tensor, "batch d"], pattern: Pattern
) -> tuple[Float[Tensor, "n_latents d"], Float[Tensor, " n_latents"]]:
    """For each latent, the weighted sum of the batch rows that chose it, and the sum of the weights."""
    seen = pattern.transposed
    ordered = weights.flatten().index_select(0, seen.order)
    return rows_triton.bag_sums(vectors, seen.starts, seen.rows, ordered)


def inner(
    vectors: Float[Tensor, "batch d"], rows: Float[Tensor, "n_latents d"], pattern: Pattern
) -> Float[Tensor, "*entries"]:
    """Dot product of each row of the batch with each of `rows` that it chose."""
    found = rows_triton.inner(vectors, rows, pattern.row_starts, pattern.indices.flatten())
    return found.view(pattern.indices.shape)


def _exact(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    pattern: Pattern,
) -> Float[Tensor, "*entries"]:
    return inner(centred, W_enc.t(), pattern) + b_enc[pattern.indices.long()]


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,  # noqa: ARG004 (its gradient is asked for)
        pattern: Pattern,
        values: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, centre, W_enc)
        ctx.pattern = pattern
        return values.clone()  # an output may not be an input that wants no gradient

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        gradient = grad_outputs[0].contiguous()
        x, centre, W_enc = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        rows = W_enc.t()  # contiguous, as encoder vectors are in ours
        d_W_enc, d_b_enc = scatter_sum(gradient, x - centre, pattern)
        needs_x, needs_centre, needs_W_enc, needs_b_enc, *_ = ctx.needs_input_grad
        return (
            gather_sum(gradient, rows, pattern).to(x.dtype) if needs_x else None,
            -(d_b_enc.to(W_enc.dtype) @ rows).to(centre.dtype) if needs_centre else None,
            d_W_enc.to(W_enc.dtype).t() if needs_W_enc else None,
            d_b_enc if needs_b_enc else None,
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
            inner(gradient, W_dec, pattern).to(values.dtype) if needs_values else None,
            scatter_sum(values, gradient, pattern)[0] if needs_W_dec else None,
            None,
        )


class _ResidualAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor, pattern: Pattern, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        entries = pattern.row_starts, pattern.indices.flatten()
        left, square = rows_triton.residuals(values.flatten(), W_dec, *entries, b_dec, target)
        ctx.save_for_backward(values, W_dec, b_dec, left)
        ctx.pattern = pattern
        return left[:, -1].clone(), square

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        values, W_dec, b_dec, left = ctx.saved_tensors
        d_residual, d_square = grad_outputs
        # of the squares alone, as a rule: then the gradient is made of the residuals as they are
        scale = 0.0 if d_square is None else 2 * d_square
        if d_residual is not None:
            left, scale = left * scale, 1.0
            left[:, -1] += d_residual
        # piece q is in all prefixes from q on
        vectors = left if left.shape[1] == 1 else left.flip(1).cumsum(1).flip(1)
        whole, vectors = vectors[:, 0], vectors.flatten(0, 1).contiguous()
        pattern: Pattern = ctx.pattern
        needs_values, needs_W_dec, needs_b_dec, _, needs_target = ctx.needs_input_grad
        d_values = d_W_dec = None
        if needs_values:
            d_values = (inner(vectors, W_dec, pattern) * -scale).to(values.dtype)
        if needs_W_dec:
            d_W_dec = scatter_sum(values * -scale, vectors, pattern)[0].to(W_dec.dtype)
        return (
            d_values,
            d_W_dec,
            (whole.sum(0) * -scale).to(b_dec.dtype) if needs_b_dec else None,
            None,
            (whole * scale).to(left.dtype) if needs_target else None,
        )
