"""Two-stage top-k is exact, whatever the shape and the order of the values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.kernels.select import top_k, top_k_reference


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    n=st.integers(33, 4200),
    k=st.integers(1, 32),
    seed=st.integers(0, 9),
)
def test_two_stages_find_what_one_stage_finds(batch: int, n: int, k: int, seed: int) -> None:
    x = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed))
    values, indices = top_k(x, k)
    expected, places = top_k_reference(x, k)
    assert torch.equal(values.sort(1).values, expected.sort(1).values)
    assert torch.equal(indices.sort(1).values, places.sort(1).values)
    assert torch.equal(x.gather(1, indices), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_choose_k_different_places_with_the_right_values(dtype: torch.dtype) -> None:
    x = torch.randint(0, 5, (8, 4096), generator=torch.Generator().manual_seed(0)).to(dtype)
    values, indices = top_k(x, 20)
    assert all(len(set(row)) == 20 for row in indices.tolist())
    assert torch.equal(values, x.gather(1, indices))
    assert torch.equal(values.sort(1).values, top_k_reference(x, 20)[0].sort(1).values)


@pytest.mark.parametrize("n", [4096, 4101])
def test_the_largest_may_lie_side_by_side_at_either_end(n: int) -> None:
    rising = torch.arange(n, dtype=torch.float32).repeat(2, 1)
    assert sorted(top_k(rising, 16)[1][0].tolist()) == list(range(n - 16, n))
    assert sorted(top_k(rising.flip(1), 16)[1][0].tolist()) == list(range(16))
    alike = torch.zeros(2, n)
    alike[:, ::128] = 1.0  # all in one column of the view, where n is 4096
    assert torch.equal(top_k(alike, 16)[0], torch.ones(2, 16))


def test_narrow_rows_and_large_k_are_answered_too() -> None:
    x = torch.randn(3, 40)
    assert torch.equal(top_k(x, 40)[0].sort(1).values, x.sort(1).values)
    x = torch.randn(2, 4096)
    expected = x.sort(1).values[:, -1000:]
    assert torch.equal(top_k(x, 1000)[0].sort(1).values, expected)
