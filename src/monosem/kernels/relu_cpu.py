"""A ReLU autoencoder on the CPU, sparse where its latents are and dense where they are not.

    latents  = relu((x - centre) @ W_enc + b_enc)
    decoded  = latents @ W_dec            total = Σ latents

Where few latents are positive, they alone are kept (`ragged`), and the rest of the step, backwards
included, is that of `sparse_cpu`: its cost is that of the positive latents. Else, as early in
training, there are five dense products in the policy's type, with all elementwise work done on blocks
of rows that stay in the caches. `reference.autoencode` says the same in four lines.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from monosem.kernels import sparse_cpu
from monosem.kernels.dense import count_positive, policy_type
from monosem.kernels.ragged import encode_above
from monosem.kernels.reference import Autoencoded
from monosem.kernels.workspace import large_empty

ROWS = 1024
"""Rows of a block: 8 MB of 4,096 latents in bfloat16."""
SPARSE = 0.06
"""Largest share of positive latents that is worth keeping them alone."""


def autoencode(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
) -> Autoencoded:
    """Reconstruction and sum of the latents, both differentiable; and how often each fired."""
    found = encode_above(x, centre, W_enc, b_enc, 0.0, SPARSE)
    if found is not None:
        latents, pattern = found
        firing = torch.bincount(pattern.indices, minlength=pattern.n_latents)
        return Autoencoded(sparse_cpu.decode_at(latents, W_dec, pattern), latents.sum(), firing)
    with torch.no_grad():
        latents = _encode(x - centre, W_enc, b_enc)
    decoded, total = _Dense.apply(x, centre, W_enc, b_enc, W_dec, latents)  # pyright: ignore[reportGeneralTypeIssues]
    return Autoencoded(decoded, total, count_positive(latents))


def _encode(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
) -> Float[Tensor, "batch n_latents"]:
    kind = policy_type(centred)
    centred, encoder, bias = centred.to(kind), W_enc.to(kind), b_enc.to(kind)
    latents = large_empty(len(centred), len(bias), kind)
    for rows, out in zip(centred.split(ROWS), latents.split(ROWS), strict=True):
        torch.addmm(bias, rows, encoder, out=out).relu_()
    return latents


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,  # noqa: ARG004 (its gradient is asked for)
        W_dec: Tensor,
        latents: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, centre, W_enc, W_dec, latents)
        decoded = (latents @ W_dec.to(latents.dtype)).to(x.dtype)
        return decoded, latents.sum(1).sum(dtype=x.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        x, centre, W_enc, W_dec, latents = ctx.saved_tensors
        d_decoded, d_total = grad_outputs
        kind = latents.dtype
        d_decoded = d_decoded.to(kind)
        d_pre = _gradient_before_relu(d_decoded, W_dec.to(kind).t(), d_total, latents)
        # one product with ones: summing bfloat16 along the batch takes twice as long
        d_b_enc = (d_pre.new_ones(1, len(x)) @ d_pre)[0].to(x.dtype)
        needs_x, needs_centre, needs_W_enc, needs_b_enc, needs_W_dec, _ = ctx.needs_input_grad
        return (
            (d_pre @ W_enc.to(kind).t()).to(x.dtype) if needs_x else None,
            -(W_enc @ d_b_enc) if needs_centre else None,
            (d_pre.t() @ (x - centre).to(kind)).to(x.dtype).t() if needs_W_enc else None,
            d_b_enc if needs_b_enc else None,
            (latents.t() @ d_decoded).to(x.dtype) if needs_W_dec else None,
            None,
        )


def _gradient_before_relu(
    d_decoded: Float[Tensor, "batch d_out"],
    rows: Float[Tensor, "d_out n_latents"],
    slope: Float[Tensor, ""],
    latents: Float[Tensor, "batch n_latents"],
) -> Float[Tensor, "batch n_latents"]:
    """Gradient of the pre-activations; `slope` is that of every latent for its own sake."""
    mask = torch.ops.aten.threshold_backward.grad_input  # relu's own backward, in place
    batch, n_latents = latents.shape
    d_pre = large_empty(batch, n_latents, latents.dtype)
    blocks = (tensor.split(ROWS) for tensor in (d_decoded, latents, d_pre))
    for gradient, values, out in zip(*blocks, strict=True):
        torch.mm(gradient, rows, out=out).add_(slope)
        mask(out, values, 0, grad_input=out)
    return d_pre
