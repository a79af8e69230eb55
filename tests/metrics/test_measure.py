import math

import numpy as np
import pytest
from scipy import stats

from monosem.metrics.measure import (
    Measure,
    bootstrap,
    crossed,
    grouped,
    mean,
    mean_of_few,
    median,
    not_applicable,
    share,
)


def test_a_share_has_wilsons_interval():
    found = share(7, 40)
    theirs = stats.binomtest(7, 40).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 400) + 5.0
    found = mean(values)
    error = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * error, rel=0.15)
    assert mean(values) == found != mean(values, seed=1)


def test_a_ratio_is_of_sums_and_its_interval_draws_pairs():
    random = np.random.default_rng(1)
    below = random.integers(1, 20, 300).astype(float)
    values = 0.3 * below  # each pair has the same ratio, so drawing them anew changes nothing
    found = mean(values, weights=below)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_rows_of_a_context_are_drawn_together():
    random = np.random.default_rng(2)
    covered = 0
    for world in range(40):
        effects = random.normal(size=25)
        values = np.repeat(effects, 20) + random.normal(0, 0.5, 500)
        groups = np.repeat(np.arange(25), 20) + 100
        found = grouped(lambda i, v=values: float(v[i].mean()), groups, seed=world, n_draws=200)
        covered += found.low < 0 < found.high
        assert found.value == pytest.approx(values.mean()) and found.n == 500
    assert covered >= 34  # of 40; drawn one by one it would be about 13
    assert not grouped(lambda i: 0.0, np.zeros(0, int)).applicable


def test_a_median_leaves_out_what_is_no_number():
    assert median(np.array([1.0, math.nan, 2.0, 9.0])).value == 2.0


def test_what_cannot_be_had_says_why():
    assert mean(np.zeros(0)).void == "not applicable: nothing to measure it on"
    assert mean(np.array([math.nan])).void == "not applicable: not finite (nan)"
    assert not share(0, 0).applicable
    assert not_applicable("why", 3).json() == {"value": None, "n": 3, "void": "not applicable: why"}


def test_a_measure_says_its_interval_and_its_chance():
    found = Measure(value=0.72, low=0.7, high=0.74, null=0.31, n=10)
    assert str(found) == "0.72 [0.7, 0.74] (chance 0.31)"
    assert found.beyond_null
    assert not Measure(value=0.72, low=0.3, high=0.74, null=0.31).beyond_null
    zero = Measure(value=0.0, low=0.0, high=0.1, null=math.nan)
    assert zero.json() == {"value": 0.0, "low": 0.0, "high": 0.1}
    assert found.json() == {"value": 0.72, "low": 0.7, "high": 0.74, "null": 0.31, "n": 10}


def test_draws_without_a_number_are_left_out():
    found = bootstrap(lambda i: math.nan if (i == 0).all() else float(i.mean()), 2)
    assert found.value == 0.5 and found.low == 0.5 and found.high == 1.0


def test_chance_that_was_drawn_several_times_has_a_mean_and_an_upper_end():
    draws = np.array([0.1, 0.2, 0.3, math.nan, 0.4])
    found = mean(np.linspace(0.3, 0.6, 50), null=draws)
    assert found.null == pytest.approx(0.25)
    assert found.null_high == 0.4
    assert found.json()["null_high"] == 0.4 and found.json()["n_nulls"] == 4
    assert str(found).endswith("(chance 0.25, the largest of 4: 0.4)")
    between = Measure(value=0.4, low=0.3, high=0.5, null=0.2, null_high=0.35)
    assert not between.beyond_null  # above the mean of chance, not above what it reaches
    unknown = mean(np.ones(3), null=np.array([math.nan]))
    assert unknown.value == 1 and unknown.null is None and not unknown.beyond_null
    assert unknown.void in str(unknown) and "no draw of chance" in unknown.json()["void"]


def test_the_ends_are_those_between_which_nineteen_of_twenty_draws_lie():
    values = (
        stats.norm.ppf((np.arange(225) + 0.5) / 225) + 7
    )  # even to both sides, as are its draws
    found = bootstrap(lambda i: float(values[i].mean()), 225, n_draws=20_000)
    error = math.sqrt(np.square(values - values.mean()).sum() / 225) / 15
    assert (found.low - 7, found.high - 7) == pytest.approx((-1.96 * error, 1.96 * error), rel=0.03)
    assert found.n == 225


def test_the_interval_of_a_ratio_is_that_of_its_pairs(jackknife):
    random = np.random.default_rng(5)
    below = random.integers(1, 40, 150).astype(float)
    values = below * random.normal(2.0, 0.3, 150)
    found = mean(values, weights=below)
    pairs = jackknife(lambda i: values[i].sum() / below[i].sum(), np.arange(150))
    assert (found.low, found.high) == pairs
    apart = np.std(values) / math.sqrt(150) / below.mean()  # as though what is below were known
    assert found.high - found.low < 0.5 * 2 * 1.96 * apart


def test_the_interval_of_a_median_is_that_of_its_exact_distribution(is_that_of_a_median):
    values = np.random.default_rng(6).gamma(1.0, 1.0, 101)
    assert is_that_of_a_median(median(values), values)


def test_groups_of_unequal_size_are_drawn_whole(jackknife):
    random = np.random.default_rng(7)
    groups = np.repeat(np.arange(80), random.integers(1, 30, 80))
    values = random.normal(size=80)[groups] + random.normal(0, 0.3, len(groups))
    mixed = random.permutation(len(groups))  # rows of a group need not stand together
    moved = values[mixed]
    found = grouped(lambda i: float(moved[i].mean()), groups[mixed], n_draws=2000)
    assert (found.low, found.high) == jackknife(lambda i: values[i].mean(), groups)
    assert found.n == len(groups)


def test_a_mean_of_few_covers_what_it_says_where_drawing_them_anew_does_not():
    random = np.random.default_rng(8)
    worlds = random.normal(3.0, 2.0, (1000, 3))
    for measured, some, due in ((mean_of_few, worlds, 0.95), (mean, worlds[:100], 0.76)):
        covered = [found.low < 3 < found.high for found in map(measured, some)]
        assert np.mean(covered) == pytest.approx(due, abs=2.5 * math.sqrt(0.1 / len(some)))
    values = random.gamma(2.0, 1.0, 7)
    found = mean_of_few(values, null=np.array([0.5, 1.5]))
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 7)
    assert (found.null, found.null_high) == (1.0, 1.5)
    assert mean_of_few(values[:1]).void.endswith("takes 2 values, and there are 1")


@pytest.mark.parametrize("side", [0, 1])
def test_pairs_that_share_a_group_on_either_side_are_not_independent(side):
    random = np.random.default_rng(9)
    covered = 0
    for world in range(60):
        effects = random.normal(size=24)
        groups = random.integers(24, size=(2, 300)) + 7  # numbers of groups are names
        found = crossed(effects[groups[side] - 7] + 2.0, groups, seed=world)
        covered += found.low < 2 < found.high
    assert covered >= 53  # of 60, where 57 are due; with one side alone drawn anew about 21
    assert found.value == pytest.approx((effects[groups[side] - 7] + 2.0).mean())
    assert found.n == 300
