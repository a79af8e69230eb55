"""What a product of 8-bit integers chooses is what float64 chooses, or it says that it is not sure."""

import pytest
import torch
from torch import Tensor

from monosem.kernels import int8_cpu, rounding, workspace
from monosem.kernels.encoder import encode_top_k
from monosem.kernels.int8_cpu import choose_top_k, suits
from monosem.runtime import matmul

pytestmark = pytest.mark.skipif(not matmul.has_int8(), reason="8-bit sums are not exact here")

BATCH, D_IN, N_LATENTS, K = 512, 256, 4096, 16
Inputs = tuple[Tensor, Tensor, Tensor]


def random_inputs() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, D_IN, generator=generator)
    rows = torch.randn(N_LATENTS, D_IN, generator=generator) / D_IN**0.5
    return x, rows.t(), torch.zeros(N_LATENTS)


def trained_inputs() -> Inputs:
    """Sums of few of the latents' own directions; norms and biases differ, as after training."""
    x, W_enc, _ = random_inputs()
    generator = torch.Generator().manual_seed(1)
    rows = W_enc.t() * (0.5 + torch.rand(N_LATENTS, 1, generator=generator))
    few = torch.randint(0, N_LATENTS, (BATCH, 12), generator=generator)
    weights = 0.5 + torch.rand(BATCH, 12, generator=generator)
    x = torch.einsum("bf,bfd->bd", weights, rows[few]) + 0.1 * x
    return x, rows.t(), -0.3 * torch.rand(N_LATENTS, generator=generator)


def outlier_inputs() -> Inputs:
    """As residual streams: two channels that outshine the others on all rows, and two massive rows."""
    x, W_enc, b_enc = random_inputs()
    x[:, 3] += 8.0
    x[:, 50] *= 12.0
    x[[7, 11]] = 0.1 * x[[7, 11]]
    x[[7, 11], 20] = 900.0
    return x, W_enc, b_enc


CASES = {"random": random_inputs, "trained": trained_inputs, "outliers": outlier_inputs}


@pytest.fixture(params=CASES)
def inputs(request: pytest.FixtureRequest) -> Inputs:
    return CASES[request.param]()


def exact(inputs: Inputs) -> Tensor:
    x, W_enc, b_enc = (tensor.double() for tensor in inputs)
    return torch.addmm(b_enc, x, W_enc)


def right(inputs: Inputs, indices: Tensor) -> Tensor:
    """Rows whose `indices` are different latents, none of them below the k-th largest."""
    pre = exact(inputs)
    least = pre.topk(K, dim=1).values[:, -1:]
    different = (indices.sort(1).values.diff(dim=1) > 0).all(1)
    return different & (pre.gather(1, indices.long()) >= least - 1e-5).all(1)


def test_rows_that_are_sure_have_the_largest_of_float64(inputs: Inputs) -> None:
    assert suits(inputs[0], inputs[1], K)
    found = choose_top_k(*inputs, K)
    assert found is not None
    values, indices, sure = found
    assert sure.double().mean() > 0.9
    assert bool(right(inputs, indices)[sure].all())
    expected = exact(inputs).gather(1, indices.long())
    torch.testing.assert_close(values[sure].double(), expected[sure], rtol=1e-5, atol=1e-5)


def test_the_error_of_rounding_is_what_the_bound_says(inputs: Inputs) -> None:
    both = rounding.rounded(*inputs)
    assert both is not None
    product = both.x.double() @ both.weight.double().t()
    error = (product - exact(inputs) / both.unit.double()[:, None])[both.sound]
    assert bool((error.abs() <= both.slack[both.sound, None]).all())
    deviations = error / both.deviation[both.sound, None]
    assert deviations.abs().max() > 3, "a bound that nothing comes near would cost candidates"
    if inputs[2].any():
        return  # what a bias adds is bounded, not random
    spread = deviations.square().mean(1).sqrt()
    assert spread.min() > 0.6
    assert spread.max() < 1.2


def test_a_row_whose_small_numbers_are_lost_is_not_sure():
    inputs = outlier_inputs()
    both, found = rounding.rounded(*inputs), choose_top_k(*inputs, K)
    assert both is not None and found is not None
    assert not both.sound[[7, 11]].any()
    assert both.sound.sum() > 0.95 * BATCH
    assert not found[2][[7, 11]].any()


