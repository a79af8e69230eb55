"""Toy: models of superposition come out as the paper, and arithmetic by hand, say."""

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.toy.features import ToyFeatures
from monosem.toy.superposition import (
    SuperpositionConfig,
    dimensionality,
    keep_largest_,
    overlap,
    per_feature,
    reconstruct,
    train_toys,
)

FAST = {"n_steps": 800, "batch": 512, "lr": 0.02}


def test_features_are_on_as_often_and_as_jointly_as_their_structure_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for structure, both in (("independent", 0.09), ("correlated", 0.3), ("anticorrelated", 0.0)):
        drawn = ToyFeatures(n_features=4, density=(0.3, 0.1), structure=structure)
        on = drawn.sample(40_000, generator) > 0
        assert torch.allclose(
            on.double().mean((0, 2)), torch.tensor([0.3, 0.1]).double(), atol=0.01
        )
        together = float((on[:, 0, 0] & on[:, 0, 1]).double().mean())
        assert together == pytest.approx(both, abs=0.01)
        across = float((on[:, 0, 0] & on[:, 0, 2]).double().mean())
        assert across == pytest.approx(0.09, abs=0.01)


def test_a_model_is_relu_of_x_w_w_transposed_plus_b() -> None:
    x, W, b = torch.randn(6, 2, 5), torch.randn(2, 5, 3), torch.randn(2, 5)
    ours = reconstruct(x, W, b)
    for m in range(2):
        plain = np.maximum(x[:, m].numpy() @ W[m].numpy() @ W[m].numpy().T + b[m].numpy(), 0)
        assert np.allclose(ours[:, m].numpy(), plain, atol=1e-5)


def test_dimensionality_of_the_polytopes_is_what_geometry_says() -> None:
    """A pentagon's vertices have 2/5 of a dimension, a tetrahedron's 3/4, an antipodal pair 1/2."""
    angles = 2 * torch.pi * torch.arange(5) / 5
    pentagon = torch.stack([angles.cos(), angles.sin()], 1)[None]
    assert torch.allclose(dimensionality(pentagon), torch.full((1, 5), 2 / 5), atol=1e-5)
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[None] / 3**0.5
    assert torch.allclose(dimensionality(corners), torch.full((1, 4), 3 / 4), atol=1e-5)
    assert torch.allclose(dimensionality(7 * corners), dimensionality(corners), atol=1e-5)
    assert float(per_feature(pentagon)) == pytest.approx(2 / 5, rel=1e-5)
    assert torch.allclose(overlap(corners), torch.full((1, 4), 3 / 9), atol=1e-5)


@pytest.mark.slow
def test_sparse_features_go_into_antipodal_pairs_and_dense_ones_are_left_out() -> None:
    """Two features, one dimension. Each loss is checked against that of the weights made by hand."""
    features = ToyFeatures(n_features=2, density=(1.0, 1.0, 1.0, 0.02, 0.02, 0.02))
    importance = ((1.0, 0.5),) * 3 + ((1.0, 0.9),) * 3
    config = SuperpositionConfig(features=features, d_hidden=1, importance=importance, **FAST)
    models = train_toys(config)
    dense, sparse = models.W[:3, :, 0], models.W[3:, :, 0]
    assert bool((dense[:, 0].abs() > 0.9).all()) and bool((dense[:, 1].abs() < 0.2).all())
    # Of the three, from three starts, at least one finds the pair; its loss is p² (1 + 0.9) / 6.
    pairs = (sparse[:, 0] * sparse[:, 1]) < -0.7
    assert bool(pairs.any())
    best = float(models.loss[3:].min())
    by_hand = 0.02**2 * 1.9 / 6
    assert best < 1.6 * by_hand
    ignored = 0.9 * (0.02 / 3 - 0.02**2 / 4)
    assert best < 0.1 * ignored
    # Dense: the mean of the second is said by the bias; what is left is its variance, 1/12.
    assert float(models.loss[:3].mean()) == pytest.approx(0.5 / 12, rel=0.1)


@pytest.mark.slow
def test_correlated_pairs_lie_across_and_anticorrelated_ones_opposite() -> None:
    found: dict[str, torch.Tensor] = {}
    for structure in ("correlated", "anticorrelated"):
        features = ToyFeatures(n_features=4, density=(0.1,) * 16, structure=structure)
        models = train_toys(SuperpositionConfig(features=features, d_hidden=2, **FAST))
        W = models.W[int(models.loss.argmin())]
        found[structure] = torch.cosine_similarity(W[0::2], W[1::2], dim=1)
    assert float(found["correlated"].abs().max()) < 0.2
    # Opposite loses nothing: of sixteen starts, the one with the least loss lies so.
    assert float(found["anticorrelated"].max()) < -0.9


def test_a_budget_leaves_the_largest_entries_alone() -> None:
    W = torch.tensor([[[3.0, -2.0], [0.5, 1.0]], [[-4.0, 0.1], [0.2, 0.3]]])
    keep_largest_(W, 2)
    assert W.tolist() == [[[3.0, -2.0], [0.0, 0.0]], [[-4.0, 0.0], [0.0, pytest.approx(0.3)]]]
    features = ToyFeatures(n_features=6, density=(0.05, 0.5))
    config = SuperpositionConfig(features=features, d_hidden=3, budget=5, n_steps=20, batch=64)
    assert (train_toys(config).W != 0).sum((1, 2)).tolist() == [5, 5]


def test_the_same_seed_trains_the_same_models() -> None:
    config = SuperpositionConfig(features=ToyFeatures(density=(0.1, 0.2)), n_steps=5, batch=16)
    heard: list[int] = []
    one, other = train_toys(config, heard.append), train_toys(config)
    assert torch.equal(one.W, other.W) and torch.equal(one.loss, other.loss)
    assert heard == [1, 2, 3, 4, 5]


def test_grids_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="density"):
        ToyFeatures(density=(0.6,), n_features=4, structure="anticorrelated")
    with pytest.raises(ConfigError, match="pairs"):
        ToyFeatures(n_features=5, structure="correlated")
    with pytest.raises(ConfigError, match="importance"):
        SuperpositionConfig(importance=((1.0, 0.9),))
    with pytest.raises(ConfigError, match="budget"):
        SuperpositionConfig(budget=11)
