"""Encoders with ragged rows find what the dense formula finds, and carry its gradients."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import ragged, reference, select
from monosem.kernels.ragged import encode_above, encode_batch_top_k
from monosem.kernels.select import places_above
from monosem.runtime import matmul

BATCH, D, N = 120, 24, 300


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def _search_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of searching, and several blocks."""
    monkeypatch.setattr(select, "FEW_THREADS", 1 if request.param == "numpy" else 0)
    monkeypatch.setattr("monosem.kernels.dense.FEWEST_ROWS", 50)
    monkeypatch.setattr("monosem.kernels.dense.AT_ONCE", 1)


def inputs(dtype: torch.dtype = torch.float64, n: int = N) -> list[Tensor]:
    """`x, centre, W_enc, b_enc`."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x = draw(BATCH, D) * torch.rand(BATCH, 1, generator=generator).to(dtype).exp2()
    made = x, draw(D), (draw(n, D) / D**0.5).t(), 0.2 * draw(n)
    return [tensor.requires_grad_() for tensor in made]


def check_gradients(pre: Tensor, dense: Tensor, mask: Tensor, given: list[Tensor]) -> None:
    weights = torch.randn(pre.shape, generator=torch.Generator().manual_seed(2), dtype=pre.dtype)
    found = torch.autograd.grad((pre * weights).sum(), given)
    wanted = torch.autograd.grad((dense[mask] * weights).sum(), given)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_the_largest_of_the_batch_are_found_with_their_gradients(k: int) -> None:
    given = inputs()
    pre, pattern = encode_batch_top_k(*given, k)
    dense = reference.pre_activations(*given)
    mask = dense >= dense.flatten().topk(k * BATCH).values[-1]
    torch.testing.assert_close(pre, dense[mask])
    assert torch.equal(pattern.indices.long(), mask.nonzero()[:, 1])
    assert torch.equal(pattern.row_starts[1:].long(), mask.sum(1).cumsum(0))
    check_gradients(pre, dense, mask, given)


def test_no_rounding_hides_one_of_the_largest_from_the_bf16_search() -> None:
    given = [tensor.detach() for tensor in inputs(torch.float32, 4000)]
    dense = reference.pre_activations(*given)
    mask = dense >= dense.flatten().topk(20 * BATCH).values[-1]
    with matmul.scope("bf16"):
        pre, pattern = encode_batch_top_k(*given, 20)
    torch.testing.assert_close(pre, dense[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(pattern.indices.long(), mask.nonzero()[:, 1])


def test_a_first_block_unlike_the_others_only_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [tensor.detach() for tensor in inputs()]
    given[0][:50] *= 30  # so high a floor that nothing else is above it
    searches: list[float] = []
    search = ragged._search
    monkeypatch.setattr(
        ragged, "_search", lambda *a, **k: searches.append(k["share"]) or search(*a, **k)
    )
    pre, _ = encode_batch_top_k(*given, 110)
    assert len(searches) > 1
    assert searches == sorted(searches)
    dense = reference.pre_activations(*given)
    expected = dense.flatten().topk(110 * BATCH).values
    torch.testing.assert_close(pre.sort(descending=True).values, expected)


def test_where_fewer_are_positive_all_of_them_are_taken() -> None:
    given = [tensor.detach() for tensor in inputs()]
    given[3] -= 2.0
    pre, pattern = encode_batch_top_k(*given, 200)
    dense = reference.pre_activations(*given)
    torch.testing.assert_close(pre, dense[dense > 0])
    assert len(pattern) == BATCH


@pytest.mark.parametrize("floor", [0.5, -0.2, "per latent"])
def test_all_above_a_floor_are_found_with_their_gradients(floor: float | str) -> None:
    given = inputs()
    limit = torch.linspace(-0.5, 2.0, N, dtype=torch.float64) if floor == "per latent" else floor
    found = encode_above(*given, limit, 1.0)
    assert found is not None
    pre, pattern = found
    dense = reference.pre_activations(*given)
    mask = dense > limit
    torch.testing.assert_close(pre, dense[mask])
    assert torch.equal(pattern.indices.long(), mask.nonzero()[:, 1])
    check_gradients(pre, dense, mask, given)


def test_what_is_found_under_bf16_is_above_its_floor_and_little_is_missed() -> None:
    given = [tensor.detach() for tensor in inputs(torch.float32, 4000)]
    with matmul.scope("bf16"):
        found = encode_above(*given, 1.0, 1.0)
    assert found is not None
    pre, pattern = found
    assert (pre > 1.0).all()
    dense = reference.pre_activations(*given)
    torch.testing.assert_close(pre, dense[pattern.rows, pattern.indices], rtol=1e-5, atol=1e-5)
    assert (dense > 1.02).sum() <= len(pre) <= (dense > 1.0).sum()


def test_too_many_are_not_looked_for_further() -> None:
    assert encode_above(*inputs(), 0.0, 0.06) is None
    assert encode_above(*inputs(), 9.0, 0.06) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_places_above_a_floor_are_those_of_the_comparison(dtype: torch.dtype) -> None:
    x = torch.randint(-4, 5, (7, 90), generator=torch.Generator().manual_seed(0)).to(dtype)
    for floor in (0.0, 2.0, 9.0):
        assert torch.equal(places_above(x, floor), (x > floor).flatten().nonzero()[:, 0])


def test_an_empty_batch_passes_through() -> None:
    x, *weights = inputs()
    pre, pattern = encode_batch_top_k(x[:0], *weights, 3)
    assert len(pre) == len(pattern) == 0
    assert encode_above(x[:0], *weights, 0.0, 0.06) is not None
