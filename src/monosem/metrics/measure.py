"""Measure: a number with its interval and what chance gives, or the reason why there is none.

    interval   95 %, by the percentile bootstrap of what was drawn independently (contexts, latents,
               test examples), seeded; of few of them it is too narrow: it covers 93 % of 20, 84 % of 5.
               Wilson's, of a share of independent cases, and of one whose cases come in groups
               (`share_of_groups`); Student's, of the mean of a few labels
    null       the same measure where it can only be chance: labels shuffled, tokens paired anew, random
               directions; of as many candidates, where it is the largest of several. Where chance was drawn
               several times: their mean, and `null_high`, the largest of them

A measure whose precondition fails has no value and says `not applicable: …`. One of whose chance no draw
has a number keeps its value, and says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64
from scipy.stats import t as student

from monosem.core.config import Json

LEVEL = 95.0
"""Per cent that an interval covers."""
N_DRAWS = 500
N_CHANCES = 10
"""Draws of chance, where one is a whole search or fit."""
NO_CHANCE = "no draw of chance has a number"
Null = float | np.ndarray | None
"""What chance gives: a number, or several draws of it."""
Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, or `None` and the reason why there is none."""

    value: float | None
    low: float | None = None
    """Ends of the interval around `value`, where it has one."""
    high: float | None = None
    null: float | None = None
    """The same by chance; the mean, where it was drawn several times."""
    null_high: float | None = None
    """The largest of those draws."""
    n_nulls: int = 0
    """How many draws that is the largest of."""
    n: int = 0
    """What it is measured on: tokens, latents, examples."""
    void: str = ""

    @property
    def applicable(self) -> bool:
        """Whether there is a number."""
        return self.value is not None

    @property
    def beyond_null(self) -> bool:
        """Whether all of the interval lies above what chance gives, above every draw of it."""
        chance = self.null if self.null_high is None else self.null_high
        return self.low is not None and chance is not None and self.low > chance

    def json(self) -> Json:
        """What is known of it, and nothing else."""
        names = ("low", "high", "null", "null_high")
        optional: dict[str, float | None] = {name: getattr(self, name) for name in names}
        known: Json = {k: v for k, v in optional.items() if v is not None and math.isfinite(v)}
        known |= {"n": self.n} if self.n else {}
        known |= {"n_nulls": self.n_nulls} if self.n_nulls else {}
        known |= {"void": self.void} if self.void else {}
        return {"value": self.value} | known

    def __str__(self) -> str:
        """`0.72 [0.70, 0.74] (chance 0.31, the largest of 10: 0.4)`, or why there is none."""
        if self.value is None:
            return self.void
        around = "" if self.low is None else f" [{self.low:.3g}, {self.high:.3g}]"
        if self.null is None:
            return f"{self.value:.3g}{around}" + (f" ({self.void})" if self.void else "")
        most = (
            ""
            if self.null_high is None
            else f", the largest of {self.n_nulls}: {self.null_high:.3g}"
        )
        return f"{self.value:.3g}{around} (chance {self.null:.3g}{most})"


def not_applicable(reason: str, n: int = 0) -> Measure:
    """Return what a measure answers where its precondition fails.

    >>> print(not_applicable("the probe has F1 0.61 < 0.9"))
    not applicable: the probe has F1 0.61 < 0.9
    """
    return Measure(value=None, n=n, void=f"not applicable: {reason}")


def beside_chance(found: Measure, null: Null) -> Measure:
    """Return a measure with its chance: of several draws the mean, and the largest.

    >>> beside_chance(Measure(value=1.0), np.array([0.1, 0.3])).null
    0.2
    """
    if null is None or isinstance(null, float | int):
        return replace(found, null=null)
    known = null[np.isfinite(null)]
    if not len(known):
        return replace(found, void=found.void or NO_CHANCE)
    high = float(known.max())
    return replace(found, null=float(known.mean()), null_high=high, n_nulls=len(known))


def bootstrap(
    statistic: Callable[[Int64[np.ndarray, " drawn"]], float],
    n: int,
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
    null: Null = None,
) -> Measure:
    """Return `statistic` of the units 0 to n - 1, with the interval of drawing `n` of them anew.

    `statistic` is given indices. Units are what is independent: contexts rather than tokens. Draws on
    which it is not finite (no case of a class) are left out.
    """
    if n < 1:
        return not_applicable("nothing to measure it on")
    value = statistic(np.arange(n))
    random = np.random.default_rng(seed)
    draws = np.array([statistic(random.integers(0, n, n)) for _ in range(n_draws)])
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not math.isfinite(value):
        return not_applicable(f"not finite ({value})", n)
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    found = Measure(value=float(value), low=float(low), high=float(high), n=n)
    return beside_chance(found, null)


def grouped(
    statistic: Callable[[Int64[np.ndarray, " rows"]], float],
    groups: Int64[np.ndarray, " n"],
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
    null: Null = None,
) -> Measure:
    """Return `statistic` of all rows, with the interval of drawing their groups (contexts) anew.

    Rows of one group are not independent of each other, and are drawn together.
    """
    if not len(groups):
        return not_applicable("nothing to measure it on")
    inverse = np.unique(groups, return_inverse=True)[1]
    order, ends = np.argsort(inverse, kind="stable"), np.bincount(inverse).cumsum()
    rows = np.split(order, ends[:-1])
    found = bootstrap(
        lambda drawn: statistic(np.concatenate([rows[i] for i in drawn])),
        len(rows),
        seed=seed,
        n_draws=n_draws,
        null=null,
    )
    return replace(found, n=len(groups))


