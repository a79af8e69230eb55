"""A cross-layer transcoder computes what a transcoder with blocks of zeros does, at less cost."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from monosem.dictionaries.base import Dictionary, TrainState, architectures
from monosem.dictionaries.relu import ReLU
from monosem.dictionaries.wiring import Wiring
from monosem.kernels.parts import spans
from monosem.kernels.workspace import Workspace, scope
from monosem.runtime import matmul

L, D, OUT, N, BATCH = 3, 8, 6, 96, 40
TRAINED = [n for n, a in architectures().items() if a.trainable and n != "tied"]
POLICIES = ["fp32", "bf16", *(["int8"] if matmul.has_int8() else [])]
CLT = Wiring(kind="clt", widths_in=(D,) * L, widths_out=(OUT,) * L)
SHAPE = {"n_latents": N, "d_in": L * D, "d_out": L * OUT}
every = pytest.mark.parametrize("name", [*TRAINED, "topk:multi", "jumprelu:tanh"])

Build = Callable[..., Dictionary[Any]]
MakeState = Callable[..., TrainState]
Pair = tuple[Dictionary[Any], Dictionary[Any]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def pair(build: Build) -> Callable[[str], Pair]:
    """`pair(architecture)`: a CLT, and a transcoder with the same weights and zeros for the others."""

    def make(name: str) -> Pair:
        clt = build(name, **SHAPE, wiring=CLT).double()
        clt.initialise_(draw(64, L * D), draw(64, L * OUT, seed=1))
        dense = build(name, **SHAPE, wiring=Wiring(kind="transcoder")).double()
        weights = {k: v for k, v in clt.state_dict().items() if not k.startswith("W_dec_")}
        dense.load_state_dict(weights | {"W_enc": clt.encoder(), "W_dec": clt.W_dec})
        return clt, dense

    return make


@every
@pytest.mark.parametrize("kept", [False, True])
def test_losses_and_gradients_are_those_of_the_transcoder_with_zeros(
    name: str, kept: bool, pair: Callable[[str], Pair], make_state: MakeState
) -> None:
    """Without a workspace that keeps gradients, and with one."""
    clt, dense = pair(name)
    x, target = draw(BATCH, L * D, seed=2), draw(BATCH, L * OUT, seed=3)
    terms: list[dict[str, torch.Tensor]] = []
    for dictionary in (clt, dense):
        state = make_state(dictionary, step=5, silent=range(0, N, 4))
        space = Workspace(dictionary.parameters() if kept else ())
        with scope(space):
            terms.append(dictionary.loss_terms(x, target, state))
            torch.stack(list(terms[-1].values())).sum().backward()
        space.deliver_()
    assert torch.equal(clt.firing, dense.firing)
    torch.testing.assert_close(terms[0], terms[1])
    expected: dict[str, Any] = {key: weight.grad for key, weight in dense.named_parameters()}
    whole, rows = expected.pop("W_enc"), expected.pop("W_dec")
    parts = [whole[columns, latents] for latents, columns in spans(L * D, clt.W_enc)]
    expected["W_enc"] = torch.cat(parts, 1)
    for layer, (latents, columns) in enumerate(CLT.written(rows.shape)):
        expected[f"W_dec_{layer}"] = rows[latents, columns]
    found = {key: weight.grad for key, weight in clt.named_parameters()}
    torch.testing.assert_close(found, expected)


@every
@pytest.mark.parametrize("policy", POLICIES)
def test_latents_are_those_of_the_transcoder_with_zeros(
    name: str, policy: matmul.MatmulPolicy, pair: Callable[[str], Pair]
) -> None:
    clt, dense = (dictionary.float() for dictionary in pair(name))
    x = draw(BATCH, L * D, seed=2).float()
    with matmul.scope(policy), torch.no_grad():
        found, expected = clt.encode(x), dense.encode(x)
        near = 1e-5 if policy == "fp32" else 0.1
        torch.testing.assert_close(found, expected, rtol=near, atol=near)
        assert found.count_nonzero() > BATCH
        counted, active = clt.firings(x), clt.encode_sparse(x)
        rounded = 0 if policy == "fp32" else 0.02  # a bias is added before rounding, or after
        assert int(counted.sum()) == pytest.approx(len(active.active()), rel=rounded)
        torch.testing.assert_close(clt.decode(active), clt.decode(found), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("policy", POLICIES)
def test_values_chosen_by_rounded_products_are_exact(
    policy: matmul.MatmulPolicy, pair: Callable[[str], Pair]
) -> None:
    clt = pair("topk")[0].float()
    x = draw(BATCH, L * D, seed=2).float()
    with matmul.scope(policy):
        found = clt.encode_sparse(x)
    pre = x @ clt.encoder() + clt.b_enc
    expected = pre.topk(found.values.shape[1]).values.relu()
    torch.testing.assert_close(found.values.sort(descending=True).values, expected)


def test_the_encoder_product_is_made_block_by_block(pair: Callable[[str], Pair]) -> None:
    clt, dense = pair("relu")
    x, counts = draw(BATCH, L * D, seed=2), list[int]()
    for dictionary in (clt, dense):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            dictionary.encode(x)
        counts.append(counter.get_total_flops())
    assert counts[0] * L == counts[1] == 2 * BATCH * L * D * N


def test_gradients_reach_the_input_by_parts(pair: Callable[[str], Pair]) -> None:
    """As attribution wants them, through dense and through sparse latents."""
    for name in ("relu", "topk", "batch_topk"):
        grads: list[torch.Tensor] = []
        for dictionary in pair(name):
            x = draw(BATCH, L * D, seed=2).requires_grad_()
            dictionary.decode(dictionary.encode_sparse(x)).square().sum().backward()
            assert x.grad is not None
            grads.append(x.grad)
        torch.testing.assert_close(grads[0], grads[1])
        assert grads[0].any()


def test_one_layer_is_a_transcoder(build: Build, make_state: MakeState) -> None:
    """Where there is but one site no widths are given."""
    clt = build("topk", n_latents=N, d_in=D, d_out=OUT, wiring=Wiring(kind="clt"))
    same = build("topk", n_latents=N, d_in=D, d_out=OUT, wiring=Wiring(kind="transcoder"))
    for one, other in zip(clt.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)
    terms = clt.terms(draw(8, D).float(), draw(8, OUT, seed=1).float(), make_state(clt))
    torch.stack(list(terms.values())).sum().backward()


def test_a_reborn_latent_points_at_what_it_reads(build: Build, make_state: MakeState) -> None:
    clt = build("relu", **SHAPE, wiring=CLT, l1=0.01)
    x, target = draw(256, L * D).float(), draw(256, L * OUT, seed=1).float()
    assert isinstance(clt, ReLU)
    state = make_state(clt, n_steps=40, silent=range(0, N, 4))
    state.step = clt.resampling_steps(40)[0]
    state.tokens_since_fired[state.dead] = 10**9
    sample = dataclasses.make_dataclass("Sample", ["x", "target"])(x, target)
    source = dataclasses.make_dataclass("Source", ["batch_size", "sample"])(8, lambda n: sample)
    clt.revive_(state, torch.optim.Adam(clt.parameters()), source)
    reborn = torch.nn.functional.normalize(clt.W_enc.detach()[:, ::4], dim=0)
    rows = torch.nn.functional.normalize(x.unflatten(1, (L, D)), dim=2)
    for place, column in zip(range(0, N, 4), reborn.t(), strict=True):
        assert (rows[:, place // (N // L)] @ column).amax() > 0.999
    written = torch.nn.functional.normalize(target[:, OUT:], dim=1)
    assert ((clt.W_dec_1.detach() @ written.t()).amax(1) > 0.999).sum() == N // L // 4
