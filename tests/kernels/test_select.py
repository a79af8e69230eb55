"""The search in stages is exact among positive values, whatever the shape and their order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.kernels import select
from monosem.kernels.select import largest_positive, largest_reference


@pytest.fixture(params=["numpy", "torch"])
def _search_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of searching a narrow row."""
    monkeypatch.setattr(select, "FEW_THREADS", 1 if request.param == "numpy" else 0)


def chosen(x: torch.Tensor, k: int) -> torch.Tensor:
    """The chosen values in order; they are at `k` different places."""
    places = largest_positive(x, k)
    assert all(len(set(row)) == k for row in places.tolist())
    return x.gather(1, places).sort(1).values


def expected(x: torch.Tensor, k: int) -> torch.Tensor:
    return x.gather(1, largest_reference(x, k)).sort(1).values


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 5),
    n=st.integers(33, 9000),
    k=st.integers(1, 32),
    seed=st.integers(0, 9),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_stages_find_what_one_search_finds(
    batch: int, n: int, k: int, seed: int, dtype: torch.dtype
) -> None:
    x = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed)).to(dtype)
    wanted = expected(x, k)
    assert torch.equal(chosen(x, k).relu(), wanted.relu())


@pytest.mark.usefixtures("_search_of")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [300, 4096, 70_001])
def test_ties_choose_different_places_with_the_right_values(dtype: torch.dtype, n: int) -> None:
    x = torch.randint(0, 5, (8, n), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(chosen(x, 20), expected(x, 20))


@pytest.mark.usefixtures("_search_of")
@pytest.mark.parametrize("n", [4096, 4101])
def test_the_largest_may_lie_side_by_side_at_either_end(n: int) -> None:
    rising = torch.arange(n, dtype=torch.float32).repeat(2, 1)
    assert sorted(largest_positive(rising, 16)[1].tolist()) == list(range(n - 16, n))
    assert sorted(largest_positive(rising.flip(1), 16)[1].tolist()) == list(range(16))
    alike = torch.zeros(2, n)
    alike[:, ::128] = 1.0  # all in one column of the view, where n is 4096
    assert torch.equal(chosen(alike, 16), torch.ones(2, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_with_few_positive_values_give_them_all_and_fill_up(dtype: torch.dtype) -> None:
    x = -torch.rand(4, 5000, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.1
    x[:, 17], x[1, 4999], x[2, 2500] = 0.5, 2.0, 0.25
    assert torch.equal(chosen(x, 9).relu(), expected(x, 9).relu())


def test_narrow_rows_and_large_k_are_answered_too() -> None:
    x = torch.randn(3, 40)
    assert torch.equal(chosen(x, 40), x.sort(1).values)
    x = torch.rand(2, 4096)
    assert torch.equal(chosen(x, 1000), x.sort(1).values[:, -1000:])
    assert largest_positive(x[:0], 7).shape == (0, 7)


def test_infinity_is_the_largest() -> None:
    x = torch.rand(1, 3000)
    x[0, 1234] = torch.inf
    assert 1234 in largest_positive(x, 3)[0]
