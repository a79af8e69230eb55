"""The `k` largest pre-activations of each row, found in a product of 8-bit integers, on the CPU.

Such a product takes half the time of one in bfloat16, and is ten times as coarse. So it says only which
entries may be among the largest: of each row those above a floor, as many as there are. They are computed
again in fp32, and a row counts if all of these hold, `slack` being that of rounding.py:

    its k-th largest exact value is at least `slack` above the floor, or all that is positive was found;
    no entry found was further off than `slack`;
    it was sound to round it, and at most `4k + MANY` entries were found.

The floor is `slack` and a little below the k-th largest of the maxima of groups of latents, which k
entries reach. Other rows are the caller's to compute, and if a block has too many of them, all are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from monosem.kernels import sparse_cpu, workspace
from monosem.kernels.pattern import Pattern, stable_order
from monosem.kernels.rounding import Rounded, rounded
from monosem.runtime import matmul

GROUP = 8
"""Latents whose largest entry is looked at before they are."""
GROUPS = 256
"""Maxima, or four for each of `k` if those are more, of which the k-th largest makes the floor."""
FEWEST_INPUTS, FEWEST_LATENTS, FEWEST_ROWS = 256, 4096, 512
"""With fewer, rounding and searching cost more than the product saves."""
AT_ONCE, FEWEST_AT_ONCE = 2**22, 512
"""Entries of a product looked at while they are in the caches; but fewer rows waste the product."""
MORE = 3.0
"""Standard deviations that the floor is lower than need be, for the k-th largest exact value is one."""
MANY = 64
"""Entries found beyond `4k` above which a row is better computed otherwise."""
DOUBTFUL = 0.05
"""Share of a block's rows that may be so before all rows are."""
SHARE = "int8_rows"
"""Name in the log of the share of rows that a step believed; the others were computed otherwise."""
NOWHERE = 2.0**30
"""Above every product."""

Products = Int32[Tensor, "n_latents rows"]
"""Products of latents with rows, in the units of these."""
Maxima = Int32[Tensor, "groups rows"]
"""The largest of each group of latents."""

Chosen = tuple[Float[Tensor, "batch k"], Int32[Tensor, "batch k"], Bool[Tensor, " batch"]]
"""Values, which latents, and for which rows both are the `k` largest."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of a product above the floors of their rows, in any order."""

    rows: Int64[Tensor, " entries"]
    latents: Int64[Tensor, " entries"]
    roughly: Int32[Tensor, " entries"]
    """Their products, in units."""

    def at(self, places: Int64[Tensor, " some"]) -> "Entries":
        """Those at `places`, in that order."""
        chosen = (t.index_select(0, places) for t in (self.rows, self.latents, self.roughly))
        return Entries(*chosen)


def suits(
    x: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_read n_latents"], k: int = 1
) -> bool:
    """Whether the search takes these, and gains by their shape."""
    n = W_enc.shape[1]
    large = n >= max(FEWEST_LATENTS, 4 * GROUP * k) and len(x) >= FEWEST_ROWS
    large = large and len(W_enc) >= FEWEST_INPUTS
    plain = x.shape[1] == len(W_enc) and W_enc.t().is_contiguous()
    return large and plain and n % GROUP == 0 and x.dtype == torch.float32


