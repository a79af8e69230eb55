"""The dead latents' error equals the plain formula, and a sample of rows stands for the batch."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import dead_cpu, dispatch, reference
from monosem.runtime import matmul

BATCH, D, D_OUT, N = 700, 20, 12, 300


def inputs(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """`x, centre, W_enc, b_enc, W_dec`, which want gradients, and a residual."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    made = draw(BATCH, D), draw(D), draw(N, D).t(), draw(N), draw(N, D_OUT)
    return [tensor.requires_grad_() for tensor in made], 0.3 + draw(BATCH, D_OUT)


def mask(n_dead: int) -> Tensor:
    dead = torch.zeros(N, dtype=torch.bool)
    dead[torch.randperm(N, generator=torch.Generator().manual_seed(1))[:n_dead]] = True
    return dead


def plain(given: list[Tensor], dead: Tensor, residual: Tensor, k: int, fit: bool = False) -> Tensor:
    """The formula, in the words of the module's docstring."""
    x, centre, W_enc, b_enc, W_dec = given
    pre = (x - centre) @ W_enc[:, dead] + b_enc[dead]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(min(k, pre.shape[1])).indices, 1.0)
    y, scale = (pre * kept).relu() @ W_dec[dead], 1.0
    if fit:
        first, wanted = y[:256].detach().flatten(), residual[:256].flatten()
        scale = (first @ wanted / (first @ first)).clamp(0.01, 100)
    error = (scale * y - residual).square().sum()
    return error / (residual - residual.mean(0)).square().sum()


@pytest.mark.parametrize(("n_dead", "k"), [(1, 4), (5, 4), (15, 4), (15, 15), (15, 40)])
@pytest.mark.parametrize("fit", [False, True])
def test_error_and_gradients_equal_the_plain_formula(
    n_dead: int, k: int, fit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_cpu, "SHARE", 0.05)
    given, residual = inputs()
    dead = mask(n_dead)
    assert dead_cpu.n_rows(BATCH, n_dead, N) == BATCH
    expected = plain(given, dead, residual, k, fit)
    wanted = torch.autograd.grad(3 * expected, given)
    for found in (
        dispatch.dead_error(*given, dead, residual, k, fit=fit),
        reference.dead_error(*given, dead, residual, k, fit=fit),
    ):
        torch.testing.assert_close(found, expected)
        for a, b in zip(torch.autograd.grad(3 * found, given), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_the_bf16_policy_gives_nearly_the_same() -> None:
    given, residual = inputs(torch.float32)
    dead = mask(6)
    expected = plain(given, dead, residual, 4)
    wanted = torch.autograd.grad(expected, given[1:])
    with matmul.scope("bf16"):
        found = dispatch.dead_error(*given, dead, residual, 4)
        gradients = torch.autograd.grad(found, given[1:])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    for a, b in zip(gradients, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.1 * b.norm()


def test_many_dead_are_judged_on_some_rows_whose_error_is_the_batchs_on_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dead_cpu, "FEWEST_ROWS", 50)
    given, residual = inputs()
    monkeypatch.setattr(dead_cpu, "SHARE", 0.025)
    dead = mask(30)
    n = dead_cpu.n_rows(BATCH, 30, N)
    assert n == BATCH / 4  # four times as many as may be: a fourth of the rows
    expected = plain(given, dead, residual, 4)
    x, found = given[0].detach(), list[Tensor]()
    for part in range(4):  # each row comes first once
        turned = [x.roll(-part * n, 0), *given[1:]]
        found.append(dispatch.dead_error(*turned, dead, residual.roll(-part * n, 0), 4))
    torch.testing.assert_close(torch.stack(found).mean(), expected)
    wanted = torch.autograd.grad(expected, given[1:])
    gradients = torch.autograd.grad(torch.stack(found).mean(), given[1:])
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_no_dead_or_no_spread_is_no_error_and_never_nan() -> None:
    given, residual = inputs()
    assert dispatch.dead_error(*given, mask(0), residual, 4) == 0
    alike = torch.ones_like(residual)
    for error in (
        dispatch.dead_error(*given, mask(5), alike, 4, fit=True),
        reference.dead_error(*given, mask(5), alike, 4, fit=True),
    ):
        assert error == 0
        assert all(g.isfinite().all() for g in torch.autograd.grad(error, given))


def test_what_is_not_a_number_counts_as_no_error() -> None:
    given, residual = inputs(torch.float32)
    residual[3, 3] = torch.nan
    assert dispatch.dead_error(*given, mask(5), residual, 4) == 0
    assert reference.dead_error(*given, mask(5), residual, 4, fit=False) == 0


def test_silent_dead_are_not_scaled() -> None:
    given, residual = inputs()
    with torch.no_grad():
        given[3].fill_(-1e3)
    error = dispatch.dead_error(*given, mask(5), residual, 4, fit=True)
    torch.testing.assert_close(error, plain(given, mask(5), residual, 4))
    assert not any(gradient.any() for gradient in torch.autograd.grad(error, given))
