"""Baselines at a dictionary's own l0, and whether what they leave differs by more than chance.

Most baselines have a whole number of latents on, and a dictionary has not. So each is measured with the
whole numbers below and above, and its numbers at the l0 between are on the straight line. FVU falls ever
more slowly with l0, so that the line is a little above the truth: what is left of it is not in the
baseline's favour, and `overstated` says how much it can be. Where neither side reaches (too few coordinates
that are positive), and where a penalty gives any l0, the nearest one stands for itself, with its own l0.

An FVU is a ratio of sums over contexts. Where these are drawn again for an interval, what is left and the
variance that it is a share of are of the same contexts.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64

from monosem.metrics.heldout import HeldOut
from monosem.metrics.loss_recovered import delta_ce, share
from monosem.metrics.measure import Measure, bootstrap

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
    """A row as measured, and sums of each context: what intervals are made of."""

    row: Row
    errors: Float[np.ndarray, " n_contexts"]
    """Σ ‖x − x̂‖²."""
    variances: Float[np.ndarray, " n_contexts"]
    """Σ ‖x − mean‖²: the same for all points of one model and text."""

    def fvu(self, drawn: Int64[np.ndarray, " drawn"]) -> float:
        """Return the FVU of the contexts `drawn`, which may name one several times."""
        variance = float(self.variances[drawn].sum())
        return float(self.errors[drawn].sum()) / variance if variance else math.nan


def point(
    key: str, held: HeldOut, n_tokens: Int[np.ndarray, " n_contexts"], n_dead: int = -1
) -> Point:
    """Return what the pass found of the dictionary `key`; `n_tokens` are the ordinary ones of a context."""
    original, spliced = held.unspliced["original"], held.spliced[key]
    sums = held.ordinary[key]
    measures = sums.measures()
    recovered = share(delta_ce(spliced, original), delta_ce(held.unspliced["mean"], original))
    of = np.repeat(np.arange(len(n_tokens)), n_tokens)
    errors, variances = (
        np.bincount(of, weights=np.concatenate(parts), minlength=len(n_tokens))
        for parts in (sums.errors, sums.variances)
    )
    row = Row(
        l0=measures["l0"],
        fvu=measures["fvu"],
        perplexity=math.exp(float(spliced.mean())),
        recovered=math.nan if recovered.value is None else recovered.value,
        n_dead=n_dead,
    )
    return Point(row=row, errors=errors, variances=variances)


def at(points: Sequence[Point], l0: float, *, log: bool = False) -> Point:
    """Return what was measured as `points` of one text at another l0: on the line, or the nearest of them.

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
    errors = low.errors + part * (high.errors - low.errors)
    return Point(row=row, errors=errors, variances=low.variances)


def beside(theirs: Point, ours: Point, seed: int) -> Row:
    """Return the row of a baseline with the interval of its difference from the dictionary."""
    found = resampled(theirs, seed, less=ours)
    if found.low is None or found.high is None:
        return theirs.row
    return dataclasses.replace(theirs.row, low=found.low, high=found.high)


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


def resampled(found: Point, seed: int, *, less: Point | None = None) -> Measure:
    """Return the FVU of a point, or by how much it is above that of `less`, with its interval.

    Contexts are drawn again, the same for both points and for all measures of one seed.
    """

    def fvu(drawn: Int64[np.ndarray, " drawn"]) -> float:
        return found.fvu(drawn) - (less.fvu(drawn) if less else 0.0)

    return bootstrap(fvu, len(found.errors), seed=seed, n_draws=N_RESAMPLED)
