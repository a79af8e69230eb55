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
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    weight.div_(norms.clamp_min_(torch.finfo(weight.dtype).tiny))


def remove_parallel_(gradient: Float[Tensor, "n d"], rows: Float[Tensor, "n d"]) -> None:
    """Remove from each row of `gradient` its component along the same (unit) row, in place.

    g <- g - (g · d) d: a step along a unit row would be undone by renormalising it, and would only
    feed Adam's moments with noise.
    """
    along = torch.linalg.vecdot(gradient, rows)
    gradient.addcmul_(rows, along[:, None], value=-1)
