"""Encoders whose latents read one part of the input each, as those of a cross-layer transcoder do.

    pre[b, j] = x[b, part of j] · W_enc[:, j] + b_enc[j]        part of j = j // (n_latents / n_parts)

`W_enc` then has the rows of one part, and that it has fewer than `x` has columns is what says so. All
products with an encoder are written as loops over parts, of which an ordinary encoder has one: they
cost `2 * batch * d_in * n_latents / n_parts` operations.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.runtime import matmul


def spans(width: int, weight: Float[Tensor, "d_read n_latents"]) -> list[tuple[slice, slice]]:
    """Of each part: its latents, and the columns of a `width` wide input that they read."""
    d_read, n_latents = weight.shape
    n_parts = width // d_read
    each = n_latents // n_parts
    return [
        (slice(i * each, (i + 1) * each), slice(i * d_read, (i + 1) * d_read))
        for i in range(n_parts)
    ]


def product(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_read n_latents"]
) -> Float[Tensor, "*batch n_latents"]:
    """What each latent reads of `x`; rounded to bfloat16, result included, where the policy says so."""
    if matmul.in_bf16() and x.dtype == torch.float32:
        x, weight = x.bfloat16(), weight.bfloat16()
    return plain_product(x, weight)


def plain_product(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_read n_latents"]
) -> Float[Tensor, "*batch n_latents"]:
    """The same in the type of both, the wider one if they differ, under every policy."""
    x = x.to(torch.promote_types(x.dtype, weight.dtype))
    if x.shape[-1] == len(weight):
        return x @ weight
    return torch.cat([part @ w for part, w in split(x, weight)], -1)


def pre_activations(
    x: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_read n_latents"],
    bias: Float[Tensor, " n_latents"],
) -> Float[Tensor, "rows n_latents"]:
    """The same with a bias, in one go."""
    if x.shape[1] == len(weight):
        return torch.addmm(bias, x, weight)
    some = bias.split(len(bias) * len(weight) // x.shape[1])
    pairs = zip(some, split(x, weight), strict=True)
    return torch.cat([torch.addmm(b, part, w) for b, (part, w) in pairs], 1)


def affine(
    bias: Float[Tensor, " n_latents"],
    x: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_read n_latents"],
    *,
    out: Float[Tensor, "rows n_latents"],
) -> Float[Tensor, "rows n_latents"]:
    """`out`, which becomes `bias` and what each latent reads of `x`; no gradients."""
    for latents, columns in spans(x.shape[1], weight):
        torch.addmm(bias[latents], x[:, columns], weight[:, latents], out=out[:, latents])
    return out


def multiply(
    x: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_read n_latents"],
    *,
    out: Float[Tensor, "rows n_latents"],
) -> Float[Tensor, "rows n_latents"]:
    """The same without a bias."""
    for latents, columns in spans(x.shape[1], weight):
        torch.mm(x[:, columns], weight[:, latents], out=out[:, latents])
    return out


def split(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_read n_latents"]
) -> list[tuple[Float[Tensor, "*batch d_read"], Float[Tensor, "d_read n_each"]]]:
    """Each part of `x`, and the columns that read it; differentiable."""
    if x.shape[-1] == len(weight):
        return [(x, weight)]
    seen = spans(x.shape[-1], weight)
    # split by rows of memory: then autograd puts the gradients back together in one copy
    columns = weight.t().split(seen[0][0].stop)
    return [(x[..., part], w.t()) for (_, part), w in zip(seen, columns, strict=True)]


def split_centre(
    centre: Float[Tensor, " d_in"], weight: Float[Tensor, "d_read n_latents"]
) -> tuple[Float[Tensor, " d_read"], ...]:
    """Each part of what is subtracted from the input."""
    return centre.split(len(weight))
