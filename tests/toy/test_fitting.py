"""Toy: worlds are measured, fitted and compared; what is not so is named."""

import dataclasses

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.toy import sparse_features
from monosem.toy.fitting import Firings, Statistics, compare, failing, fit, measure
from monosem.toy.sparse_features import Magnitude, SparseFeatures, SparseFeaturesConfig

PLAIN = SparseFeaturesConfig(d=48, n_features=120, l0=6.0, power=0.7, n_groups=1, correlation=0.0)


def measured(config: SparseFeaturesConfig, seed: int = 1) -> Statistics:
    world = SparseFeatures(config)
    return measure(Firings.of(world.sample(12_000, seed)[1]), world.directions)


def test_statistics_are_what_numpy_counts() -> None:
    world = SparseFeatures(dataclasses.replace(PLAIN, correlation=0.3, hierarchy=0.3))
    magnitudes = world.sample(12_000, 2)[1]
    found = measure(Firings.of(magnitudes), world.directions)
    on = magnitudes.numpy() > 0
    on = on[:, on.sum(0) >= 20]
    f = on.mean(0)
    assert found.n_features == on.shape[1]
    assert found.l0 == pytest.approx(on.sum(1).mean())
    assert np.allclose(found.frequencies, np.sort(f)[::-1])
    assert found.burstiness == pytest.approx(on.sum(1).var(ddof=1) / (f * (1 - f)).sum())
    child = [
        any(
            0.6 >= f[j] > f[i] and (on[:, i] & on[:, j]).sum() >= 0.95 * on[:, i].sum()
            for j in range(len(f))
        )
        for i in range(len(f))
    ]
    assert found.hierarchy == pytest.approx(np.mean(child))
    assert found.hierarchy > 0.1


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        dataclasses.replace(PLAIN, correlation=0.4, power=0.0, decay=0.98),
        dataclasses.replace(PLAIN, magnitude=Magnitude(law="lognormal", spread=0.8)),
        dataclasses.replace(PLAIN, hierarchy=0.4, magnitude=Magnitude(law="exponential")),
    ],
    ids=["plain", "bursts", "lognormal", "children"],
)
def test_a_world_fitted_to_a_world_keeps_all_its_assumptions(config: SparseFeaturesConfig) -> None:
    real = measured(config)
    fitted = fit(real)
    assert failing(compare(real, measured(fitted, 3))) == []
    assert fitted.magnitude.law == config.magnitude.law
    assert fitted.correlation == pytest.approx(config.correlation, abs=0.1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"correlation": 0.5}, "burstiness"),
        ({"hierarchy": 0.6}, "hierarchy"),
        ({"magnitude": Magnitude(law="lognormal", spread=1.5)}, "magnitudes"),
        ({"power": 2.0}, "frequencies"),
    ],
)
def test_the_assumption_that_fails_is_named(changed: dict[str, object], named: str) -> None:
    real = measured(dataclasses.replace(PLAIN, **changed))  # pyright: ignore[reportArgumentType]
    assert named in failing(compare(real, measured(PLAIN)))


def test_directions_along_the_axes_are_no_random_ones() -> None:
    world = SparseFeatures(PLAIN)
    firings = Firings.of(world.sample(12_000, 1)[1])
    real = measure(firings, world.directions)
    axes = torch.eye(48).repeat(3, 1)[:120] + 0.02 * world.directions
    basis = measure(firings, axes)
    assert real.basis == pytest.approx(1, abs=0.1) and real.crowding == pytest.approx(1, abs=0.1)
    assert {"basis", "crowding"} <= set(failing(compare(basis, real)))


def test_too_few_firings_are_refused() -> None:
    world = SparseFeatures(PLAIN)
    with pytest.raises(ConfigError, match="more rows"):
        measure(Firings.of(world.sample(10, 1)[1]), world.directions)


def test_where_the_dictionary_fixes_l0_nothing_is_said_of_bursts() -> None:
    world = SparseFeatures(PLAIN)
    strengths = torch.rand(4000, 120, generator=torch.Generator().manual_seed(0))
    magnitudes = torch.where(strengths >= strengths.topk(5, dim=1).values[:, -1:], strengths, 0.0)
    real = measure(Firings.of(magnitudes), world.directions)
    assert np.isnan(real.burstiness) and fit(real).correlation == 0.0
    said = {a.name: a.holds for a in compare(real, measured(PLAIN))}
    assert said["burstiness"] is None and "burstiness" not in failing(
        compare(real, measured(PLAIN))
    )


def test_firings_are_drawn_without_holding_what_does_not_fire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = SparseFeatures(PLAIN)
    monkeypatch.setattr(sparse_features, "ENTRIES", 1000 * PLAIN.n_features)
    sizes = [m.numel() for _, m in world.blocks(2_500, 3)]
    assert max(sizes) <= 1000 * PLAIN.n_features and len(sizes) == 3
    whole, drawn = Firings.of(world.sample(2_500, 3)[1]), Firings.drawn(world, 2_500, 3)
    assert (drawn.n_rows, drawn.n_features) == (2_500, PLAIN.n_features)
    for name in ("rows", "features", "values"):
        assert torch.equal(getattr(drawn, name), getattr(whole, name))
