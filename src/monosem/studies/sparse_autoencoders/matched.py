"""Baselines at a dictionary's own l0, and whether what they leave differs by more than chance.

Most baselines have a whole number of latents on, and a dictionary has not. So each is measured with the
whole numbers below and above, and its numbers at the l0 between are on the straight line. FVU falls ever
more slowly with l0, so that the line is a little above the truth: what is left of it is not in the
baseline's favour, and `overstated` says how much it can be. Where neither side reaches (too few coordinates
that are positive), and where a penalty gives any l0, the nearest one stands for itself, with its own l0.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from monosem.metrics.heldout import HeldOut
from monosem.metrics.loss_recovered import delta_ce, share

N_RESAMPLED = 1_000
"""Times that contexts are drawn again for an interval."""
MATCHED = 0.03
"""Of a dictionary's l0: by how much another may differ and still be called the same."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one dictionary leaves, on the held-out text."""

    l0: float
    fvu: float
    perplexity: float
    """With the reconstruction spliced in."""
    recovered: float
    """Loss recovered, of the mean ablation; NaN where that costs too little to be divided by."""
    n_dead: int = -1
    """Latents that did not fire; -1: not counted."""
    low: float = math.nan
    """Of its FVU minus that of the dictionary it stands beside: 95 % interval over contexts."""
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row as measured, and the squared errors of each context: what intervals are made of."""

    row: Row
    errors: Float[np.ndarray, " n_contexts"]
    """As shares of the variance of all contexts: their sum is the FVU."""


def point(
    key: str, held: HeldOut, n_tokens: Int[np.ndarray, " n_contexts"], n_dead: int = -1
) -> Point:
    """Return what the pass found of the dictionary `key`; `n_tokens` are the ordinary ones of a context."""
    original, spliced = held.unspliced["original"], held.spliced[key]
    sums = held.ordinary[key]
    measures = sums.measures()
    recovered = share(delta_ce(spliced, original), delta_ce(held.unspliced["mean"], original))
    of = np.repeat(np.arange(len(n_tokens)), n_tokens)
    errors = np.bincount(of, weights=np.concatenate(sums.errors), minlength=len(n_tokens))
    row = Row(
        l0=measures["l0"],
        fvu=measures["fvu"],
        perplexity=math.exp(float(spliced.mean())),
        recovered=math.nan if recovered.value is None else recovered.value,
        n_dead=n_dead,
    )
    return Point(row=row, errors=errors / sums.variance)


def at(points: Sequence[Point], l0: float, *, log: bool = False) -> Point:
    """Return what was measured as `points` at another l0: on the line, or the nearest of them.

    With `log` the line is over the logarithm of l0, for points that are far apart.
    """
    below, above = [p for p in points if p.row.l0 <= l0], [p for p in points if p.row.l0 > l0]
    if not below or not above:
        return min(points, key=lambda p: abs(p.row.l0 - l0))
    low, high = max(below, key=lambda p: p.row.l0), min(above, key=lambda p: p.row.l0)
    where = [math.log(each) if log else each for each in (low.row.l0, l0, high.row.l0)]
    part = (where[1] - where[0]) / (where[2] - where[0])

    def between(a: float, b: float) -> float:
        return a + part * (b - a)

    row = Row(
        l0=l0,
        fvu=between(low.row.fvu, high.row.fvu),
        perplexity=math.exp(between(math.log(low.row.perplexity), math.log(high.row.perplexity))),
        recovered=between(low.row.recovered, high.row.recovered),
    )
    return Point(row=row, errors=low.errors + part * (high.errors - low.errors))


def beside(theirs: Point, ours: Point, seed: int) -> Row:
    """Return the row of a baseline with the interval of its difference from the dictionary."""
    low, high = interval(theirs.errors - ours.errors, seed)
    return dataclasses.replace(theirs.row, low=low, high=high)


def overstated(fvus: Sequence[float], part: float) -> float:
    """Return by how much the line can be above the truth, `part` of the way between two whole numbers.

    `fvus` are those of the whole number before them, of both, and of the one after. Where what another
    latent takes away falls from one to the next, the truth is above both lines that go on from outside.
    """
    before, between, after = (a - b for a, b in itertools.pairwise(fvus))
    return max(0.0, min(part * (before - between), (1 - part) * (between - after)))


def verdict(row: Row, ours: Row) -> str:
    """Return whether a baseline leaves "less", "more" or as much ("tied") as the dictionary beside it.

    "unmatched" where its l0 is another and decides nothing by that; "unknown" where a number is missing.
    """
    if not all(math.isfinite(value) for value in (row.fvu, row.low, row.high, ours.fvu)):
        return "unknown"
    excess = row.l0 / ours.l0 - 1 if ours.l0 else math.inf
    if row.high < 0 and excess <= MATCHED:
        return "less"
    if row.low > 0 and excess >= -MATCHED:
        return "more"
    return "tied" if abs(excess) <= MATCHED else "unmatched"


def interval(apart: Float[np.ndarray, " n_contexts"], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of a sum over contexts, drawn again; the same for all that are of one seed."""
    n = len(apart)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLED)
    low, high = np.quantile(drawn @ apart, (0.025, 0.975))
    return float(low), float(high)
