"""A neuron is a head: exactly, for the functions the theory names, at any width and precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from monosem.constructions.functions import FUNCTIONS
from monosem.constructions.heads import attend, augment, only_self, self_and_bias, stack
from monosem.constructions.linear import activation_heads, linear_heads
from monosem.constructions.neuron import neuron_heads, sigmoid_glu_heads
from monosem.constructions.terms import SILU_DIP, HeadSum, Term, scaled_silu
from monosem.core.errors import ConfigError, ShapeMismatchError


def draw(seed, *shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def run(heads, x):
    rows = augment(x)
    return attend(heads, rows, self_and_bias(rows.shape[-2]))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    d_model=st.integers(1, 12),
    n_neurons=st.integers(1, 9),
    n_pos=st.integers(1, 7),
    scale=st.floats(-4, 4).filter(lambda a: abs(a) > 0.01),
    gain=st.floats(-4, 4).filter(lambda a: abs(a) > 0.01),
)
def test_a_generalised_silu_neuron_is_exactly_one_head(
    seed, d_model, n_neurons, n_pos, scale, gain
):
    x, W_in, b_in, W_out, b_out = draw(
        seed, (2, n_pos, d_model), (n_neurons, d_model), (n_neurons,), (n_neurons, 5), (5,)
    )
    heads = neuron_heads(HeadSum(terms=(scaled_silu(scale, gain),)), W_in, b_in, W_out, b_out)
    expected = scale * functional.silu(gain * (x @ W_in.T + b_in)) @ W_out + b_out
    out = run(heads, x)
    assert heads.n_heads == n_neurons
    assert torch.allclose(out[:, 1:], expected, rtol=1e-12, atol=1e-12 * (1 + expected.abs().max()))
    assert torch.equal(out[:, 0], b_out.expand(2, 5))  # the bias row is given nothing else


@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.05)]
)
def test_a_head_is_as_precise_as_the_neuron_it_replaces(dtype, within):
    x, W_in, b_in = draw(0, (1, 50, 64), (30, 64), (30,), dtype=dtype)
    eye, none = torch.eye(30, dtype=dtype), torch.zeros(30, dtype=dtype)
    heads = neuron_heads(HeadSum(terms=(scaled_silu(1.0, 1.0),)), W_in, b_in, eye, none)
    true = functional.silu(x.double() @ W_in.double().T + b_in.double())
    error = (run(heads, x)[:, 1:].double() - true).abs().max() / true.abs().max()
    direct = (functional.silu(x @ W_in.T + b_in).double() - true).abs().max() / true.abs().max()
    assert error < within
    assert error < 4 * direct + 4 * torch.finfo(dtype).eps


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), d_model=st.integers(1, 9), n_neurons=st.integers(1, 9))
def test_a_sigmoid_glu_is_exactly_one_head_a_neuron(seed, d_model, n_neurons):
    x, W_g, b_g, W_u, b_u, W_out, b_out = draw(
        seed,
        (2, 4, d_model),
        *[(n_neurons, d_model), (n_neurons,)] * 2,
        (n_neurons, d_model),
        (d_model,),
    )
    heads = sigmoid_glu_heads(W_g, b_g, W_u, b_u, W_out, b_out)
    expected = (torch.sigmoid(x @ W_g.T + b_g) * (x @ W_u.T + b_u)) @ W_out + b_out
    assert heads.n_heads == n_neurons
    assert torch.allclose(run(heads, x)[:, 1:], expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(
    numbers=st.lists(st.tuples(*[st.floats(-5, 5)] * 4), min_size=1, max_size=4),
    constant=st.floats(-3, 3),
    seed=st.integers(0, 10**6),
)
def test_any_sum_of_terms_is_that_many_heads_a_neuron(numbers, constant, seed):
    terms = tuple(Term(slope=p, offset=r, gain=g, shift=t) for p, r, g, t in numbers)
    total = HeadSum(terms=terms, constant=constant)
    x, W_in, b_in, W_out, b_out = draw(seed, (1, 3, 4), (5, 4), (5,), (5, 4), (4,))
    heads = neuron_heads(total, W_in, b_in, W_out, b_out)
    expected = total(x @ W_in.T + b_in) @ W_out + b_out
    assert heads.n_heads == 5 * len(terms)
    assert torch.allclose(run(heads, x)[:, 1:], expected, rtol=1e-10, atol=1e-9)


def test_tanh_and_sigmoid_neurons_are_one_head_and_a_constant():
    s = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    tanh = HeadSum(terms=(Term(slope=0.0, offset=2.0, gain=2.0),), constant=-1.0)
    assert (tanh(s) - torch.tanh(s)).abs().max() < 1e-15
    sigmoid = HeadSum(terms=(Term(slope=0.0, offset=1.0, gain=1.0),))
    assert torch.equal(sigmoid(s), torch.sigmoid(s))


@pytest.mark.parametrize("gain", [1.0, 10.0, 1000.0])
def test_relu_by_one_head_errs_by_the_dip_of_silu_over_the_gain(gain):
    s = torch.linspace(-3 / gain, 3 / gain, 200_001, dtype=torch.float64)
    error = (scaled_silu_sum(gain)(s) - functional.relu(s)).abs().max()
    assert error <= SILU_DIP / gain
    assert error == pytest.approx(SILU_DIP / gain, rel=1e-8)


def scaled_silu_sum(gain):
    return HeadSum(terms=(scaled_silu(1 / gain, gain),))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 6),
    d_out=st.integers(1, 7),
    d_head=st.integers(1, 4),
)
def test_a_linear_map_is_as_many_heads_as_its_rank_fills(seed, rank, d_out, d_head):
    left, right, bias, x = draw(seed, (6, rank), (rank, d_out), (d_out,), (2, 5, 6))
    M = left @ right
    heads = linear_heads(M, bias, d_head=d_head)
    rows = augment(x)
    out = attend(heads, rows, only_self(6))[:, 1:]
    assert heads.n_heads == -(-min(rank, d_out) // d_head)
    assert torch.allclose(out, x @ M + bias, rtol=1e-11, atol=1e-11)


def test_activation_functions_apply_to_chosen_coordinates_alone():
    (x,) = draw(3, (2, 6, 5))
    silu = HeadSum(terms=(scaled_silu(1.0, 1.0),))
    chosen = torch.tensor([1, 4])
    expected = x.clone()
    expected[..., [1, 4]] = functional.silu(x[..., [1, 4]])
    heads = activation_heads(silu, chosen, 5, replace=True)
    assert torch.allclose(x + run(heads, x)[:, 1:], expected, rtol=0, atol=1e-15)
    added = activation_heads(silu, chosen, 5, replace=False)
    assert added.n_heads == 2
    assert torch.equal(run(added, x)[..., 1:, [0, 2, 3]], torch.zeros(2, 6, 3, dtype=torch.float64))


def test_an_mlp_is_three_sublayers_of_linear_and_activation_heads():
    x, W_in, b_in, W_out, b_out = draw(4, (2, 6, 5), (8, 5), (8,), (8, 5), (5,))
    d = 5 + 8  # the stream and a scratch space of the MLP's width
    stream = torch.cat([x, torch.zeros(2, 6, 8, dtype=x.dtype)], -1)
    into, back = torch.zeros(d, d, dtype=x.dtype), torch.zeros(d, d, dtype=x.dtype)
    into[:5, 5:], back[5:, :5] = W_in.T, W_out
    pad = torch.nn.functional.pad
    first = linear_heads(into, pad(b_in, (5, 0)), d_head=2)
    second = activation_heads(
        HeadSum(terms=(scaled_silu(1.0, 1.0),)), torch.arange(5, d), d, replace=True
    )
    third = linear_heads(back, pad(b_out, (0, 8)), d_head=2)
    for heads, mask in ((first, only_self), (second, self_and_bias), (third, only_self)):
        stream = stream + attend(heads, augment(stream), mask(7))[:, 1:]
    expected = x + functional.silu(x @ W_in.T + b_in) @ W_out + b_out
    assert torch.allclose(stream[..., :5], expected, rtol=1e-12, atol=1e-12)
    assert (first.n_heads, second.n_heads, third.n_heads) == (
        3,
        16,
        3,
    )  # a head to add, one to erase


def test_heads_of_different_streams_do_not_stack():
    silu = HeadSum(terms=(scaled_silu(1.0, 1.0),))
    narrow = activation_heads(silu, torch.arange(2), 3, replace=False)
    wide = activation_heads(silu, torch.arange(2), 4, replace=False)
    assert stack([narrow, narrow]).n_heads == 4
    with pytest.raises(ShapeMismatchError, match="equal shape"):
        stack([narrow, wide])
    with pytest.raises(ConfigError, match="at least one term"):
        HeadSum(terms=())
    with pytest.raises(ConfigError, match="d_head"):
        linear_heads(torch.eye(2), torch.zeros(2), d_head=0)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_keeps_its_lipschitz_constant_and_its_tails(name):
    f = FUNCTIONS[name]
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    y = f(x)
    assert ((y[1:] - y[:-1]).abs() / (x[1:] - x[:-1])).max() <= f.lipschitz
    for r in (1.0, 2.0, 4.0, 8.0):
        left, right = x <= -r, x >= r
        off_left = (y[left] - (f.left[0] * x[left] + f.left[1])).abs().max()
        off_right = (y[right] - (f.right[0] * x[right] + f.right[1])).abs().max()
        assert max(off_left, off_right) <= f.tail(r) * (1 + 1e-9) + 1e-14
