"""The gated autoencoder's sparse and dense steps equal the plain formula, values and every gradient."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import gated_cpu, reference
from monosem.kernels.dispatch import autoencode_gated
from monosem.runtime import matmul

BATCH, D, N = 2100, 24, 64  # three blocks, the last one short
NAMES = ["x", "centre", "W_enc", "b_enc", "r_mag", "b_mag", "W_dec"]


def inputs(shift: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What the kernel takes, in its order; `shift` moves the gates' biases, and with them the density."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    rows = draw(N, D) / D**0.5
    made = [draw(BATCH, D), 0.1 * draw(D), rows.t(), 0.1 * draw(N) + shift]
    made += [0.3 * draw(N), 0.2 * draw(N) + shift, draw(N, D) / D**0.5]
    return [tensor.requires_grad_() for tensor in made]


def plain(given: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The formula of the paper, word for word."""
    x, centre, W_enc, b_enc, r_mag, b_mag, W_dec = given
    pi = (x - centre) @ W_enc
    gate = (pi + b_enc).clamp_min(0)
    latents = (gate > 0) * (r_mag.exp() * pi + b_mag).clamp_min(0)
    firing = (latents > 0).sum(0)
    return latents @ W_dec, gate @ W_dec.detach(), gate.sum(), firing


def gradients(outputs: tuple[Tensor, ...], given: list[Tensor]) -> list[Tensor]:
    """Of a loss that sees all three outputs, and each differently."""
    decoded, of_gates, total = outputs[:3]
    wanted = given[0].detach().flip(0)
    loss = (decoded - wanted).square().mean() + 0.7 * (of_gates - wanted).square().mean()
    return list(torch.autograd.grad(loss + 0.3 * total / BATCH, given))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize(("shift", "most"), [(0.0, 0.06), (-2.0, 0.06), (-2.0, 0.0)])
def test_both_steps_equal_the_formula_in_double_precision(
    shift: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated_cpu, "SPARSE", most)
    given = inputs(shift, torch.float64)
    seen, expected = autoencode_gated(*given), plain(given)
    assert torch.equal(seen.firing, expected[3])
    for found, wanted in zip(seen[:3], expected[:3], strict=True):
        torch.testing.assert_close(found, wanted)
    pairs = zip(gradients(seen, given), gradients(expected, given), strict=True)
    for name, (found, wanted) in zip(NAMES, pairs, strict=True):
        assert found.dtype == torch.float64
        assert relative_error(found, wanted) < 1e-9, name


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_under_the_bf16_policy_steps_are_as_close_as_rounding_lets_them(shift: float) -> None:
    given = inputs(shift)
    with matmul.scope("bf16"):
        seen, rounded = autoencode_gated(*given), reference.autoencode_gated(*given)
        found, same_rounding = gradients(seen, given), gradients(rounded, given)
    expected = plain(given)
    exact = gradients(expected, given)
    for a, b in zip(seen[:3], expected[:3], strict=True):
        assert a.dtype == torch.float32
        assert (
            relative_error(a, b) < 0.05
        )  # a gate that rounding shuts hides a latent that is not small
    for name, a, b, c in zip(NAMES, found, same_rounding, exact, strict=True):
        assert a.dtype == torch.float32
        assert relative_error(a, b) < 0.1, name
        assert relative_error(a, c) < 0.1, name


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    given = inputs(0.0)
    given[0].requires_grad_(False)
    given[1].requires_grad_(False)
    seen, expected = autoencode_gated(*given), plain(given)
    for outputs in (seen, expected):
        (outputs[0].square().mean() + outputs[1].square().mean() + outputs[2] / BATCH).backward()
    assert given[0].grad is None
    assert given[1].grad is None
    for tensor in given[2:]:
        assert tensor.grad is not None


def test_shut_gates_and_an_empty_batch_pass_through() -> None:
    for rows, shift in ((BATCH, -100.0), (0, 0.0)):
        given = inputs(shift)
        given[0] = given[0].detach()[:rows]
        seen = autoencode_gated(*given)
        assert seen.decoded.shape == (rows, D)
        assert not seen.decoded.any()
        assert not seen.firing.any()
        (seen.decoded.sum() + seen.of_gates.sum() + seen.total).backward()
        assert all(t.grad is None or not t.grad.any() for t in given[1:])
