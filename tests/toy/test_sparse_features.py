"""Toy: the world of sparse features is what its configuration says."""

import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.toy.sparse_features import Magnitude, SparseFeatures, SparseFeaturesConfig, recovery

WORLD = SparseFeatures(SparseFeaturesConfig(d=16, n_features=64, l0=4.0, noise=0.0))


def test_activations_are_the_magnitudes_times_the_directions() -> None:
    x, magnitudes = WORLD.sample(500, seed=1)
    assert torch.allclose(x, magnitudes @ WORLD.directions, atol=1e-5)
    assert torch.equal(x, WORLD.activations(500, seed=1))
    assert not torch.equal(x, WORLD.activations(500, seed=2))
    assert torch.allclose(WORLD.directions.norm(dim=1), torch.ones(64), atol=1e-5)


def test_as_many_features_are_on_as_asked_and_each_as_often_as_its_frequency() -> None:
    _, magnitudes = WORLD.sample(40_000, seed=3)
    on = magnitudes > 0
    assert float(on.sum(1).double().mean()) == pytest.approx(4.0, rel=0.03)
    assert torch.allclose(on.double().mean(0), WORLD.frequencies.double(), atol=0.012)
    values = magnitudes[on]
    assert 0.25 <= float(values.min()) < 0.26 and 0.99 < float(values.max()) <= 1


def test_frequencies_follow_the_power_law_up_to_the_highest() -> None:
    frequencies = WORLD.frequencies
    assert float(frequencies[0] / frequencies[15]) == pytest.approx(4.0, rel=1e-4)
    crowded = SparseFeatures(SparseFeaturesConfig(n_features=32, l0=12.0, power=2.0))
    assert float(crowded.frequencies.max()) == 0.5
    assert float(crowded.frequencies.sum()) == pytest.approx(12.0, rel=1e-4)


@pytest.mark.parametrize(("correlation", "higher"), [(0.0, False), (0.6, True)])
def test_features_of_a_group_fire_together_and_others_do_not(
    correlation: float, higher: bool
) -> None:
    config = SparseFeaturesConfig(n_features=64, l0=6.0, n_groups=8, correlation=correlation)
    _, magnitudes = SparseFeatures(config).sample(40_000, seed=4)
    between = torch.corrcoef((magnitudes > 0).double().T)
    assert (float(between[0, 8]) > 0.2) == higher
    assert abs(float(between[0, 1])) < 0.02


def test_recovery_is_the_largest_cosine_whatever_the_length() -> None:
    found = recovery(WORLD.directions, torch.cat([3 * WORLD.directions[:32], torch.zeros(1, 16)]))
    assert torch.allclose(found[:32], torch.ones(32), atol=1e-5)
    assert float(found[32:].max()) < 0.95


def test_worlds_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"d": 0},
        {"l0": 40.0, "n_features": 64},
        {"correlation": 1.0},
        {"decay": 0.0},
        {"hierarchy": 0.95},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SparseFeaturesConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_the_truth_is_not_what_the_same_seed_gives_anybody_else() -> None:
    others = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    assert float(recovery(WORLD.directions, others).mean()) < 0.8
    assert not torch.equal(WORLD.activations(8, seed=0), WORLD.activations(8, seed=1))


def test_children_are_on_only_with_their_parents_and_as_often_as_they_should() -> None:
    config = SparseFeaturesConfig(n_features=64, l0=6.0, hierarchy=0.5, correlation=0.0)
    world = SparseFeatures(config)
    on = world.sample(60_000, seed=5)[1] > 0
    assert (world.parents[:32] == torch.arange(32)).all() and int(world.parents[32:].max()) < 32
    assert not bool((on[:, 32:] & ~on[:, world.parents[32:]]).any())
    assert torch.allclose(on.double().mean(0), world.frequencies.double(), atol=0.008)


def test_magnitudes_follow_their_law() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = Magnitude(law="lognormal", spread=0.5).draw(20_000, 3, generator).log()
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.01)
    drawn = Magnitude(law="exponential", weakest=0.5).draw(20_000, 3, generator)
    assert float(drawn.min()) >= 0.5 and float(drawn.mean()) == pytest.approx(1.5, rel=0.01)
    assert float((drawn > 1.5).double().mean()) == pytest.approx(1 / 2.718281828, abs=0.01)


def test_frequencies_decay_as_sharkeys_do() -> None:
    world = SparseFeatures(SparseFeaturesConfig(n_features=512, l0=5.0, power=0.0, decay=0.99))
    assert torch.allclose(
        world.frequencies[1:] / world.frequencies[:-1], torch.full((511,), 0.99), atol=1e-5
    )
    assert float(world.frequencies.sum()) == pytest.approx(5.0, rel=1e-5)
