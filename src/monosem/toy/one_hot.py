"""One neuron at a time, and still polysemantic: what a loss asks of a layer that is as sparse as can be.

    feature i of n comes alone, with probability p_i
    hidden     one of n_neurons is on, or none:  j(i)
    MSE        Σ_i p_i ‖e_i - y_j(i)‖²      y_j free, of each neuron; 0 where none is on
    CE         -Σ_i p_i log softmax(y_j(i) + b)_i

Sparsity alone does not make neurons monosemantic: for the group G of features that a neuron takes, of
probability P,

    MSE   lowers the loss by Σ_G p² / P, which is at most the largest p of G: alone is as good or better
    CE    lowers it by the more, the more features G has: Σ_G p log(p / P) instead of nothing known

The argument is made in words in Bricken et al. 2023, "Towards Monosemanticity"; the equations are
worked out here. `best` solves both exactly, by going through all partitions of few features; `train`
finds assignments by gradient, as a network would.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from monosem.core.errors import ConfigError

Loss = Literal["mse", "ce"]
LOSSES: tuple[Loss, ...] = ("mse", "ce")
MOST = 9
"""Features of which all partitions are gone through."""
NONE = -1
"""The neuron of a feature at which no neuron is on."""


@dataclass(frozen=True, kw_only=True)
class OneHotConfig:
    """A layer of which one neuron at most is on."""

    n_features: int = 8
    """Features; one comes at a time."""
    n_neurons: int = 3
    """Neurons, fewer than features."""
    power: float = 1.0
    """Probability of feature i, from 1 on, is proportional to i ** -power."""
    loss: Loss = "ce"
    """mse or ce."""
    n_steps: int = 1_500
    """Steps of Adam from each start."""
    n_starts: int = 16
    """Random starts, of which the best is taken."""
    lr: float = 0.05
    """Learning rate."""
    seed: int = 0
    """Seed of the starts."""

    def __post_init__(self) -> None:
        """Refuse layers that cannot be built."""
        if self.loss not in LOSSES:
            raise ConfigError(f"`loss` is one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if not 0 < self.n_neurons < self.n_features:
            raise ConfigError(
                f"`n_neurons` must be from 1 to one less than the {self.n_features} features, got "
                f"{self.n_neurons}."
            )

    @property
    def probabilities(self) -> tuple[float, ...]:
        """How often each feature comes; they sum to 1."""
        law = [(i + 1) ** -self.power for i in range(self.n_features)]
        return tuple(p / sum(law) for p in law)


@dataclass(frozen=True)
class Assigned:
    """Which neuron each feature turns on, and what loss that leaves with the best outputs."""

    neurons: tuple[int, ...]
    """Neuron of each feature; `NONE` where none is on."""
    loss: float

    @property
    def features_per_neuron(self) -> float:
        """Features of a neuron, in the mean over the neurons that are used."""
        used = [j for j in self.neurons if j != NONE]
        return len(used) / len(set(used)) if used else 0.0

    @property
    def shares(self) -> list[list[int]]:
        """The features of each neuron."""
        return [
            [i for i, j in enumerate(self.neurons) if j == neuron]
            for neuron in sorted({j for j in self.neurons if j != NONE})
        ]


def loss_of(neurons: Sequence[int], probabilities: Sequence[float], loss: Loss) -> float:
    """Return the loss of an assignment with the best outputs there are for it, in closed form.

    For CE the bias says what is likely where no neuron is on, and a neuron's output may override it: each
    group, that of no neuron included, then knows the probabilities within itself and no more.

    >>> loss_of((0, 0), (0.5, 0.5), "ce") == math.log(2)
    True
    >>> loss_of((0, NONE), (0.5, 0.5), "mse")
    0.5
    """
    total = 0.0
    for neuron in set(neurons):
        group = [p for p, j in zip(probabilities, neurons, strict=True) if j == neuron]
        known = sum(group)
        if loss == "ce":
            total -= sum(p * math.log(p / known) for p in group)
        else:
            total += known - (sum(p * p for p in group) / known if neuron != NONE else 0.0)
    return total


def best(config: OneHotConfig) -> Assigned:
    """Return the best assignment of all, by going through them; for `MOST` features and fewer."""
    if config.n_features > MOST:
        raise ConfigError(
            f"All assignments are gone through for {MOST} features at most, got {config.n_features}."
        )
    found = min(
        _assignments(config.n_features, config.n_neurons),
        key=lambda neurons: loss_of(neurons, config.probabilities, config.loss),
    )
    return Assigned(found, loss_of(found, config.probabilities, config.loss))


def _assignments(n_features: int, n_neurons: int) -> Iterator[tuple[int, ...]]:
    """Every way to give features neurons or none, neurons named in the order of their first feature."""
    for neurons in itertools.product(range(NONE, n_neurons), repeat=n_features):
        used = [j for j in dict.fromkeys(neurons) if j != NONE]
        if used == sorted(used) == list(range(len(used))):
            yield neurons


def train(config: OneHotConfig) -> Assigned:
    """Return the best assignment that gradient descent finds, from `n_starts` random starts.

    Features choose a neuron, or none, by a softmax whose temperature falls to 1/20; what is reported is the
    choice made hard, with the best outputs for it.
    """
    generator = torch.Generator().manual_seed(config.seed)
    n, k = config.n_features, config.n_neurons
    p = torch.tensor(config.probabilities)
    choice = 0.1 * torch.randn(config.n_starts, n, k + 1, generator=generator)
    y = 0.1 * torch.randn(config.n_starts, k, n, generator=generator)
    b = torch.zeros(config.n_starts, 1, n)
    parameters = [t.requires_grad_() for t in (choice, y, b)]
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    for step in range(config.n_steps):
        temperature = 20 ** -(step / config.n_steps)
        chosen = torch.softmax(choice / temperature, dim=2)
        loss = _soft_loss(chosen, y, b, p, config.loss).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The last column is no neuron.
    hard = choice.detach().argmax(2)
    starts = [tuple(NONE if j == k else int(j) for j in row) for row in hard.tolist()]
    found = min(starts, key=lambda neurons: loss_of(neurons, config.probabilities, config.loss))
    return Assigned(found, loss_of(found, config.probabilities, config.loss))


def _soft_loss(chosen: Tensor, y: Tensor, b: Tensor, p: Tensor, loss: Loss) -> Tensor:
    """The mean over choices of the loss of each: a neuron is on or off, never half on."""
    n = p.shape[0]
    outputs = torch.cat([y, torch.zeros_like(b)], dim=1)
    if loss == "ce":
        each = -torch.log_softmax(outputs + b, dim=2)
    else:
        each = outputs.square().sum(2, keepdim=True) - 2 * outputs + 1
    # each [n_starts k+1 n]: the loss of feature i where neuron j is on.
    return (p * (chosen * each.transpose(1, 2)).sum(2)).sum(1) * n
