"""What every architecture owes its users; exporting one enrols it here."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.core.config import from_json, to_json
from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries.base import Dictionary, DictionaryConfig, TrainState, architectures, load
from monosem.dictionaries.unit_norm import UnitNorm

D = 12
Build = Callable[..., Dictionary[Any]]
MakeState = Callable[..., TrainState]

VARIANTS = ["jumprelu:tanh", "relu:fixed", "topk:multi"]
every = pytest.mark.parametrize("name", [*architectures(), *VARIANTS])
trained = pytest.mark.parametrize(
    "name", [*(n for n, a in architectures().items() if a.trainable), *VARIANTS]
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_random_biases(dictionary: Dictionary[Any]) -> Dictionary[Any]:
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            if name.startswith("b_"):
                parameter.copy_(0.1 * draw(*parameter.shape, seed=3))
    return dictionary


@every
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,), (2, 1, 4)])
def test_any_batch_shape_is_encoded_and_decoded(name: str, shape: tuple, build: Build) -> None:
    dictionary = with_random_biases(build(name))
    x = draw(*shape, D)
    latents = dictionary.encode(x)
    assert latents.shape == (*shape, dictionary.n_latents)
    assert dictionary.decode(latents).shape == x.shape == dictionary(x).shape
    assert (latents >= 0).all()
    rows = dictionary.encode(x.reshape(-1, D))
    torch.testing.assert_close(latents.reshape(rows.shape), rows)


@every
def test_sparse_latents_are_the_dense_ones(name: str, build: Build) -> None:
    dictionary, x = with_random_biases(build(name)), draw(33, D)
    dense, sparse = dictionary.encode(x), dictionary.encode_sparse(x)
    assert sparse.indices.dtype == torch.int32
    assert len(sparse) == 33
    torch.testing.assert_close(sparse.dense(), dense)
    torch.testing.assert_close(sparse.ragged().dense(), dense)
    for latents in (sparse, sparse.ragged()):
        torch.testing.assert_close(dictionary.decode(latents), dictionary.decode(dense))
    assert torch.equal(sparse.active().sort().values, (dense > 0).nonzero()[:, 1].sort().values)


@every
def test_save_then_load_gives_the_same_bits(name: str, build: Build, tmp_path: Path) -> None:
    dictionary, x = with_random_biases(build(name)), draw(9, D)
    dictionary.save(tmp_path / "it", site="hook_embed", model="m@1", metrics={"fvu": 0.25})
    again = load(tmp_path / "it")
    assert type(again) is type(dictionary)
    assert again.config == dictionary.config
    assert again.conventions == dictionary.conventions
    assert (again.site, again.origin.model, again.origin.metrics) == (
        "hook_embed",
        "m@1",
        {"fvu": 0.25},
    )
    assert torch.equal(again.encode(x), dictionary.encode(x))
    assert torch.equal(again(x), dictionary(x))
    weights = again.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in dictionary.state_dict().items())


@every
def test_its_configuration_survives_json(name: str, build: Build) -> None:
    config = build(name).config
    assert from_json(DictionaryConfig, to_json(config)) == config


@trained
def test_gradients_reach_every_parameter(name: str, build: Build, make_state: MakeState) -> None:
    dictionary, x = with_random_biases(build(name)), draw(64, D)
    terms = dictionary.loss_terms(x, x, make_state(dictionary))
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for which, parameter in dictionary.named_parameters():
        assert parameter.grad is not None, which
        assert parameter.grad.isfinite().all(), which
        assert parameter.grad.abs().sum() > 0, which


@every
def test_the_loss_counts_the_rows_each_latent_fired_on(
    name: str, build: Build, make_state: MakeState
) -> None:
    dictionary, x = with_random_biases(build(name)), draw(40, D)
    assert dictionary.firing.sum() == 0
    dictionary.loss_terms(x, x, make_state(dictionary))
    assert dictionary.firing.dtype == torch.int64
    fired = (dictionary.encode(x) > 0).sum(0)
    assert torch.equal(dictionary.firing, fired)
    assert torch.equal(dictionary.firings(x), fired)


@every
def test_the_same_seed_gives_the_same_weights(name: str, build: Build) -> None:
    torch.manual_seed(1)
    one = build(name, seed=5)
    torch.manual_seed(2)
    two, other = build(name, seed=5), build(name, seed=6)
    assert all(torch.equal(two.state_dict()[k], v) for k, v in one.state_dict().items())
    if type(one).trainable:
        assert not torch.equal(one.W_dec, other.W_dec)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_moves_to_another_type(name: str, dtype: torch.dtype, build: Build) -> None:
    dictionary, x = with_random_biases(build(name)), draw(9, D)
    expected = dictionary(x)
    moved = copy.deepcopy(dictionary).to(dtype)
    found = moved(x.to(dtype))
    assert found.dtype == dtype
    assert moved.decode(moved.encode_sparse(x.to(dtype))).dtype == dtype
    error = (found.float() - expected).square().mean() / expected.square().mean()
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-10)


@every
def test_it_moves_to_another_device(name: str, build: Build, make_state: MakeState) -> None:
    dictionary = build(name).to("meta")
    assert {p.device.type for p in dictionary.state_dict().values()} <= {"meta"}
    x = torch.empty(5, D, device="meta")
    assert dictionary.decode(dictionary.encode(x)).device.type == "meta"


@trained
def test_a_step_asks_another_device_for_nothing(
    name: str, build: Build, make_state: MakeState
) -> None:
    """The meta device has no values: whatever would make the host wait for one raises there."""
    dictionary = build(name).to("meta")
    x = torch.empty(32, D, device="meta")
    state = make_state(dictionary, step=50, silent=[3, 4])
    state.dead, state.tokens_since_fired = (
        state.dead.to("meta"),
        state.tokens_since_fired.to("meta"),
    )
    dictionary.schedule_(state)
    terms = dictionary.loss_terms(x, x, state)
    torch.stack(list(terms.values())).sum().backward()
    dictionary.before_step_()
    dictionary.after_step_()
    assert dictionary.firing.device.type == "meta"


@trained
def test_hooks_are_idempotent_and_keep_unit_rows_where_they_should(
    name: str, build: Build, make_state: MakeState
) -> None:
    dictionary, x = build(name), 0.3 + draw(64, D)
    for _ in range(2):
        dictionary.initialise_(x, x)
        started = copy.deepcopy(dictionary.state_dict())
    dictionary.initialise_(x, x)
    assert all(torch.equal(started[k], v) for k, v in dictionary.state_dict().items())
    state = make_state(dictionary)
    torch.stack(list(dictionary.loss_terms(x, x, state).values())).sum().backward()
    dictionary.before_step_()
    once = [p.grad.clone() for p in dictionary.parameters() if p.grad is not None]
    dictionary.before_step_()
    for before, parameter in zip(once, dictionary.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        dictionary.W_dec.mul_(3.0)
    dictionary.after_step_()
    norms = torch.ones(dictionary.n_latents)
    if not isinstance(dictionary, UnitNorm):
        norms = 3 * started["W_dec"].norm(dim=1)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), norms)
    rows = dictionary.W_dec.clone()
    dictionary.after_step_()
    torch.testing.assert_close(dictionary.W_dec, rows)
    dictionary.schedule_(state)
    torch.testing.assert_close(dictionary.W_dec, rows)


@every
@pytest.mark.parametrize("scale", [4.0, 0.37])
def test_folded_on_raw_activations_is_the_scaled_original(
    name: str, scale: float, build: Build
) -> None:
    dictionary, x = with_random_biases(build(name)), draw(50, D)
    before = copy.deepcopy(dictionary.state_dict())
    folded = dictionary.folded(scale)
    assert folded.conventions.folded
    assert folded.conventions.input_scale == scale
    assert not dictionary.conventions.folded
    norms = dictionary.W_dec.norm(dim=1)  # a latent says how much of a unit vector there is
    # what sees each activation normalised has the same latents for larger ones
    of_latents, near = scale, {}
    if name == "normalised":
        of_latents, near = 1.0, {"rtol": 1e-4, "atol": 1e-4}
    if name == "coded":  # what solves a problem for each vector rounds more
        near = {"rtol": 1e-3, "atol": 1e-3}
    expected = of_latents * norms * dictionary.encode(x)
    torch.testing.assert_close(folded.encode(scale * x), expected, **near)
    torch.testing.assert_close(folded(scale * x), scale * dictionary(x), **near)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(folded.n_latents))
    assert all(torch.equal(before[k], v) for k, v in dictionary.state_dict().items())
    twice = folded.folded(2.0)
    assert twice.conventions.input_scale == 2 * scale


@every
def test_activations_of_another_width_are_refused_with_site_and_widths(
    name: str, build: Build
) -> None:
    dictionary = build(name)
    dictionary.origin = type(dictionary.origin)(site="blocks.0.mlp.hook_post")
    for attempt in (dictionary.encode, dictionary.encode_sparse):
        with pytest.raises(ShapeMismatchError, match=r"blocks\.0\.mlp\.hook_post") as caught:
            attempt(draw(4, D + 1))
        assert str(D) in str(caught.value)
        assert str(D + 1) in str(caught.value)
    with pytest.raises(ShapeMismatchError, match="hook_embed"):
        dictionary.check_width(draw(4, D + 1), "hook_embed")


@trained
def test_narrower_numbers_are_widened_and_wider_ones_refused(name: str, build: Build) -> None:
    dictionary, x = build(name), draw(4, D)
    narrow = x.bfloat16()
    near = {"rtol": 1e-2, "atol": 1e-2}  # some kinds round what they read to its own type
    torch.testing.assert_close(
        dictionary.encode(narrow).float(), dictionary.encode(narrow.float()), **near
    )
    for attempt in (dictionary.encode, dictionary.encode_sparse):
        with pytest.raises(ConfigError, match=r"`torch\.float64`.*computes in `torch\.float32`"):
            attempt(x.double())
    wide = dictionary.double()
    torch.testing.assert_close(wide.encode(x).double(), wide.encode(x.double()), **near)


@trained
def test_one_width_may_be_read_and_another_reconstructed(
    name: str, build: Build, make_state: MakeState
) -> None:
    if name == "tied":
        with pytest.raises(ConfigError, match="Use it at one site"):
            build(name, d_out=D + 5)
        return
    dictionary = build(name, d_out=D + 5)
    x, target = draw(32, D), draw(32, D + 5, seed=1)
    dictionary.initialise_(x, target)
    assert not dictionary.conventions.subtract_b_dec
    terms = dictionary.loss_terms(x, target, make_state(dictionary, silent=[0, 1]))
    torch.stack(list(terms.values())).sum().backward()
    assert dictionary(x).shape == target.shape


@every
def test_it_shows_itself(name: str, build: Build) -> None:
    dictionary = build(name)
    architecture = name.partition(":")[0]
    assert architecture in repr(dictionary)
    assert architecture in str(dictionary._repr_html_())


@pytest.mark.gpu
@every
def test_it_works_on_a_cuda_device(name: str, build: Build, make_state: MakeState) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    dictionary, x = with_random_biases(build(name)), draw(64, D)
    state = make_state(dictionary, silent=[3, 4, 5])
    expected = {k: float(v) for k, v in dictionary.loss_terms(x, x, state).items()}
    moved = copy.deepcopy(dictionary).to("cuda")
    state.dead, state.tokens_since_fired = state.dead.cuda(), state.tokens_since_fired.cuda()
    terms = moved.loss_terms(x.cuda(), x.cuda(), state)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected, rel=1e-3)
    if type(moved).trainable:
        torch.stack(list(terms.values())).sum().backward()
        moved.before_step_()
    moved.after_step_()
    assert torch.equal(moved.firing.cpu(), dictionary.firing)
