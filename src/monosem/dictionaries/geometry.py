"""Geometry of directions: geometric median, unit rows, and gradients that keep them so."""

import torch
from jaxtyping import Float
from torch import Tensor


def geometric_median(
    x: Float[Tensor, "sample d"], *, n_iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to the rows of `x` (Weiszfeld's iteration).

    Ends early when a step is shorter than `tolerance` times the spread of the data.

    >>> geometric_median(torch.tensor([[0.0], [1.0], [9.0]])).round(decimals=2)
    tensor([1.])
    """
    median = x.mean(0)
    spread = (x - median).norm(dim=1).mean()
    for _ in range(n_iterations):
        distances = (x - median).norm(dim=1).clamp_min(1e-6 * spread + 1e-12)
        weights = 1 / distances
        moved = (weights @ x) / weights.sum()
        step, median = (moved - median).norm(), moved
        if step <= tolerance * spread:
            break
    return median


def unit_rows_(weight: Float[Tensor, "n d"]) -> None:
    """Divide each row by its norm, in place; a row of zeros stays."""
    for rows in weight.split(_at_once(weight)):
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        rows.div_(norms.clamp_min_(torch.finfo(weight.dtype).tiny))


def remove_parallel_(gradient: Float[Tensor, "n d"], rows: Float[Tensor, "n d"]) -> None:
    """Remove from each row of `gradient` its component along the same (unit) row, in place.

    g <- g - (g · d) d: a step along a unit row would be undone by renormalising it, and would only
    feed Adam's moments with noise.
    """
    n = _at_once(gradient)
    for some, along in zip(gradient.split(n), rows.split(n), strict=True):
        lengths = (some * along).sum(1, keepdim=True)
        some.addcmul_(along, lengths, value=-1)


def directions(
    d_in: int, d_out: int, n_latents: int, generator: torch.Generator
) -> tuple[Float[Tensor, "d_in n_latents"], Float[Tensor, "n_latents d_out"]]:
    """Random unit encoder columns and decoder rows to start from; the same ones where widths agree.

    One latent's encoder vector is contiguous in memory: the sparse kernels read it whole.
    """
    W_dec = torch.randn(n_latents, d_out, generator=generator)
    unit_rows_(W_dec)
    same = d_in == d_out
    rows = W_dec.clone() if same else torch.randn(n_latents, d_in, generator=generator)
    unit_rows_(rows)
    return rows.t(), W_dec


def _at_once(weight: Float[Tensor, "n d"]) -> int:
    """Rows to read twice in a row: on the CPU so few that they stay in the caches between."""
    n, d = weight.shape
    return max(1, 2**19 // d if weight.device.type == "cpu" else n)
