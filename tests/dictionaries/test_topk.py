"""TopK: its loss is the paper's, and the dead learn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import TrainState
from monosem.dictionaries.losses import aux_k, auxiliary_k, mse, normalised_mse
from monosem.dictionaries.start import LONGEST
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.runtime import matmul

D, N, K = 16, 96, 5
MakeState = Callable[..., TrainState]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(**given: Any) -> TopK:
    dictionary = TopK(TopKConfig(**{"d_in": D, "n_latents": N, "k": K, **given}))
    x = 0.5 + draw(512, D, seed=1)
    dictionary.initialise_(x, x)
    with torch.no_grad():
        dictionary.b_enc.copy_(0.1 * draw(N, seed=2))
    return dictionary


def dense_terms(
    dictionary: TopK, x: torch.Tensor, dead: torch.Tensor, k_aux: int, *, fit: bool
) -> dict[str, torch.Tensor]:
    """The equations of the module, word by word."""
    pre = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)
    x_hat = (pre * kept).relu() @ dictionary.W_dec + dictionary.b_dec
    residual = (x - x_hat).detach()
    silent = pre.masked_fill(~dead, -torch.inf)
    strongest = torch.zeros_like(pre).scatter(1, silent.topk(k_aux).indices, 1.0)
    aux = (silent.relu() * strongest) @ dictionary.W_dec
    spread = (residual - residual.mean(0)).square().mean()
    along, square = (aux * residual).sum(), aux.square().sum()
    aux = (along / square).detach().clamp(0.01, 100.0) * aux if fit else aux
    return {
        "mse": (x_hat - x).square().mean() / dictionary.variance,
        "aux_k": (aux - residual).square().mean() / spread / 32,
    }


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("n_dead", [1, 3, 20, N])
def test_loss_and_gradients_equal_dense_autograd(
    n_dead: int, fit: bool, make_state: MakeState
) -> None:
    dictionary, x = make(k_aux=4, aux_fit=fit), 0.5 + draw(64, D)
    state = make_state(dictionary, silent=list(range(n_dead)))
    parameters = list(dictionary.parameters())
    terms = dictionary.loss_terms(x, x, state)
    expected = dense_terms(dictionary, x, state.dead, min(4, n_dead), fit=fit)
    for name in ("mse", "aux_k"):
        torch.testing.assert_close(terms[name], expected[name])
    found = torch.autograd.grad(terms["mse"] + terms["aux_k"], parameters)
    wanted = torch.autograd.grad(expected["mse"] + expected["aux_k"], parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_aux_k_reaches_the_encoder_rows_of_the_dead_and_of_nobody_else(
    make_state: MakeState,
) -> None:
    dictionary, x = make(), draw(64, D)
    with torch.no_grad():
        # too low to be among the k, high enough to be positive at times
        dictionary.b_enc[:8] = -3.0 * dictionary.W_enc[:, 0].norm()
        dictionary.W_enc[:, :8] *= 2
    state = make_state(dictionary, silent=range(8))
    aux = dictionary.loss_terms(x, x, state)["aux_k"]
    d_W_enc, d_b_enc, d_W_dec = torch.autograd.grad(
        aux, [dictionary.W_enc, dictionary.b_enc, dictionary.W_dec]
    )
    assert (d_W_enc[:, :8].norm(dim=0) > 0).all()
    assert (d_b_enc[:8] != 0).all()
    assert (d_W_dec[:8].norm(dim=1) > 0).all()
    assert d_W_enc[:, 8:].abs().max() == 0
    assert d_W_dec[8:].abs().max() == 0


def test_aux_k_does_not_move_the_living_through_the_residual() -> None:
    residual = draw(32, D).requires_grad_()
    pre, rows = draw(32, 6).requires_grad_(), draw(6, D)
    loss = aux_k(pre, rows, residual, 4)
    loss.backward()
    assert residual.grad is None
    assert pre.grad is not None
    assert pre.grad.abs().sum() > 0


def test_multi_top_k_asks_four_times_as_many_latents_too(make_state: MakeState) -> None:
    dictionary, x = make(multi_weight=0.125).double(), 0.5 + draw(64, D).double()
    terms = dictionary.loss_terms(x, x, make_state(dictionary))
    pre = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    expected: dict[str, torch.Tensor] = {}
    for name, k, weight in (("mse", K, 1.0), ("multi", 4 * K, 0.125)):
        kept = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
        x_hat = (pre * kept).relu() @ dictionary.W_dec + dictionary.b_dec
        expected[name] = weight * (x_hat - x).square().mean() / dictionary.variance
        torch.testing.assert_close(terms[name], expected[name])
    parameters = list(dictionary.parameters())
    found = torch.autograd.grad(terms["mse"] + terms["multi"], parameters)
    wanted = torch.autograd.grad(sum(expected.values()), parameters)  # type: ignore[arg-type]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert dictionary.firing.sum() <= 64 * K, "the k count, not the 4k"


def test_dead_latents_are_not_pushed_down_by_a_small_residual(make_state: MakeState) -> None:
    x, slopes = draw(64, D), list[float]()
    for fit in (False, True):
        dictionary = make(aux_fit=fit)
        residual = 0.01 * draw(64, D, seed=4)
        state = make_state(dictionary, silent=range(N))
        aux = dictionary.aux_terms(x, residual, state)["aux_k"]
        (d_b_enc,) = torch.autograd.grad(aux, [dictionary.b_enc])
        slopes.append(float(d_b_enc.sum()))
    assert slopes[0] > 1.0, "the paper's loss asks dead latents to be silent"
    assert abs(slopes[1]) < 0.01 * slopes[0]


def test_without_dead_latents_the_term_is_zero_and_never_nan(make_state: MakeState) -> None:
    dictionary, x = make(), draw(64, D)
    assert dictionary.loss_terms(x, x, make_state(dictionary))["aux_k"] == 0
    alike = torch.ones(8, D)
    pre = torch.full((8, 3), -torch.inf, requires_grad=True)
    loss = aux_k(pre, draw(3, D), alike, 2)
    loss.backward()
    assert loss == 0
    assert pre.grad is not None
    assert pre.grad.isfinite().all()
    one = normalised_mse(torch.zeros(1, D, requires_grad=True), torch.ones(1, D))
    assert one == 0
    assert "aux_k" not in make(aux_weight=0.0).loss_terms(x, x, make_state(dictionary))


def test_the_number_of_helpers_is_a_power_of_two_near_half_the_width() -> None:
    assert [auxiliary_k(d) for d in (2, 16, 100, 512, 768, 2048)] == [1, 8, 64, 256, 256, 1024]


@pytest.mark.parametrize("k", [16, 128])
def test_the_encoder_starts_tied_and_gives_unit_outputs_for_unit_inputs_or_is_as_long_as_it_may_be(
    k: int,
) -> None:
    dictionary = TopK(TopKConfig(d_in=64, n_latents=512, k=k))
    lengths = dictionary.W_enc.norm(dim=0)
    torch.testing.assert_close(dictionary.W_enc.t(), lengths[:, None] * dictionary.W_dec)
    x = torch.nn.functional.normalize(draw(1000, 64, seed=9), dim=1)
    output = dictionary(x).norm(dim=1).mean().item()
    if k == 16:
        assert lengths.max().item() == pytest.approx(LONGEST)
        assert output < 0.95
    else:
        assert lengths.max().item() < LONGEST
        assert output == pytest.approx(1.0, abs=0.02)


def test_it_starts_at_the_geometric_median_and_the_variance_of_the_data() -> None:
    dictionary = TopK(TopKConfig(d_in=D, n_latents=N, k=K))
    x = 3.0 + 2.0 * draw(4000, D)
    x[0] = 1e6  # an outlier moves the mean, not the median
    dictionary.initialise_(x, x)
    torch.testing.assert_close(dictionary.b_dec.data, torch.full((D,), 3.0), atol=0.2, rtol=0)
    dictionary.initialise_(x[1:], x[1:])
    assert float(dictionary.variance) == pytest.approx(4.0, rel=0.05)
    centred = dictionary.b_dec.detach().expand(len(x) - 1, D)
    assert mse(centred, x[1:]) / dictionary.variance == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ConfigError, match="constant"):
        dictionary.initialise_(torch.ones(10, D), torch.ones(10, D))


def test_a_step_leaves_unit_rows_and_gradients_perpendicular_to_them(
    make_state: MakeState,
) -> None:
    dictionary, x = make(), draw(64, D)
    dictionary.loss_terms(x, x, make_state(dictionary))["mse"].backward()
    assert dictionary.W_dec.grad is not None
    along = (dictionary.W_dec.grad * dictionary.W_dec).sum(1).abs().max()
    dictionary.before_step_()
    assert (dictionary.W_dec.grad * dictionary.W_dec).sum(1).abs().max() < 1e-6 < along
    assert dictionary.W_dec.grad.norm() > 0


def test_fused_adam_treats_its_strided_encoder_as_plain_adam_does(make_state: MakeState) -> None:
    weights: list[torch.Tensor] = []
    for fused in (True, False):
        dictionary, x = make(), draw(64, D)
        optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.01, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            dictionary.loss_terms(x, x, make_state(dictionary))["mse"].backward()
            optimizer.step()
        weights.append(dictionary.W_enc.detach())
    torch.testing.assert_close(*weights)


def test_under_the_bf16_policy_loss_and_gradients_stay_those_of_fp32(make_state: MakeState) -> None:
    dictionary = TopK(TopKConfig(d_in=64, n_latents=2048, k=16))
    x = draw(256, 64)
    state = make_state(dictionary)
    exact = dictionary.loss_terms(x, x, state)["mse"]
    wanted = torch.autograd.grad(exact, list(dictionary.parameters()))
    with matmul.scope("bf16"):
        loss = dictionary.loss_terms(x, x, state)["mse"]
        found = torch.autograd.grad(loss, list(dictionary.parameters()))
    torch.testing.assert_close(loss, exact, rtol=1e-3, atol=0)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_reconstruction_from_k_rows_is_that_of_all_latents(shape: tuple[int, ...]) -> None:
    dictionary = TopK(TopKConfig(d_in=8, n_latents=40, k=3)).double()
    x = torch.randn(*shape, 8, dtype=torch.float64, requires_grad=True)
    found, expected = dictionary(x), dictionary.reconstruct(x, dictionary.encode(x))
    torch.testing.assert_close(found, expected)
    wanted = [x, *dictionary.parameters()]
    gradients = torch.autograd.grad(found.square().sum(), wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), wanted))
