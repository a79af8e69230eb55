"""Encoders whose rows have as many entries as they happen to have, on the CPU.

    encode_above         all entries above a floor of each latent
    encode_batch_top_k   the `k * batch` largest positive entries of a batch

The product is searched block by block while it is in the caches, and kept nowhere; what is found gets
exact values and gradients from `sparse_cpu`. Under the bf16 policy the search sees rounded products:
`encode_above` may then miss an entry that is nearer to its floor than they are rounded, and
`encode_batch_top_k` searches deeper until no rounding that it saw could hide an entry from it. Under the
int8 policy `int8_ragged` searches, and finds all, where it can.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.kernels import int8_cpu, int8_ragged, parts_cpu, sparse_cpu, workspace
from monosem.kernels.dense import policy_type, product_blocks
from monosem.kernels.pattern import Pattern
from monosem.kernels.select import first_largest, places_above
from monosem.runtime import matmul

STRIDE = 61
"""Distance of the products that say how high the largest are; a prime visits all latents in turn."""
MORE, WIDER = 1.25, 1.5
"""How many times as many as are needed are searched for, and how many more where that was too few."""

Encoded = tuple[Float[Tensor, " entries"], Pattern]
"""Pre-activations, which carry gradients, and where they are; sorted by row and latent."""


@dataclass(frozen=True)
class _Found:
    """Entries above `floor`, as the policy's product sees them, or as they are."""

    values: Float[Tensor, " entries"]
    pattern: Pattern
    floor: float
    scored: bool = False
    """Whether the values are exact whatever the policy."""


def encode_above(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    floor: Float[Tensor, " n_latents"] | float,
    most: float,
) -> Encoded | None:
    """All entries above `floor`; None if they are more than the share `most` of a block of rows."""
    with torch.no_grad():
        centred = sparse_cpu.centred(x, centre)
        found = _search(centred, W_enc, b_enc - floor, most=most)
        if found is None:
            return None
        pattern = found.pattern
        floors = floor[pattern.indices] if isinstance(floor, Tensor) else floor
        scored = found.values + floors if found.scored else None
        values = _exact(centred, W_enc, b_enc, pattern) if scored is None else scored
        values, pattern = _kept(values, pattern, values > floors)
    return parts_cpu.encode_at(x, centre, W_enc, b_enc, pattern, values, centred), pattern


def encode_batch_top_k(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> Encoded:
    """The `k * batch` largest entries of the batch, or all positive ones if those are fewer."""
    with torch.no_grad():
        centred = sparse_cpu.centred(x, centre)
        values, pattern = _largest(centred, W_enc, b_enc, k * len(x))
    return parts_cpu.encode_at(x, centre, W_enc, b_enc, pattern, values, centred), pattern


def _largest(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    n: int,
) -> Encoded:
    share = MORE * n / max(1, len(centred) * len(b_enc))
    while True:
        found = _search(centred, W_enc, b_enc, share=share)
        assert found is not None, "no share is too large"
        values, pattern, error = found.values, found.pattern, 0.0
        rounded = policy_type(centred) != centred.dtype and not found.scored
        if rounded and len(values):
            values = _exact(centred, W_enc, b_enc, pattern)
            error = float((values - found.values).abs().amax())
        if len(values) > n:
            chosen, smallest = first_largest(values, n)
            if found.floor == 0 or float(smallest) >= found.floor + error:
                return _kept(values, pattern, chosen)
        elif found.floor == 0:
            return values, pattern
        share *= WIDER


def _search(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    *,
    share: float = 1.0,
    most: float = 1.0,
) -> _Found | None:
    """Positive entries; those alone that are as high as `share` of the first block, if that is less."""
    if matmul.current() == "int8" and int8_cpu.suits(centred, W_enc):
        found = int8_ragged.search(centred, W_enc, b_enc, share)
        workspace.remark(int8_cpu.SHARE, float(found is not None))
        if found is not None:
            too_many = len(found[0]) > most * len(centred) * len(b_enc)
            return None if too_many else _Found(*found, scored=True)
    floor, n_latents, first = -1.0, len(b_enc), 0
    values, places = list[Tensor](), list[Tensor]()
    for block in product_blocks(centred, W_enc, b_enc):
        floor = floor if floor >= 0 else _reached_by(block, share)
        inside = places_above(block, floor)
        if len(inside) > most * block.numel():
            return None
        values.append(block.flatten().index_select(0, inside).to(centred.dtype))
        places.append(inside + first)
        first += block.numel()
    return _Found(torch.cat(values), _pattern(torch.cat(places), len(centred), n_latents), floor)


def _reached_by(block: Float[Tensor, "rows n"], share: float) -> float:
    """A floor that about `share` of a block is above, 0 if not so much is positive."""
    sample = block.flatten()[::STRIDE]
    n = math.ceil(share * len(sample))
    return max(0.0, float(sample.topk(n).values[-1])) if 0 < n < len(sample) else 0.0


def _exact(
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    pattern: Pattern,
) -> Float[Tensor, " entries"]:
    values = parts_cpu.inner(centred, W_enc, pattern)
    return values.add_(b_enc.index_select(0, pattern.indices))


def _pattern(places: Int64[Tensor, " entries"], batch: int, n_latents: int) -> Pattern:
    """The pattern of sorted places in a flattened `[batch n_latents]`."""
    starts = torch.searchsorted(places, torch.arange(batch + 1) * n_latents)
    rows = torch.from_numpy(places.numpy() // n_latents)  # ten times as fast as torch's
    return Pattern((places - rows * n_latents).int(), starts.int(), n_latents)


def _kept(
    values: Float[Tensor, " entries"], pattern: Pattern, chosen: Bool[Tensor, " entries"]
) -> tuple[Float[Tensor, " kept"], Pattern]:
    """Some of the entries."""
    before = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.cumsum(0)])
    starts = before.index_select(0, pattern.row_starts).int()
    return values[chosen], Pattern(pattern.indices[chosen], starts, pattern.n_latents)
