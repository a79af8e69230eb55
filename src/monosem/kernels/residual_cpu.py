"""What a reconstruction leaves of its target, on the CPU, forwards and backwards, in one buffer.

    residual[p]  = target - b_dec - Σ over q <= p of latents[q] @ W_dec        for each prefix p of the pieces
    square       = Σ ‖residual[p]‖²

A row of the batch is one piece, as a rule; Matryoshka cuts it at its prefixes. A loss sees `square`
alone, as a rule, so that the gradient of piece q is -2 Σ over p >= q of residual[p], which is summed up
where the residuals are. `reference.residual_at` says the same in three lines.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from monosem.kernels import workspace
from monosem.kernels.pattern import Pattern
from monosem.kernels.reference import Residual
from monosem.kernels.sparse_cpu import bag_blocks, deliver, inner


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


class _ResidualAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor, pattern: Pattern, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        batch, d_out = target.shape
        pieces = len(pattern) // batch if batch else 1
        # many are kept where the encoder's gradient will be, which is made after they are used
        shape = batch * pieces, d_out, target.dtype
        many = pieces > 1
        left = (
            workspace.empty_beside(W_dec, *shape) if many else workspace.empty_for_the_step(*shape)
        )
        left = left.view(batch, pieces, d_out)
        entries = pattern.row_starts, pattern.indices.flatten(), values.flatten()
        first = 0
        for decoded in bag_blocks(W_dec, *entries, together=pieces):
            some = slice(first, first + len(decoded) // pieces)
            decoded = decoded.view(-1, pieces, d_out)
            for piece in range(1, pieces):
                decoded[:, piece] += decoded[:, piece - 1]
            torch.sub(target[some, None], decoded.add_(b_dec), out=left[some])
            first = some.stop
        ctx.save_for_backward(values, W_dec, left)
        ctx.pattern = pattern
        return left[:, -1], torch.linalg.vector_norm(left).square()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        values, W_dec, left = ctx.saved_tensors
        kept = left
        d_residual, d_square = grad_outputs
        # of the squares alone, as a rule: then the gradient is made of the residuals as they are
        scale = 0.0 if d_square is None else 2 * d_square
        if d_residual is not None:
            left, scale = left * scale, 1.0
            left[:, -1] += d_residual
        for piece in range(left.shape[1] - 1, 0, -1):
            left[:, piece - 1] += left[:, piece]
        vectors, pattern = left.flatten(0, 1), ctx.pattern
        needs_values, needs_W_dec, needs_b_dec, _, needs_target = ctx.needs_input_grad
        gradients = (
            inner(vectors, W_dec.t(), pattern).mul_(-scale) if needs_values else None,
            deliver(W_dec, values * -scale, vectors, pattern) if needs_W_dec else None,
            left[:, 0].sum(0).mul_(-scale) if needs_b_dec else None,
            None,
            left[:, 0] * scale if needs_target else None,
        )
        workspace.release(kept)
        return gradients