def test_a_row_that_a_floor_too_high_robs_of_a_latent_is_not_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = trained_inputs()
    monkeypatch.setattr(int8_cpu, "MORE", -0.99 * rounding.SIGMAS)  # as if nothing were rounded
    found = choose_top_k(*inputs, K)
    assert found is not None
    wrong = ~right(inputs, found[1])
    assert wrong.sum() > 10, "the floor was not too high"
    assert not found[2][wrong].any()


def test_an_error_beyond_the_bound_makes_a_row_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "SIGMAS", 0.5)
    found = choose_top_k(*random_inputs(), K)
    assert found is not None
    assert found[2].double().mean() < 0.1


def test_too_many_doubtful_rows_are_not_searched():
    x, W_enc, b_enc = random_inputs()
    x[::4, 5] = 3000.0
    assert choose_top_k(x, W_enc, b_enc, K) is None
    flat = torch.ones_like(W_enc)
    assert choose_top_k(x.abs() + 1, flat.t().contiguous().t(), b_enc, K) is None


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_weights_that_cannot_be_rounded_are_not(broken: float) -> None:
    x, W_enc, b_enc = random_inputs()
    W_enc[:, 17] = broken
    assert rounding.rounded(x, W_enc, b_enc) is None


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_rows_that_cannot_be_rounded_are_not_sure(broken: float) -> None:
    x, W_enc, b_enc = random_inputs()
    x[5], x[9, 3] = broken, broken
    found = choose_top_k(x, W_enc, b_enc, K)
    assert found is not None
    assert not found[2][5]
    assert found[2][[4, 6]].all()


def test_what_rounding_a_bias_does_is_in_the_bound():
    x, W_enc, b_enc = random_inputs()
    b_enc.uniform_(-8, 8, generator=torch.Generator().manual_seed(2))
    both = rounding.rounded(x, W_enc, b_enc)
    assert both is not None
    product = both.x.double() @ both.weight.double().t()
    error = (product - exact((x, W_enc, b_enc)) / both.unit.double()[:, None]).abs()
    assert bool(both.sound.all())
    assert bool((error <= both.slack[:, None]).all())
    assert bool((error > rounding.SIGMAS * both.deviation[:, None]).any())


def test_a_bias_too_large_for_its_place_makes_rows_doubtful():
    x, W_enc, b_enc = random_inputs()
    b_enc[3] = 1e4
    both = rounding.rounded(x, W_enc, b_enc)
    assert both is not None
    assert not both.sound.any()
    assert choose_top_k(x, W_enc, b_enc, K) is None
    b_enc[3] = 1.0
    found = choose_top_k(x, W_enc, b_enc, K)
    assert found is not None
    assert found[2].double().mean() > 0.9
    assert bool(right((x, W_enc, b_enc), found[1])[found[2]].all())


def test_under_the_policy_rows_are_right_whether_sure_or_not(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, W_enc, b_enc = inputs
    memory = workspace.Workspace()
    for doubtful in (int8_cpu.DOUBTFUL, -1.0):  # the second: as if there were too many
        monkeypatch.setattr(int8_cpu, "DOUBTFUL", doubtful)
        with matmul.scope("int8"), workspace.scope(memory):
            pre, pattern = encode_top_k(x, torch.zeros(D_IN), W_enc, b_enc, K)
        assert bool(right(inputs, pattern.indices).all())
        expected = exact(inputs).gather(1, pattern.indices.long())
        torch.testing.assert_close(pre.double(), expected, rtol=1e-5, atol=2e-5)
        share = memory.remarks["int8_rows"]
        assert 0.9 < share <= 1 if doubtful > 0 else share == 0, "the log says which"


def test_what_does_not_pay_or_fit_is_not_taken():
    x, W_enc, _ = random_inputs()
    assert suits(x, W_enc, K)
    assert not suits(x, W_enc, 256)
    assert not suits(x[:100], W_enc, K)
    assert not suits(x, W_enc.t()[:1000].t(), K)
    assert not suits(x[:, :200], W_enc.t()[:, :200].contiguous().t(), K)
    assert not suits(x, W_enc.contiguous(), K)
    assert not suits(x, W_enc.t()[:-1].t(), K)
    assert not suits(x.double(), W_enc, K)
    assert not suits(torch.cat([x, x], 1), W_enc, K)
