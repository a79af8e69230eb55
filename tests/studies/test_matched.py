"""Dictionaries and baselines at one l0: lines between points, intervals, and what is said of them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from monosem.metrics.heldout import HeldOut, Losses
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.studies.sparse_autoencoders import control, matched
from monosem.studies.sparse_autoencoders.beside import Beside
from monosem.studies.sparse_autoencoders.curve import who_won
from monosem.studies.sparse_autoencoders.matched import (
    Point,
    Row,
    at,
    beside,
    overstated,
    point,
    resampled,
    verdict,
)

SITE = "blocks.0.hook_resid_post"


def point_of(errors: np.ndarray, variances: np.ndarray, l0: float = 5.0) -> Point:
    """Contexts with these errors and variances, as a point."""
    row = Row(l0=l0, fvu=float(errors.sum() / variances.sum()), perplexity=2.0, recovered=0.5)
    return Point(row=row, errors=errors, variances=variances)


def of_scipy(
    found: np.ndarray, variances: np.ndarray, less: np.ndarray, variances_less: np.ndarray
) -> tuple[float, float, float]:
    """Ends of the interval of a difference of two ratios, contexts drawn for both, and its spread."""

    def apart(a: np.ndarray, v: np.ndarray, b: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
        return a.sum(axis) / v.sum(axis) - b.sum(axis) / w.sum(axis)

    drawn = stats.bootstrap(
        (found, variances, less, variances_less),
        apart,
        paired=True,
        n_resamples=9999,
        method="percentile",
        random_state=np.random.default_rng(12345),
    )
    return (*drawn.confidence_interval, float(drawn.standard_error))


def test_who_won_is_said_from_the_numbers_at_each_l0() -> None:
    def row(l0: float, fvu: float, low: float = math.nan, high: float = math.nan) -> Row:
        return Row(l0=l0, fvu=fvu, perplexity=2.0, recovered=0.5, low=low, high=high)

    rows = {"dictionary": [row(4.0, 0.3), row(8.0, 0.2)], "identity-relu": [row(50.0, 0.0)]}
    rows |= {"pca": [row(4.0, 0.4, 0.05, 0.2), row(8.0, 0.1, -0.2, -0.05)]}
    rows |= {"neurons": [row(4.0, 0.9, 0.5, 0.7), row(8.0, 0.8, 0.5, 0.7)]}
    found = Beside(rows=rows, plain=2.0, missing={})
    assert who_won(found, SITE) == (
        "Less of the variance than the dictionary is left by PCA (l0 8)."
    )
    worse = Beside(rows={**rows, "pca": rows["neurons"]}, plain=2.0, missing={})
    assert who_won(worse, SITE).startswith("At every l0 here the dictionary leaves less")
    # a tie, more latents on, fewer on and yet less, and a number that is none
    ours, less = row(4.0, 0.3), (-0.2, -0.1)
    assert verdict(row(4.0, 0.29, -0.03, 0.01), ours) == "tied"
    assert verdict(row(4.6, 0.15, *less), ours) == "unmatched"
    assert verdict(row(3.0, 0.15, *less), ours) == "less"
    assert verdict(row(4.6, 0.45, 0.1, 0.2), ours) == "more"
    assert verdict(row(4.0, math.nan, *less), ours) == "unknown"
    other = {**rows, "pca": [row(4.0, 0.29, -0.03, 0.01), row(9.2, 0.1, *less)]}
    text = who_won(Beside(rows=other, plain=2.0, missing={}), SITE)
    assert text.startswith("None of them leaves less of the variance than the dictionary. Tied")
    assert "PCA (l0 4)." in text and "3% off: PCA (l0 8: 9.2)." in text


def test_the_line_between_points_is_over_l0_or_its_logarithm_and_adds_at_most_what_is_said() -> (
    None
):
    def left(l0: float, fvu: float) -> Point:
        row = Row(l0=l0, fvu=fvu, perplexity=math.exp(fvu), recovered=1 - fvu)
        return Point(row=row, errors=np.array([fvu, 3 * fvu]), variances=np.array([1.5, 2.5]))

    points = [left(2.0, 0.6), left(8.0, 0.2)]
    assert at(points, 4.0).row.fvu == pytest.approx(0.6 - 0.4 / 3)
    half = at(points, 4.0, log=True)  # 4 is half way from 2 to 8
    assert half.row.fvu == pytest.approx(0.4) and half.row.l0 == 4.0
    assert half.row.perplexity == pytest.approx(math.exp(0.4))
    assert half.errors.tolist() == pytest.approx([0.4, 1.2])
    assert half.fvu(np.arange(2)) == pytest.approx(0.4)  # the same line, by contexts
    assert half.fvu(np.array([1, 1])) == pytest.approx(1.2 / 2.5)
    assert at(points, 9.0) is points[1] and at(points, 1.0) is points[0]
    fvus = [1 / k for k in (2, 3, 4, 5)]
    for part in (0.2, 0.5, 0.8):
        added = fvus[1] + part * (fvus[2] - fvus[1]) - 1 / (3 + part)
        assert 0 < added <= overstated(fvus, part)
    assert overstated(fvus, 0.8) == pytest.approx(0.2 * (1 / 12 - 1 / 20))
    assert overstated([0.4, 0.3, 0.2, 0.1], 0.5) == 0  # a straight line is its own


def test_squared_errors_and_variances_are_summed_by_context() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0], [5.0, 0.0]])
    sums = ReconstructionSums(mean=torch.tensor([1.0, 0.0]))
    for part in x.split(2):  # blocks end where they will, not where contexts do
        sums.add(part, torch.zeros_like(part), len(part))
    spliced, unspliced = Losses(), Losses()
    spliced.add("mine", torch.full((4,), 2.0))
    for run, loss in (("original", 1.5), ("mean", 2.5)):
        unspliced.add(run, torch.full((4,), loss))
    held = HeldOut(
        unspliced=unspliced, spliced=spliced, ordinary={"mine": sums}, special={}, by_site={}
    )
    found = point("mine", held, np.array([3, 0, 2]))
    assert found.errors.tolist() == pytest.approx([14, 0, 41])
    assert found.variances.tolist() == pytest.approx([0 + 5 + 4, 0, 17 + 16])
    assert (found.row.fvu, found.row.l0, found.row.recovered) == pytest.approx((55 / 42, 1, 0.5))
    assert found.fvu(np.arange(3)) == pytest.approx(55 / 42)
    assert math.isnan(found.fvu(np.array([1, 1, 1])))  # of nothing
    assert found.row.perplexity == pytest.approx(math.exp(2))


def test_the_interval_of_a_difference_is_scipys_with_errors_and_variances_drawn_together() -> None:
    random = np.random.default_rng(0)
    variances = random.gamma(1.0, 100.0, 250)  # some contexts vary much more than others
    ours = 0.1 * variances + random.gamma(4.0, 0.5, 250)
    theirs = 0.15 * variances + random.gamma(4.0, 0.5, 250)
    row = beside(point_of(theirs, variances), point_of(ours, variances), 0)
    low, high, error = of_scipy(theirs, variances, ours, variances)
    assert (row.low, row.high) == pytest.approx((low, high), abs=0.25 * error)
    assert row.fvu == pytest.approx(theirs.sum() / variances.sum())
    # were the variance not drawn: as if a context that varies more told more of the difference
    fixed = np.full(250, variances.mean())
    held = of_scipy(theirs, fixed, ours, fixed)
    assert held[1] - held[0] > 1.5 * (high - low)


def test_the_interval_of_two_models_gaps_is_scipys_with_the_variance_of_each() -> None:
    random = np.random.default_rng(1)
    hard = random.gamma(2.0, 0.5, 200)
    own, shuffled = 100 * hard, 40 * random.gamma(2.0, 0.5, 200)
    gap, other = 9 * hard + random.normal(0, 2, 200), 6 + random.normal(0, 1, 200)

    def beside_pca(less: np.ndarray, variances: np.ndarray) -> Beside:
        pca = 0.3 * variances
        both = point_of(pca + less, variances), point_of(pca, variances)
        points = {name: [each] for name, each in zip(("dictionary", "pca"), both, strict=True)}
        return Beside(rows={}, plain=2.0, missing={}, points=points)

    found = {"the model": beside_pca(gap, own), "shuffled by 0": beside_pca(other, shuffled)}
    (between,) = control.gaps(found, 0)
    cases = [
        (between.left["the model"], (gap, own, 0 * gap, own)),
        (between.left["shuffled by 0"], (other, shuffled, 0 * gap, own)),
        (between.apart["shuffled by 0"], (other, shuffled, gap, own)),
    ]
    for measure, of in cases:
        low, high, error = of_scipy(*of)
        assert (measure.low, measure.high) == pytest.approx((low, high), abs=0.25 * error)
        assert measure.value == pytest.approx(of[0].sum() / of[1].sum() - of[2].sum() / of[3].sum())
    # were the variances not drawn, the interval of the shuffled model's would be far too narrow
    fixed = of_scipy(other, np.full(200, shuffled.mean()), 0 * gap, own)
    drawn = between.left["shuffled by 0"]
    assert drawn.low is not None and drawn.high is not None
    assert fixed[1] - fixed[0] < 0.5 * (drawn.high - drawn.low)


def test_intervals_cover_the_truth_where_a_variance_that_is_not_drawn_would_miss_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of contexts that vary as they will, and whose errors do not follow: 0.3 in all, of 50 of them."""
    monkeypatch.setattr(matched, "N_RESAMPLED", 100)
    random, truth, n_tries, n = np.random.default_rng(2), 0.3, 150, 50
    drawn, fixed = 0, 0
    for seed in range(n_tries):
        variances = random.gamma(2.0, 0.5, n)  # 1 in the mean
        errors = random.normal(truth, 0.05, n)
        found = resampled(point_of(errors, variances), seed)
        assert found.low is not None and found.high is not None
        drawn += found.low <= truth <= found.high
        half = 1.96 * math.sqrt(n) * errors.std(ddof=1) / variances.sum()
        fixed += abs(errors.sum() / variances.sum() - truth) <= half
    assert 0.9 <= drawn / n_tries <= 0.98
    assert fixed / n_tries < 0.5


