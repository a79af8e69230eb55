"""The stored sums of heads and the costs of running them."""

import pytest
import torch

from monosem.constructions import costs
from monosem.constructions.approximations import approximation
from monosem.constructions.certificate import certify
from monosem.constructions.functions import function
from monosem.core.errors import ConfigError


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("n_heads", [1, 2, 3])
def test_stored_sums_keep_to_their_stated_errors(name, n_heads):
    best = approximation(name, n_heads)
    certificate = certify(function(name), best.heads, tolerance=2e-3)
    assert certificate.reached <= best.error <= 1.01 * certificate.everywhere
    assert best.heads.n_heads == n_heads
    assert best.heads.size < 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_four_heads_reach_a_ten_thousandth(name):
    best = approximation(name, 4)
    assert certify(function(name), best.heads, tolerance=2e-3).reached <= best.error < 1e-4


@pytest.mark.parametrize("name", ["silu", "swish", "quick_gelu", "sigmoid", "tanh"])
def test_exact_functions_take_one_head_whatever_is_allowed(name):
    best = approximation(name, 4)
    s = torch.linspace(-30, 30, 10_001, dtype=torch.float64)
    assert (best.error, best.heads.n_heads) == (0.0, 1)
    assert (best.heads(s) - function(name)(s)).abs().max() < 1e-14


def test_wrong_numbers_are_refused():
    with pytest.raises(ConfigError, match="n_heads"):
        approximation("gelu", 0)
    with pytest.raises(ConfigError, match="gain"):
        approximation("relu", gain=-1.0)


def test_two_keys_cost_a_multiple_of_the_mlp_and_all_keys_grow_with_the_length():
    heads = approximation("silu").heads
    found = costs.measure(
        heads, torch.nn.SiLU(), d_model=8, n_neurons=16, lengths=(8, 64), repeats=1
    )
    by = {(c.form, c.length): c for c in found}
    assert len(by) == 8
    assert all(c.seconds > 0 for c in found)
    assert by["gathered", 64].flops / by["original", 64].flops < 4
    assert by["gathered", 64].flops == pytest.approx(8 * by["gathered", 8].flops, rel=0.05)
    assert by["dense", 64].held > 40 * by["dense", 8].held
    assert by["gathered", 64].held == 8 * by["gathered", 8].held
    with pytest.raises(ConfigError, match="original"):
        costs.flops("sparse", d_model=1, n_neurons=1, n_terms=1, length=1)
