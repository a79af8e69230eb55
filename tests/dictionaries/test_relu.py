"""ReLU: the loss on the paper's scale, and resampling in all its six steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import TrainState
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.resampling import draw as draw_positions
from monosem.runtime import matmul

D, N = 24, 64
MakeState = Callable[..., TrainState]
MakeSource = Callable[..., Any]
DEAD = [1, 5, 40]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(make_state: MakeState) -> tuple[ReLU, torch.optim.Optimizer]:
    """A dictionary after one step of Adam, so that there are moments to forget."""
    dictionary = ReLU(ReLUConfig(d_in=D, n_latents=N))
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=1e-3, fused=True)
    x = draw(256, D)
    torch.stack(list(dictionary.loss_terms(x, x, make_state(dictionary)).values())).sum().backward()
    optimizer.step()
    dictionary.after_step_()
    return dictionary, optimizer


def test_the_loss_is_the_papers(make_state: MakeState) -> None:
    config = ReLUConfig(d_in=D, n_latents=N, l1=0.5, l1_warmup=0.0)
    dictionary, x = ReLU(config), draw(32, D)
    with torch.no_grad():
        dictionary.b_dec.copy_(draw(D, seed=1))
        dictionary.b_enc.copy_(draw(N, seed=2))
    f = ((x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc).clamp_min(0)
    x_hat = f @ dictionary.W_dec + dictionary.b_dec
    terms = dictionary.loss_terms(x, x, make_state(dictionary))
    torch.testing.assert_close(terms["mse"], ((x - x_hat) ** 2).mean())
    torch.testing.assert_close(terms["l1"], 0.5 * f.sum(1).mean())


def test_defaults_give_the_papers_numbers_at_the_papers_length() -> None:
    config, n_steps, batch = ReLUConfig(), 1_000_000, 8192
    steps = ReLU(ReLUConfig(d_in=8, n_latents=8)).resampling_steps(n_steps)
    assert steps == [25_000, 50_000, 75_000, 100_000]
    assert round(config.resample_window * n_steps) == 12_500
    assert round(config.resample_inputs * n_steps * batch) == 819_200


def test_weights_start_within_torchs_bounds_with_unit_decoder_rows() -> None:
    dictionary = ReLU(ReLUConfig(d_in=D, n_latents=4096))
    assert dictionary.W_enc.abs().max() <= D**-0.5
    assert dictionary.W_enc.std().item() == pytest.approx((1 / 3 / D) ** 0.5, rel=0.02)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(4096))


def test_resampling_writes_new_weights_for_exactly_the_dead(
    make_state: MakeState, make_source: MakeSource
) -> None:
    dictionary, optimizer = trained(make_state)
    before = {k: v.clone() for k, v in dictionary.state_dict().items()}
    source = make_source(128)
    state = make_state(dictionary, step=25, n_steps=1000, silent=DEAD)
    dictionary.revive_(state, optimizer, source)
    alive = [i for i in range(N) if i not in DEAD]
    after = dictionary.state_dict()
    assert torch.equal(after["W_dec"][alive], before["W_dec"][alive])
    assert torch.equal(after["W_enc"][:, alive], before["W_enc"][:, alive])
    assert torch.equal(after["b_enc"][alive], before["b_enc"][alive])
    assert torch.equal(after["b_dec"], before["b_dec"])
    sample = torch.nn.functional.normalize(source.sample(source.asked).x, dim=1)
    mean_norm = before["W_enc"][:, alive].norm(dim=0).mean()
    for latent in DEAD:
        assert not torch.equal(after["W_dec"][latent], before["W_dec"][latent])
        distances = (sample - after["W_dec"][latent]).norm(dim=1)
        assert distances.min() < 1e-6, "the decoder row is one of the inputs, at unit length"
        torch.testing.assert_close(
            after["W_enc"][:, latent], after["W_dec"][latent] * 0.2 * mean_norm
        )
        assert after["b_enc"][latent] == 0
    assert len({tuple(after["W_dec"][i].tolist()) for i in DEAD}) == len(DEAD)


def test_resampling_forgets_the_moments_of_exactly_what_changed(
    make_state: MakeState, make_source: MakeSource
) -> None:
    dictionary, optimizer = trained(make_state)
    names = {p: n for n, p in dictionary.named_parameters()}
    before = {
        (names[p], m): s[m].clone()
        for p, s in optimizer.state.items()
        for m in ("exp_avg", "exp_avg_sq")
    }
    state = make_state(dictionary, step=25, n_steps=1000, silent=DEAD)
    dictionary.revive_(state, optimizer, make_source(128))
    alive = torch.tensor([i for i in range(N) if i not in DEAD])
    axis = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
    for (name, moment), old in before.items():
        new = optimizer.state[dict(dictionary.named_parameters())[name]][moment]
        if name == "b_dec":
            assert torch.equal(new, old)
            continue
        dim = axis[name]
        assert new.index_select(dim, torch.tensor(DEAD)).abs().max() == 0
        assert old.index_select(dim, torch.tensor(DEAD)).abs().max() > 0
        assert torch.equal(new.index_select(dim, alive), old.index_select(dim, alive))


def test_nothing_is_resampled_at_other_times_or_where_nobody_is_dead(
    make_state: MakeState, make_source: MakeSource
) -> None:
    dictionary, optimizer = trained(make_state)
    before = {k: v.clone() for k, v in dictionary.state_dict().items()}
    source = make_source(128)
    for step, silent in ((24, DEAD), (26, DEAD), (0, DEAD), (999, DEAD), (25, [])):
        state = make_state(dictionary, step=step, n_steps=1000, silent=silent)
        dictionary.revive_(state, optimizer, source)
    assert source.asked == 0
    assert all(torch.equal(before[k], v) for k, v in dictionary.state_dict().items())


def test_a_latent_is_dead_after_the_window_and_not_before(
    make_state: MakeState, make_source: MakeSource
) -> None:
    dictionary, optimizer = trained(make_state)
    rows = dictionary.W_dec.detach().clone()
    state = make_state(dictionary, step=250, n_steps=10_000)
    window = 125 * 128
    state.tokens_since_fired[3], state.tokens_since_fired[4] = window - 1, window
    dictionary.revive_(state, optimizer, make_source(128))
    assert (dictionary.W_dec != rows).any(1).nonzero()[:, 0].tolist() == [4]


def test_everybody_dead_is_reborn_too(make_state: MakeState, make_source: MakeSource) -> None:
    dictionary, optimizer = trained(make_state)
    state = make_state(dictionary, step=25, n_steps=1000, silent=range(N))
    dictionary.revive_(state, optimizer, make_source(128))
    assert dictionary.W_enc.isfinite().all()
    assert (dictionary.W_enc.norm(dim=0) > 0).all()


def test_inputs_are_drawn_with_probability_proportional_to_the_squared_loss() -> None:
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_positions(losses, 1, generator) for _ in range(2_800)])
    counts = torch.bincount(draws[:, 0], minlength=4) / 200
    torch.testing.assert_close(counts, torch.tensor([0.0, 1.0, 4.0, 9.0]), atol=0.3, rtol=0.1)
    assert sorted(draw_positions(losses, 3, generator).tolist()) == [1, 2, 3]
    assert len(draw_positions(losses, 10, generator)) == 10
    assert len(draw_positions(torch.zeros(4), 2, generator)) == 2


def test_a_run_that_has_diverged_says_so(make_state: MakeState, make_source: MakeSource) -> None:
    dictionary, optimizer = trained(make_state)
    with torch.no_grad():
        dictionary.b_dec.fill_(float("nan"))
    state = make_state(dictionary, step=25, n_steps=1000, silent=DEAD)
    with pytest.raises(ConfigError, match="diverged"):
        dictionary.revive_(state, optimizer, make_source(128))


def test_under_the_bf16_policy_the_loss_is_close_and_weights_keep_fp32(
    make_state: MakeState,
) -> None:
    dictionary, x = ReLU(ReLUConfig(d_in=D, n_latents=N)), draw(256, D)
    state = make_state(dictionary)
    exact = dictionary.loss_terms(x, x, state)
    with matmul.scope("bf16"):
        rough = dictionary.loss_terms(x, x, state)
        torch.stack(list(rough.values())).sum().backward()
    for name, value in exact.items():
        torch.testing.assert_close(rough[name], value, rtol=0.02, atol=0)
        assert rough[name].dtype == torch.float32
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in dictionary.parameters()
    )
