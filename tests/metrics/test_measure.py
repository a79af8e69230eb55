import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    share_of_groups,
    wilson,
    worth,
)


def test_a_share_has_wilsons_interval():
    found = share(7, 40)
    theirs = stats.binomtest(7, 40).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@given(p=st.floats(0, 1), n=st.floats(0, 1e5))
def test_wilsons_interval_holds_the_share_and_narrows(p, n):
    low, high = wilson(p, n)
    assert 0 <= low <= p + 1e-9 and p - 1e-9 <= high <= 1
    again = wilson(p, 4 * n)
    assert again[1] - again[0] <= high - low + 1e-12
    assert wilson(p, 0.0) == (0.0, 1.0)


def in_fours(world, n_groups, p, rho):
    """Cases in groups of four that are won alike: by chances that differ from group to group."""
    random = np.random.default_rng(world)
    chances = random.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, n_groups)
    won = random.random((n_groups, 4)) < chances[:, None]
    return won.ravel().astype(np.float64), np.repeat(np.arange(n_groups), 4)


@pytest.mark.parametrize(("n_groups", "p"), [(100, 0.9), (100, 0.5), (25, 0.8), (10, 0.9)])
def test_groups_that_are_won_alike_are_covered_as_said_and_wilsons_interval_does_not(n_groups, p):
    ours, wilsons, n_worlds = 0, 0, 500
    for world in range(n_worlds):
        scores, groups = in_fours(world, n_groups, p, rho=0.4)
        found, plain = share_of_groups(scores, groups), share(int(scores.sum()), len(scores))
        assert found.value == pytest.approx(plain.value) and found.n == plain.n == 4 * n_groups
        assert found.low <= plain.low and found.high >= plain.high
        ours += found.low <= p <= found.high
        wilsons += plain.low <= p <= plain.high
    assert 0.925 <= ours / n_worlds <= 0.99
    assert wilsons / n_worlds <= 0.86


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (1, 2), (0, 20), (37, 60), (400, 400)])
def test_of_groups_of_one_case_each_the_interval_is_wilsons(right, n):
    scores = (np.arange(n) < right).astype(np.float64)
    found = share_of_groups(scores, np.arange(n)[::-1] + 7)
    assert worth(scores, np.arange(n)) == n
    theirs = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_what_cases_in_groups_are_worth_is_by_the_jackknife_and_by_students_quantiles():
    scores, groups = in_fours(0, 40, 0.8, rho=0.4)
    order = np.random.default_rng(0).permutation(160)  # who stands beside whom says nothing
    without = np.array([scores[groups != g].mean() for g in range(40)])
    variance = (
        39 / 40 * np.square(without - without.mean()).sum()
    )  # of the mean, by leaving groups out
    effect = variance / (scores.var(ddof=1) / 160)
    assert effect > 1.5
    quantiles = stats.t.interval(0.95, 159)[1] / stats.t.interval(0.95, 39)[1]
    assert worth(scores[order], groups[order]) == pytest.approx(160 / effect * quantiles**2)
    # The ends are the shares from which what was found is 1.96 standard errors away (Wilson 1927).
    found, n = share_of_groups(scores, groups), worth(scores, groups)
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n))


def test_groups_whose_cases_are_opposed_are_worth_no_more_than_their_cases():
    scores, groups = np.tile([1.0, 0.0], 100), np.repeat(np.arange(100), 2)
    quantiles = stats.t.interval(0.95, 199)[1] / stats.t.interval(0.95, 99)[1]
    assert worth(scores, groups) == pytest.approx(200 * quantiles**2)


def test_where_all_are_won_or_lost_each_group_counts_as_one_case():
    groups = np.repeat(np.arange(25), 4)
    quantiles = stats.t.interval(0.95, 99)[1] / stats.t.interval(0.95, 24)[1]
    for value in (0.0, 1.0):
        found = share_of_groups(np.full(100, value), groups)
        assert worth(np.full(100, value), groups) == pytest.approx(25 * quantiles**2)
        assert found.value == value and 0 <= found.low <= value <= found.high <= 1
        assert found.high - found.low == pytest.approx(
            1.959964**2 / (25 * quantiles**2 + 1.959964**2)
        )
    uneven = np.repeat([0, 1, 2], [5, 3, 2])
    few = stats.t.interval(0.95, 9)[1] / stats.t.interval(0.95, 2)[1]
    assert worth(np.ones(10), uneven) == pytest.approx(10 / (38 / 10) * few**2)


def test_of_few_groups_little_is_said_and_of_one_nothing():
    one = share_of_groups(np.array([1.0, 1.0, 0.0, 1.0]), np.zeros(4, np.int64))
    assert (one.value, one.low, one.high) == (0.75, 0.0, 1.0)
    two = share_of_groups(np.array([1.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    assert two.low < 0.2 and two.high > 0.95
    assert share_of_groups(np.zeros(0), np.zeros(0, np.int64)).void == "not applicable: no case"


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
