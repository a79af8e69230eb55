"""Boolean attention: truth tables with and without matches, least widths, and where the blow-up is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.constructions import boolean
from monosem.core.errors import ConfigError, ShapeMismatchError

FUNCTIONS = {
    "and": (boolean.conjunction, torch.logical_and),
    "or": (boolean.disjunction, torch.logical_or),
    "xor": (boolean.exclusive, torch.logical_xor),
}


def selectors(seed, n, density, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, n, generator=generator) < density for _ in range(count)]


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), density=st.floats(0.0, 1.0))
def test_every_truth_table_is_met_with_bos_in_rows_with_and_without_matches(name, seed, n, density):
    build, operation = FUNCTIONS[name]
    a, b = selectors(seed, n, density)
    head = build([a, b])
    assert torch.equal(head.wanted, operation(a, b))
    assert head.margin >= 0.5
    assert head.error(head.temperature_for(1e-6), bos=True) <= 1e-6
    assert head.width_bound <= head.width


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), density=st.floats(0.0, 1.0))
def test_negation_selects_what_does_not_match_and_bos_where_all_does(seed, n, density):
    (a,) = selectors(seed, n, density, 1)
    head = boolean.negation(a)
    assert torch.equal(head.wanted, ~a)
    assert head.error(head.temperature_for(1e-6), bos=True) <= 1e-6


def test_a_row_without_a_match_selects_wrongly_without_bos():
    a = torch.tensor([[True, False, False], [True, True, False]])
    b = torch.tensor([[False, True, False], [True, False, False]])
    head = boolean.conjunction([a, b])
    assert head.wanted.tolist() == [[False] * 3, [True, False, False]]
    without = head.weights(50.0, bos=False)
    assert torch.allclose(
        without[0], torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    )  # half-matches
    assert head.weights(50.0, bos=True)[0, 0] > 0.999
    assert head.error(50.0, bos=False) == 1.0


def test_the_sum_of_scores_is_no_or():
    a = torch.tensor([[True, True, False]])
    b = torch.tensor([[True, False, False]])
    assert (
        boolean.summed_disjunction([a, b]).error(50.0, bos=True) > 0.49
    )  # the double match takes all
    assert boolean.disjunction([a, b]).error(50.0, bos=True) < 1e-9


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_conjunctions_are_linear_and_disjunctions_exponential_in_width(k):
    matches = boolean.bit_matches(k)
    both, either = boolean.conjunction(matches), boolean.disjunction(matches)
    assert both.width <= k + 1
    assert either.width_bound == 2**k - 1  # no head does it in less
    assert either.width_bound <= either.width <= 2**k
    product = boolean.product_of([m.double() for m in matches])
    assert boolean.rank(product) == 2**k  # the conjunction as a matrix, which no head needs
    assert both.error(both.temperature_for(1e-6), bos=True) <= 1e-6
    assert boolean.exclusive(matches).width <= 2  # parity of bits is a product of signs


@pytest.mark.parametrize("n", [2, 8, 32])
def test_equality_of_any_number_of_symbols_fits_in_width_two_at_a_price_in_temperature(n):
    head = boolean.parabola(n)
    assert head.width <= 2
    assert head.margin == pytest.approx((2 / (n - 1)) ** 2)
    assert head.error(head.temperature_for(1e-3), bos=False) <= 1e-3


def test_the_triangle_bounds_the_rank_of_any_numbers_on_a_pattern():
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        (pattern,) = selectors(seed, 7, 0.4, 1)
        numbers = torch.rand(7, 7, generator=generator, dtype=torch.float64) * pattern
        assert boolean.triangle(pattern) <= boolean.rank(numbers)
    assert boolean.triangle(torch.eye(6, dtype=torch.bool)) == 6
    assert boolean.triangle(torch.ones(4, 4, dtype=torch.bool)) == 1


def test_one_neuron_of_an_mlp_is_the_and_of_two_bits():
    x, y = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert boolean.mlp_and(x, y).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_what_is_no_truth_table_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        boolean.conjunction([])
    with pytest.raises(ShapeMismatchError, match="common shape"):
        boolean.disjunction([torch.eye(2, dtype=torch.bool), torch.eye(3, dtype=torch.bool)])
    a, b = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    with pytest.raises(ConfigError, match="margin"):
        boolean.summed_disjunction([a, b]).temperature_for(0.1)
