"""All pre-activations of a batch above one floor, found in a product of 8-bit integers, on the CPU.

What is `slack` below the floor (rounding.py) or higher is computed again in fp32; rows that it was not sound
to round are multiplied in fp32. If one entry found is further off than `slack`, nothing is believed.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.kernels.dense import product_blocks
from monosem.kernels.int8_cpu import (
    DOUBTFUL,
    NOWHERE,
    Entries,
    Products,
    above,
    blocks,
    exactly,
    joined,
)
from monosem.kernels.pattern import Pattern, stable_order
from monosem.kernels.rounding import Rounded, rounded
from monosem.kernels.select import places_above
from monosem.runtime import matmul

STRIDE = 61
"""Distance of the products that say how high the largest are; a prime visits all latents in turn."""
MOST = 1 / 8
"""Share of the groups of latents that may be looked into before a product in bf16 is quicker."""

Found = tuple[Float[Tensor, " entries"], Pattern, float]
"""Exact values, where they are in the order of rows and latents, and the floor: all above it are there."""


def search(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    share: float,
) -> Found | None:
    """Positive entries; those alone that are as high as `share` of a block, if that is less.

    None if there are too many, or too many rows that cannot be rounded.
    """
    both = rounded(x, W_enc, b_enc)
    if both is None or (~both.sound).sum() > DOUBTFUL * len(x):
        return None
    floor, parts = -1.0, list[tuple[slice, Entries]]()
    for some, block, maxima in blocks(both):
        unit = torch.where(both.sound, both.unit, 0.0)[some]
        floor = floor if floor >= 0 else _reached_by(block, unit, share)
        lowest = torch.where(unit > 0, floor / unit - both.slack[some], NOWHERE)
        found = above(
            block, maxima, lowest.floor_().clamp_max_(NOWHERE).int(), int(MOST * maxima.numel())
        )
        if found is None:
            return None
        parts.append((some, found))
    entries = _with_others(joined(parts), x, W_enc, b_enc, both, floor)
    # twice by few digits: thrice as fast as by both
    entries = entries.at(stable_order(entries.latents.int(), len(b_enc)))
    entries = entries.at(stable_order(entries.rows.int(), len(x)))
    pattern, values, far = exactly(x, W_enc, b_enc, both, entries)
    if bool((far & both.sound[entries.rows]).any()):
        return None
    return values, pattern, floor


def _reached_by(block: Products, unit: Float[Tensor, " rows"], share: float) -> float:
    """A floor that about `share` of a block is above, 0 if not so much is positive."""
    places = torch.arange(0, block.numel(), STRIDE)
    sample = block.flatten()[::STRIDE] * unit[places % block.shape[1]]
    n = math.ceil(share * len(sample))
    return max(0.0, float(sample.topk(n).values[-1])) if 0 < n < len(sample) else 0.0


def _with_others(
    entries: Entries,
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    both: Rounded,
    floor: float,
) -> Entries:
    """Entries and those of the rows that could not be rounded."""
    others: Int64[Tensor, " others"] = (~both.sound).nonzero()[:, 0]
    found, first, n = [entries], 0, len(b_enc)
    with matmul.scope("fp32"):
        for block in product_blocks(x[others], W_enc, b_enc) if len(others) else ():
            places = places_above(block, floor)
            row = places // n
            latents = places - row * n
            found.append(Entries(others[first + row], latents, torch.zeros_like(latents).int()))
            first += len(block)
    return Entries(
        rows=torch.cat([part.rows for part in found]),
        latents=torch.cat([part.latents for part in found]),
        roughly=torch.cat([part.roughly for part in found]),
    )
