import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.metrics.density import count, density, histogram, ultralow_below


def test_dead_and_ultralow_are_disjoint_and_counted_by_hand():
    n_fired = np.array([0, 0, 1, 9, 10, 11, 50_000, 1_000_000])
    counts = count(n_fired, 2_000_000)
    assert counts.ultralow_below == 10 / 2_000_000
    assert counts.n_dead == 2
    assert counts.n_ultralow == 2  # 1 and 9 firings; 10 are not below the threshold
    assert counts.n_frequent == 2  # 2.5 % and 50 %
    assert counts.n_latents == 8


def test_a_long_window_uses_the_papers_threshold():
    assert ultralow_below(100_000_000) == 1e-6
    assert count(np.array([99, 100]), 100_000_000).n_ultralow == 1


def test_density_is_a_share_of_tokens():
    assert density(np.array([0, 5, 10]), 10).tolist() == [0, 0.5, 1]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_every_living_latent_lies_in_one_bin(fired):
    n_fired = np.array(fired)
    edges, counts = histogram(n_fired, 1000)
    assert sum(counts) == (n_fired > 0).sum()
    assert len(edges) == len(counts) + 1
    assert (edges[0], edges[-1]) == (-8, 0)


def test_a_density_of_one_in_a_hundred_lies_at_minus_two():
    edges, counts = histogram(np.array([101, 0]), 10_000)
    bin = counts.index(1)
    assert edges[bin] == pytest.approx(-2)
    assert edges[bin + 1] == pytest.approx(-1.75)
