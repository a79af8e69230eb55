"""Dictionaries and baselines at one l0: lines between points, intervals, and what is said of them."""

import math

import numpy as np
import pytest
import torch

from monosem.metrics.heldout import HeldOut, Losses
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.studies.sparse_autoencoders import control
from monosem.studies.sparse_autoencoders.beside import Beside
from monosem.studies.sparse_autoencoders.curve import who_won
from monosem.studies.sparse_autoencoders.matched import (
    Point,
    Row,
    at,
    beside,
    overstated,
    point,
    verdict,
)

SITE = "blocks.0.hook_resid_post"


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
    def point_of(l0: float, fvu: float) -> Point:
        row = Row(l0=l0, fvu=fvu, perplexity=math.exp(fvu), recovered=1 - fvu)
        return Point(row=row, errors=np.array([fvu / 4, 3 * fvu / 4]))

    points = [point_of(2.0, 0.6), point_of(8.0, 0.2)]
    assert at(points, 4.0).row.fvu == pytest.approx(0.6 - 0.4 / 3)
    half = at(points, 4.0, log=True)  # 4 is half way from 2 to 8
    assert half.row.fvu == pytest.approx(0.4) and half.row.l0 == 4.0
    assert half.row.perplexity == pytest.approx(math.exp(0.4))
    assert half.errors.tolist() == pytest.approx([0.1, 0.3])
    assert at(points, 9.0) is points[1] and at(points, 1.0) is points[0]
    left = [1 / k for k in (2, 3, 4, 5)]
    for part in (0.2, 0.5, 0.8):
        added = left[1] + part * (left[2] - left[1]) - 1 / (3 + part)
        assert 0 < added <= overstated(left, part)
    assert overstated(left, 0.8) == pytest.approx(0.2 * (1 / 12 - 1 / 20))
    assert overstated([0.4, 0.3, 0.2, 0.1], 0.5) == 0  # a straight line is its own


def test_squared_errors_are_summed_by_context() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0], [5.0, 0.0]])
    sums = ReconstructionSums(mean=torch.zeros(2))
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
    assert found.errors.tolist() == pytest.approx([14 / 55, 0, 41 / 55])
    assert (found.row.fvu, found.row.l0, found.row.recovered) == pytest.approx((1, 1, 0.5))
    assert found.row.perplexity == pytest.approx(math.exp(2))


def test_the_interval_of_a_difference_draws_the_contexts_of_both_together() -> None:
    random = np.random.default_rng(0)
    ours = random.gamma(4.0, 0.001, 250)
    theirs = 0.9 * ours + random.normal(0.0007, 0.0005, 250)

    def point_of(errors: np.ndarray) -> Point:
        fvu = float(errors.sum())
        return Point(row=Row(l0=5.0, fvu=fvu, perplexity=2.0, recovered=0.5), errors=errors)

    row = beside(point_of(theirs), point_of(ours), 0)
    apart = theirs - ours
    error = math.sqrt(250) * apart.std(ddof=1)  # of a sum of 250
    ends = apart.sum() - 1.96 * error, apart.sum() + 1.96 * error
    assert (row.low, row.high) == pytest.approx(ends, abs=0.25 * error)
    assert row.fvu == pytest.approx(theirs.sum())
    assert error < 0.4 * math.sqrt(250) * ours.std()


def test_dictionaries_of_several_models_are_compared_at_l0s_that_all_of_them_span() -> None:
    def beside(l0s: list[float], ours: list[list[float]], theirs: list[list[float]]) -> Beside:
        def points(errors: list[list[float]]) -> list[Point]:
            return [
                Point(row=Row(l0=l0, fvu=sum(e), perplexity=2.0, recovered=0.5), errors=np.array(e))
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