def test_what_has_no_variance_is_not_compared() -> None:
    flat, some = point_of(np.ones(4), np.full(4, np.nan)), point_of(np.ones(4), np.ones(4))
    assert verdict(beside(flat, some, 0), some.row) == "unknown"
    found = resampled(dataclasses.replace(some, variances=np.zeros(4)), 0)
    assert found.value is None and found.void.startswith("not applicable: not finite")
    gap = control.Gap(l0=4.0, left={"the model": found}, apart={})
    assert "than PCA by not applicable: not finite (nan) (the model)" in control.said([gap])


def test_dictionaries_of_several_models_are_compared_at_l0s_that_all_of_them_span() -> None:
    def beside(l0s: list[float], ours: list[list[float]], theirs: list[list[float]]) -> Beside:
        def points(errors: list[list[float]]) -> list[Point]:
            return [
                point_of(50 * np.array(e), np.full(2, 25.0), l0)
                for l0, e in zip(l0s, errors, strict=True)
            ]

        own = {"dictionary": points(ours), "pca": points(theirs)}
        return Beside(rows={}, plain=2.0, missing={}, points=own)

    found = {
        "the model": beside([2.0, 8.0], [[0.3, 0.2], [0.1, 0.2]], [[0.4, 0.3], [0.2, 0.2]]),
        "shuffled by 0": beside([4.0, 8.0], [[0.4, 0.4], [0.2, 0.3]], [[0.3, 0.3], [0.1, 0.1]]),
        "shuffled by 1": beside([4.0, 8.0], [[0.3, 0.4], [0.1, 0.1]], [[0.4, 0.4], [0.2, 0.2]]),
    }
    assert control.shared([[2.0, 8.0], [4.0, 8.0]]) == pytest.approx([4.0, 8.0])
    assert control.shared([[2.0, 9.0], [3.0, 16.0]]) == pytest.approx([3.0, 9.0])
    assert control.shared([[1.0, 2.0], [3.0, 4.0]]) == []
    first, last = control.gaps(found, 0)
    assert (first.l0, last.l0) == pytest.approx((4.0, 8.0))
    # -0.2 at 2 and -0.1 at 8: half way of the logarithm
    assert first.left["the model"].value == pytest.approx(-0.15)
    assert first.left["shuffled by 0"].value == pytest.approx(0.2)
    assert first.apart["shuffled by 0"].value == pytest.approx(0.35)
    assert last.apart["shuffled by 1"].value == pytest.approx(-0.1)
    low, high = first.apart["shuffled by 0"].low, first.apart["shuffled by 0"].high
    # of two contexts, 0.2 and 0.15 apart: both draws of one, or one of each
    assert (low, high) == pytest.approx((0.3, 0.4))
    words = control.said([first, last])
    assert "With 4.0, 8.0 latents on" in words
    assert "-0.150, -0.100 (the model); by +0.200, +0.300 (shuffled by 0)" in words
    assert "2 of 4 are above 0 beyond an interval over contexts, 0 below, and 2 neither" in words
    assert "nothing is compared" in control.said([])
