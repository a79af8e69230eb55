"""Toy: of one neuron at a time, cross-entropy makes polysemantic ones and squared error does not."""

import math
from typing import Literal

import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.toy.one_hot import NONE, OneHotConfig, best, loss_of, train


def descended(neurons: tuple[int, ...], p: torch.Tensor, loss: str) -> float:
    """The loss of an assignment whose outputs are found by L-BFGS rather than by algebra."""
    y = torch.zeros(3, len(p), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(len(p), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([y, b] if loss == "ce" else [y], max_iter=500)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        out = torch.stack([y[j] if j != NONE else torch.zeros_like(b) for j in neurons])
        if loss == "ce":
            each = -torch.log_softmax(out + b, 1).diagonal()
        else:
            each = (out - torch.eye(len(p), dtype=torch.float64)).square().sum(1)
        total = (p * each).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return float(closure().detach())


@pytest.mark.parametrize("neurons", [(0, 0, 1, 1, NONE), (0, NONE, NONE, 0, 1), (0, 0, 0, 0, 0)])
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_the_closed_form_is_what_gradient_descent_on_the_outputs_comes_to(
    neurons: tuple[int, ...], loss: Literal["mse", "ce"]
) -> None:
    p = OneHotConfig(n_features=5).probabilities
    found = descended(neurons, torch.tensor(p, dtype=torch.float64), loss)
    # CE falls towards its bound as outputs grow without end, so that it may lie a little above.
    assert loss_of(neurons, p, loss) == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_best_layer_is_polysemantic_under_cross_entropy_alone(power: float) -> None:
    shape = {"n_features": 7, "n_neurons": 3, "power": power}
    crossed, squared = (
        best(OneHotConfig(loss="ce", **shape)),
        best(OneHotConfig(loss="mse", **shape)),
    )
    # CE: three neurons and none make four groups of seven, none of them empty.
    assert crossed.features_per_neuron > 1
    assert len(set(crossed.neurons)) == 4
    # MSE: the three most frequent have a neuron each; with equal ones that is no worse than any.
    alone = (0, 1, 2, NONE, NONE, NONE, NONE)
    probabilities = OneHotConfig(**shape).probabilities
    assert squared.loss == pytest.approx(loss_of(alone, probabilities, "mse"), abs=1e-12)
    if power:
        assert squared.neurons == alone


def test_groups_of_equal_features_know_the_logarithm_of_their_number() -> None:
    assert loss_of((0, 0, 1, NONE), (0.25,) * 4, "ce") == pytest.approx(0.5 * math.log(2))
    assert loss_of((0, 0, 1, NONE), (0.25,) * 4, "mse") == pytest.approx(0.25 + 0.25)


@pytest.mark.slow
def test_training_finds_what_the_search_through_all_finds() -> None:
    for loss in ("ce", "mse"):
        config = OneHotConfig(n_features=7, n_neurons=3, loss=loss)
        exact, trained = best(config), train(config)
        assert trained.loss == pytest.approx(exact.loss, rel=0.05)
        assert trained.loss >= exact.loss - 1e-12
        assert (trained.features_per_neuron > 1) == (loss == "ce")
        assert sum(map(len, trained.shares)) == sum(j != NONE for j in trained.neurons)


def test_layers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_neurons"):
        OneHotConfig(n_features=4, n_neurons=4)
    with pytest.raises(ConfigError, match="9"):
        best(OneHotConfig(n_features=12))
