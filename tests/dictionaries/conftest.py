"""Small dictionaries of every architecture, states, and data with known features."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.dictionaries.base import Dictionary, TrainState, architectures

D, N = 12, 64
VARIANTS: dict[str, dict[str, Any]] = {
    "jumprelu:tanh": {"sparsity": "tanh"},
    "relu:fixed": {"l1": 0.01},
    "topk:multi": {"multi_weight": 0.125, "k": 8},
}


@dataclass(frozen=True)
class Known:
    """Sparse features in superposition: `x = codes @ directions`."""

    directions: Tensor
    n_active: int

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        n_features = len(self.directions)
        active = torch.rand(n, n_features, generator=generator).topk(self.n_active, 1).indices
        sizes = 0.5 + torch.rand(n, self.n_active, generator=generator)
        codes = torch.zeros(n, n_features).scatter(1, active, sizes)
        return codes @ self.directions

    def recovered(self, W_dec: Tensor) -> float:
        """Mean over true features of the largest cosine with a decoder row."""
        rows = torch.nn.functional.normalize(W_dec, dim=1)
        return float((self.directions @ rows.t()).amax(1).mean())


@dataclass
class Source:
    """Fresh activations on demand."""

    known: Known
    batch_size: int
    asked: int = 0

    def sample(self, n: int) -> Any:
        self.asked = n
        x = self.known.draw(n, torch.Generator().manual_seed(99))
        return Pair(x, x)


@dataclass(frozen=True)
class Pair:
    x: Tensor
    target: Tensor


@pytest.fixture(scope="session")
def known() -> Known:
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(48, 24, generator=generator)
    return Known(torch.nn.functional.normalize(directions, dim=1), n_active=3)


@pytest.fixture
def make_source(known: Known) -> Callable[..., Source]:
    return lambda batch_size: Source(known, batch_size)


@pytest.fixture
def build() -> Callable[..., Dictionary[Any]]:
    """`build(name, seed=…, d_in=…)`: a small dictionary of that architecture, or of a variant of one."""

    def make(name: str, **given: Any) -> Dictionary[Any]:
        kind = architectures()[name.partition(":")[0]]
        defaults = {"n_latents": N} if kind.config_type.fewest_latents else {}
        settings = {"d_in": D, **defaults, **VARIANTS.get(name, {}), **given}
        return kind(dataclasses.replace(kind.config_type(), **settings))

    return make


@pytest.fixture
def make_state() -> Callable[..., TrainState]:
    """`make_state(dictionary, step=…, silent=…)`: latents of the list `silent` are dead."""

    def make(
        dictionary: Dictionary[Any], step: int = 0, n_steps: int = 100, silent: Any = ()
    ) -> TrainState:
        since = torch.zeros(dictionary.n_latents, dtype=torch.int64)
        since[list(silent)] = 10**9
        return TrainState(
            step=step,
            n_steps=n_steps,
            tokens_since_fired=since,
            dead=since > 0,
            generator=torch.Generator().manual_seed(step),
        )

    return make


@pytest.fixture
def fit(
    known: Known, make_source: Callable[..., Source], make_state: Callable[..., TrainState]
) -> Callable[..., Dictionary[Any]]:
    """A training loop in twenty lines, in the order that `base` prescribes; features are `known`'s."""
    truth = known

    def run(
        dictionary: Dictionary[Any], n_steps: int, lr: float = 3e-3, world: Any = None
    ) -> Dictionary[Any]:
        source, generator = make_source(256), torch.Generator().manual_seed(1)
        source.known = known = world or truth
        optimizer = torch.optim.Adam(dictionary.parameters(), lr=lr, fused=True)
        state = make_state(dictionary, n_steps=n_steps)
        sample = known.draw(2048, generator)
        dictionary.initialise_(sample, sample)
        for step in range(n_steps):
            state.step = step
            state.dead = state.tokens_since_fired > 20 * source.batch_size
            x = known.draw(source.batch_size, generator)
            dictionary.schedule_(state)
            loss = torch.stack(list(dictionary.loss_terms(x, x, state).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            dictionary.before_step_()
            optimizer.step()
            dictionary.after_step_()
            state.tokens_since_fired += source.batch_size
            state.tokens_since_fired[dictionary.firing > 0] = 0
            dictionary.revive_(state, optimizer, source)
        return dictionary

    return run
