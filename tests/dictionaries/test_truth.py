"""Sparse known features in superposition are recovered: 48 of them in 24 dimensions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monosem.dictionaries.base import Dictionary, architectures
from monosem.dictionaries.geometry import geometric_median
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.runtime import matmul
from monosem.toy.sparse_features import SparseFeatures, SparseFeaturesConfig, recovery

Fit = Callable[..., Dictionary[Any]]


def test_topk_recovers_the_features(fit: Fit, known: Any) -> None:
    dictionary = TopK(TopKConfig(d_in=24, n_latents=96, k=3))
    assert known.recovered(dictionary.W_dec.detach()) < 0.7
    fit(dictionary, 500, lr=0.01)
    assert known.recovered(dictionary.W_dec.detach()) > 0.95


def test_topk_recovers_them_under_the_bf16_policy_too(fit: Fit, known: Any) -> None:
    dictionary = TopK(TopKConfig(d_in=24, n_latents=96, k=3))
    with matmul.scope("bf16"):
        fit(dictionary, 500, lr=0.01)
    assert known.recovered(dictionary.W_dec.detach()) > 0.95


def test_relu_recovers_the_features_with_few_active_latents(fit: Fit, known: Any) -> None:
    dictionary = ReLU(ReLUConfig(d_in=24, n_latents=96, l1=0.02, l1_warmup=0.0))
    fit(dictionary, 800, lr=0.01)
    assert known.recovered(dictionary.W_dec.detach()) > 0.9
    x = known.draw(4096, torch.Generator().manual_seed(3))
    assert (dictionary.encode(x) > 0).sum(1).float().mean() < 8
    assert (dictionary(x) - x).square().sum() / x.square().sum() < 0.15


def test_resampling_brings_back_latents_that_never_fire(fit: Fit, known: Any) -> None:
    x = known.draw(8192, torch.Generator().manual_seed(3))
    alive: list[int] = []
    for moments in ((), (0.3,)):
        config = ReLUConfig(
            d_in=24, n_latents=96, l1=0.01, resample_at=moments, resample_window=0.1
        )
        dictionary = ReLU(config)
        with torch.no_grad():
            dictionary.b_enc[:48] = -10.0
        fit(dictionary, 150)
        alive.append(int((dictionary.encode(x) > 0).any(0).sum()))
    without, resampled = alive
    assert without <= 48
    assert resampled > 80


class World:
    """Known features whose frequencies differ, or which fire together, as `fit` draws from them."""

    def __init__(self, power: float, correlation: float) -> None:
        law = {"power": power, "correlation": correlation, "n_groups": 8}
        # another seed than the dictionary's, which would draw the same directions
        self.features = SparseFeatures(
            SparseFeaturesConfig(d=24, n_features=48, l0=3.0, seed=7, **law)
        )

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        x = self.features.activations(n, seed)
        return x * (24 / 3.0) ** 0.5  # a mean square near 1, as the trainer's scale makes it


KINDS = [name for name, kind in architectures().items() if kind.trainable]
WORLDS = {"alike": (0.0, 0.0), "power-law": (1.0, 0.0), "correlated": (0.5, 0.5)}


@pytest.mark.slow
@pytest.mark.parametrize("world", list(WORLDS))
@pytest.mark.parametrize("name", [*KINDS, "jumprelu:tanh"])
def test_every_architecture_recovers_features_of_all_frequencies(
    name: str, world: str, build: Callable[..., Dictionary[Any]], fit: Fit
) -> None:
    truth = World(*WORLDS[world])
    kind = architectures()[name.partition(":")[0]].config_type()
    sparsity = {"k": 3} if hasattr(kind, "k") else {"l0": 3.0}
    dictionary = build(name, d_in=24, n_latents=96, **sparsity)
    before = float(recovery(truth.features.directions, dictionary.W_dec.detach()).mean())
    fit(dictionary, 800, lr=0.01, world=truth)
    after = float(recovery(truth.features.directions, dictionary.W_dec.detach()).mean())
    assert before < 0.6
    # the prefixes of 3 and 9 latents reconstruct all 48 features as they can: by mixtures
    assert after > (0.85 if name == "matryoshka" else 0.9)
    x = truth.draw(4096, torch.Generator().manual_seed(3))
    assert 2.4 < (dictionary.encode(x) > 0).sum(1).double().mean() < 3.6


@pytest.mark.parametrize("d", [1, 5])
def test_the_geometric_median_has_no_better_neighbour(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    x = torch.randn(301, d, generator=generator).exp()
    median = geometric_median(x)
    cost = (x - median).norm(dim=1).sum()
    for _ in range(50):
        moved = median + 0.02 * torch.randn(d, generator=generator)
        assert (x - moved).norm(dim=1).sum() >= cost - 1e-2
