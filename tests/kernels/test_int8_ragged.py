"""Ragged rows found in a product of 8-bit integers are those of float64, whatever the inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monosem.kernels import int8_ragged, rounding
from monosem.kernels.ragged import encode_above, encode_batch_top_k
from monosem.runtime import matmul

pytestmark = pytest.mark.skipif(not matmul.has_int8(), reason="8-bit sums are not exact here")

BATCH, D_IN, N_LATENTS, K = 512, 256, 4096, 16
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def plain() -> Inputs:
    """`x, centre, W_enc, b_enc`; each row a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, D_IN, generator=generator)
    x *= torch.rand(BATCH, 1, generator=generator).exp2()
    rows = torch.randn(N_LATENTS, D_IN, generator=generator) / D_IN**0.5
    rows *= 0.5 + torch.rand(N_LATENTS, 1, generator=generator)
    return x, torch.zeros(D_IN), rows.t(), 0.1 * torch.randn(N_LATENTS, generator=generator)


def outliers() -> Inputs:
    x, centre, W_enc, b_enc = plain()
    x[:, 3] += 8.0
    x[[7, 11, 300], 20] = 900.0
    return x, centre, W_enc, b_enc


@pytest.fixture(params=[plain, outliers])
def inputs(request: pytest.FixtureRequest) -> Inputs:
    made: Callable[[], Inputs] = request.param
    return made()


def exact(inputs: Inputs) -> Tensor:
    x, centre, W_enc, b_enc = (tensor.double() for tensor in inputs)
    return torch.addmm(b_enc, x - centre, W_enc)


def same(found: Tensor, expected: Tensor, distance: Tensor) -> bool:
    """Whether two masks differ only where the `distance` from the border is that of rounding to fp32."""
    return bool((distance.abs()[found != expected] < 1e-4).all())


def mask_of(pattern_rows: Tensor, indices: Tensor) -> Tensor:
    mask = torch.zeros(BATCH, N_LATENTS, dtype=torch.bool)
    mask[pattern_rows.long(), indices.long()] = True
    return mask


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each search of 8-bit products found something."""
    found, search = list[bool](), int8_ragged.search

    def spy(*given: object) -> object:
        made = search(*given)  # type: ignore[arg-type]
        found.append(made is not None)
        return made

    monkeypatch.setattr(int8_ragged, "search", spy)
    return found


def test_the_largest_of_the_batch_are_those_of_float64(
    inputs: Inputs, searched: list[bool]
) -> None:
    with matmul.scope("int8"):
        pre, pattern = encode_batch_top_k(*inputs, K)
    assert searched == [True]
    dense = exact(inputs)
    least = dense.flatten().topk(K * BATCH).values[-1]
    assert len(pre) == K * BATCH
    found = mask_of(pattern.rows, pattern.indices)
    assert same(found, dense >= least, dense - least)
    torch.testing.assert_close(pre.double(), dense[found], rtol=1e-5, atol=1e-4)
    order = pattern.rows.long() * N_LATENTS + pattern.indices
    assert bool((order.diff() > 0).all()), "in the order of rows and latents"


@pytest.mark.parametrize("kind", ["one", "per latent"])
def test_all_above_a_floor_are_those_of_float64(
    inputs: Inputs, kind: str, searched: list[bool]
) -> None:
    floor = torch.full((N_LATENTS,), 5.0)
    if kind == "per latent":
        floor += torch.rand(N_LATENTS, generator=torch.Generator().manual_seed(3))
    with matmul.scope("int8"):
        made = encode_above(*inputs, floor if kind == "per latent" else 5.0, 0.5)
    assert made is not None
    assert searched == [True]
    pre, pattern = made
    dense = exact(inputs)
    found = mask_of(pattern.rows, pattern.indices)
    assert found.sum() > BATCH
    assert same(found, dense > floor, dense - floor)
    torch.testing.assert_close(pre.double(), dense[found], rtol=1e-5, atol=1e-4)


def test_what_is_dense_is_left_to_other_products(searched: list[bool]) -> None:
    with matmul.scope("int8"):
        made = encode_above(*plain(), 0.0, 0.9)
        assert searched == [False]
        assert made is not None
        assert len(made[0]) > 0.4 * BATCH * N_LATENTS
        assert encode_above(*plain(), 0.0, 0.1) is None


def test_an_error_beyond_the_bound_leaves_all_to_other_products(
    searched: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "SIGMAS", 0.5)
    with matmul.scope("int8"):
        pre, _ = encode_batch_top_k(*plain(), K)
    assert searched == [False]
    least = exact(plain()).flatten().topk(K * BATCH).values[-1]
    assert abs(float(pre.min()) - float(least)) < 1e-4