def choose_top_k(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> Chosen | None:
    """The `k` largest positive pre-activations of each row, where that is sure but for one entry in 10^9.

    None if too many rows are doubtful, or the weights cannot be rounded.
    """
    both = rounded(x, W_enc, b_enc)
    found = None if both is None else _search(both, k)
    if both is None or found is None:
        return None
    entries, floor = found
    entries = entries.at(stable_order(entries.rows.int(), len(x)))
    pattern, exact, far = exactly(x, W_enc, b_enc, both, entries)
    values, indices = _padded(exact, pattern, k)
    values, places = values.topk(k, dim=1, sorted=False)
    margin = values.amin(1) / both.unit - both.slack
    sure = (margin >= floor) | (margin.isfinite() & (floor <= -both.slack))
    sure[entries.rows[far]] = False
    return values, indices.gather(1, places), sure


def exactly(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    both: Rounded,
    entries: Entries,
) -> tuple[Pattern, Float[Tensor, " entries"], Bool[Tensor, " entries"]]:
    """Entries, which come in the order of rows, their values in fp32, and which are too far from these."""
    n_before = torch.bincount(entries.rows, minlength=len(x)).cumsum(0).int()
    starts = torch.cat([n_before.new_zeros(1), n_before])
    indices = entries.latents.int()
    pattern = Pattern(indices, starts, len(b_enc))
    exact = sparse_cpu.inner(x, W_enc, pattern).add_(b_enc.index_select(0, indices))
    off = (exact / both.unit.index_select(0, entries.rows)).sub_(entries.roughly)
    return pattern, exact, off.abs_() > both.slack.index_select(0, entries.rows)


def blocks(both: Rounded) -> Iterator[tuple[slice, Products, Maxima]]:
    """Of some rows at a time: which, their products, and the largest of each group of latents.

    All are the same memory, small enough to be looked at while it is in the caches. Group `g` has the
    latents `g`, `g + n_groups`, `g + 2 n_groups` and so on.
    """
    batch, n = len(both.x), len(both.weight)
    n_rows = min(max(FEWEST_AT_ONCE, AT_ONCE // n), batch)
    memory = workspace.empty("products", n, n_rows, torch.int32).flatten()
    for first in range(0, batch, n_rows):
        some = slice(first, min(first + n_rows, batch))
        block = memory[: n * (some.stop - first)].view(n, -1)
        matmul.int8_product(both.weight, both.x[some].t(), block)
        yield some, block, block.view(GROUP, n // GROUP, -1).amax(0)


def above(
    block: Products, maxima: Maxima, floor: Int32[Tensor, " rows"], most: int
) -> Entries | None:
    """What of a block is above its row's `floor`; None if that is in more than `most` groups."""
    n_rows = block.shape[1]
    groups = np.flatnonzero((maxima > floor).numpy())
    if len(groups) > most:
        return None
    group = groups // n_rows
    row = groups - group * n_rows
    entries = block.view(GROUP, -1).gather(1, torch.from_numpy(groups).expand(GROUP, -1))
    higher = np.flatnonzero((entries > floor.index_select(0, torch.from_numpy(row))).numpy())
    member = higher // max(1, len(groups))
    which = higher - member * len(groups)
    return Entries(
        rows=torch.from_numpy(row[which]),
        latents=torch.from_numpy(member * len(maxima) + group[which]),
        roughly=entries.flatten().index_select(0, torch.from_numpy(higher)),
    )


def joined(parts: list[tuple[slice, Entries]]) -> Entries:
    """Entries of blocks as entries of the batch."""
    return Entries(
        rows=torch.cat([part.rows + some.start for some, part in parts]),
        latents=torch.cat([part.latents for _, part in parts]),
        roughly=torch.cat([part.roughly for _, part in parts]),
    )


def _search(both: Rounded, k: int) -> tuple[Entries, Int32[Tensor, " batch"]] | None:
    """What is above each row's floor, and the floors; nothing of rows in which that is too much.

    None if too many rows have too much.
    """
    parts, floors, most = list[tuple[slice, Entries]](), list[Tensor](), 4 * k + MANY
    for some, block, maxima in blocks(both):
        floor = _floors(maxima, both, some, k)
        found = above(block, maxima, floor, most * len(floor))
        if found is None:
            return None
        doubtful = torch.bincount(found.rows, minlength=len(floor)) > most
        if int((doubtful | ~both.sound[some]).sum()) > DOUBTFUL * len(floor):
            return None
        if bool(doubtful.any()):
            kept = ~doubtful.index_select(0, found.rows)
            found = Entries(found.rows[kept], found.latents[kept], found.roughly[kept])
        parts.append((some, found))
        floors.append(floor)
    return joined(parts), torch.cat(floors)


def _floors(maxima: Maxima, both: Rounded, some: slice, k: int) -> Int32[Tensor, " rows"]:
    """Of each row the floor above which its `k` largest are; above everything for an unsound row."""
    wanted = max(GROUPS, 4 * k)
    fold = 1
    while len(maxima) % (2 * fold) == 0 and len(maxima) // (2 * fold) >= wanted:
        fold *= 2
    few = maxima.view(fold, -1, maxima.shape[1]).amax(0)
    keys = few.t().contiguous().numpy()
    keys.partition(len(few) - k, axis=1)
    reached = torch.from_numpy(keys[:, len(few) - k])
    slack = both.slack[some]
    low = slack + both.deviation[some] * MORE
    floor = torch.maximum(reached - low, -slack).floor_()
    return torch.where(both.sound[some], floor, torch.inf).clamp_max_(NOWHERE).int()


def _padded(
    values: Float[Tensor, " entries"], pattern: Pattern, k: int
) -> tuple[Float[Tensor, "batch most"], Int32[Tensor, "batch most"]]:
    """Values and latents of each row side by side, minus infinity after the last; `k` at least."""
    starts = pattern.row_starts.long()
    width = max(int(starts.diff().amax()), k)
    n_before = torch.arange(len(pattern)) * width - starts[:-1]
    places = torch.arange(len(values)) + n_before.index_select(0, pattern.rows)
    wide = values.new_full((len(pattern) * width,), -torch.inf)
    latents = torch.zeros(len(wide), dtype=torch.int32)
    wide[places], latents[places] = values, pattern.indices
    return wide.view(-1, width), latents.view(-1, width)