def crossed(
    values: Float[np.ndarray, " pairs"],
    groups: Int64[np.ndarray, "two pairs"],
    *,
    seed: int = 0,
    null: Null = None,
) -> Measure:
    """Return the mean over pairs, with the interval of drawing anew the groups that both sides are of.

    A pair counts as often as both were drawn: pairs that share either are not independent (Owen 2007,
    "The pigeonhole bootstrap").
    """
    names, inverse = np.unique(groups.ravel(), return_inverse=True)
    first, second = inverse.reshape(2, -1)

    def drawn_mean(drawn: np.ndarray) -> float:
        times = np.bincount(drawn, minlength=len(names)).astype(np.float64)
        weights = times[first] * times[second]
        total = float(weights.sum())
        return float(weights @ values) / total if total else math.nan

    return replace(bootstrap(drawn_mean, len(names), seed=seed, null=null), n=len(values))


def mean(
    values: Float[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
    null: Null = None,
) -> Measure:
    """Return the mean of independent values, or the ratio Σ values / Σ weights of independent pairs.

    >>> found = mean(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> found.value, found.low < 2.5 < found.high
    (2.5, True)
    """
    below = np.ones(len(values)) if weights is None else weights

    def ratio(drawn: np.ndarray) -> float:
        total = float(below[drawn].sum())
        return float(values[drawn].sum()) / total if total else math.nan

    return bootstrap(ratio, len(values), seed=seed, null=null)


def mean_of_few(values: Float[np.ndarray, " n"], *, null: Null = None) -> Measure:
    """Return the mean of independent values with Student's interval, which covers what it says from two on.

    >>> found = mean_of_few(np.array([1.0, 2.0, 3.0]))
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    n = len(values)
    if n < 2:
        return not_applicable(f"an interval of a mean takes 2 values, and there are {n}", n)
    middle = float(values.mean())
    quantile = float(student.ppf(0.5 + LEVEL / 200, n - 1))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(n)
    return beside_chance(Measure(value=middle, low=middle - half, high=middle + half, n=n), null)


def median(values: Float[np.ndarray, " n"], *, seed: int = 0, null: Null = None) -> Measure:
    """Return the median of independent values; those that are not numbers are left out."""
    known = values[np.isfinite(values)]
    return bootstrap(lambda drawn: float(np.median(known[drawn])), len(known), seed=seed, null=null)


def share(n_true: int, n: int, *, null: float | None = None) -> Measure:
    """Return `n_true` / `n` with Wilson's interval.

    >>> found = share(360, 400)
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.9, 0.867, 0.926)
    """
    if n < 1:
        return not_applicable("no case")
    p = n_true / n
    low, high = wilson(p, float(n))
    return Measure(value=p, low=low, high=high, null=null, n=n)


def share_of_groups(
    scores: Float[np.ndarray, " n"], groups: Int64[np.ndarray, " n"], *, null: float | None = None
) -> Measure:
    """Return the mean of scores in [0, 1], with Wilson's interval of as many cases as `worth` says.

    >>> together, apart = np.repeat(np.arange(100), 4), np.arange(400)
    >>> scores = np.repeat([1.0, 0.0], [360, 40])
    >>> [round(share_of_groups(scores, groups).low, 3) for groups in (together, apart)]
    [0.823, 0.867]
    """
    if not len(scores):
        return not_applicable("no case")
    p = float(scores.mean())
    low, high = wilson(p, worth(scores, groups))
    return Measure(value=p, low=low, high=high, null=null, n=len(scores))


def worth(scores: Float[np.ndarray, " n"], groups: Int64[np.ndarray, " n"]) -> float:
    """Return how many independent cases n cases are worth whose groups (G of them) were drawn.

        effect = G / (G − 1) · Σ_g (Σ_{i in g} (s_i − s̄))² / n²  /  (Σ_i (s_i − s̄)² / (n (n − 1)))
        worth  = n / max(effect, 1) · (t_{n−1} / t_{G−1})²          t: 97.5 % quantiles of Student's

    The design effect, and the correction for few groups, of Korn and Graubard 1998, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data"; with Wilson's
    interval, as Franco et al. 2019, "Comparative study of confidence intervals for proportions in complex
    sample surveys", advise. Where no score differs from another they cannot tell how alike groups are; the
    effect is then Σ_g n_g² / n, its value where cases of a group never differ. One group is worth nothing.
    """
    n, inverse = len(scores), np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(inverse)
    if len(sizes) in (1, n):
        return float(n) if len(sizes) == n else 0.0
    apart = scores - scores.mean()
    expected = float(np.square(apart).sum()) / (n * (n - 1))
    if np.ptp(scores) > 0:
        spread = np.square(np.bincount(inverse, apart)).sum() / n**2
        effect = float(len(sizes) / (len(sizes) - 1) * spread) / expected
    else:
        effect = float(np.square(sizes).sum()) / n
    few = student.ppf(0.5 + LEVEL / 200, n - 1) / student.ppf(0.5 + LEVEL / 200, len(sizes) - 1)
    return n / max(effect, 1.0) * float(few) ** 2


def wilson(p: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share `p` of `n` independent cases; of none it is all of [0, 1].

    >>> [round(end, 3) for end in wilson(0.9, 400.0)]
    [0.867, 0.926]
    """
    centre, half = p * n + Z**2 / 2, Z * math.sqrt(p * (1 - p) * n + Z**2 / 4)
    return max(0.0, (centre - half) / (n + Z**2)), min(1.0, (centre + half) / (n + Z**2))
