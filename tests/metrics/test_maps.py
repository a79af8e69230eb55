import importlib.util
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from monosem.core.errors import ConfigError, MissingExtraError, ShapeMismatchError
from monosem.metrics.maps import best_method, distortion, groups_of, map_of, mixed, principal


def directions(n=90, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def bunches(n_bunches=6, n=12, d=24):
    """Directions in bunches that are far apart, and the bunch of each."""
    generator = torch.Generator().manual_seed(1)
    middles = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q[:n_bunches]
    noise = 0.02 * torch.randn(n_bunches * n, d, generator=generator)
    return middles.repeat_interleave(n, 0) + noise, torch.arange(n_bunches).repeat_interleave(n)


def values(x, places):
    kept, trust = distortion(x, places)
    return kept.value, trust.value


def test_trustworthiness_and_kept_neighbours_are_those_of_scikit_learn(jackknife):
    x = directions()
    unit = x / x.norm(dim=1, keepdim=True)
    places = principal(unit, 2)
    kept, trust = distortion(x, places, k=7)
    assert trust.value == pytest.approx(
        trustworthiness(x, places, n_neighbors=7, metric="cosine"), abs=1e-9
    )
    near = NearestNeighbors(n_neighbors=7, metric="cosine").fit(x.numpy()).kneighbors()[1]
    seen = NearestNeighbors(n_neighbors=7).fit(places.numpy()).kneighbors()[1]
    shares = [len(set(a) & set(b)) / 7 for a, b in zip(near, seen, strict=True)]
    assert kept.value == pytest.approx(np.mean(shares))
    assert kept.null == 7 / 89 and kept.n == trust.n == 90
    assert (kept.low, kept.high) == jackknife(lambda i: np.mean(np.array(shares)[i]), np.arange(90))
    # Of each direction alone: who is near on the map, by how much too far in truth.
    ranks = np.argsort(np.argsort(-unit.double().numpy() @ unit.double().numpy().T))
    far = np.array([np.maximum(ranks[i][seen[i]] - 7, 0).sum() for i in range(90)])
    each = 1 - 2 * far / (7 * (2 * 90 - 3 * 7 - 1))
    assert each.mean() == pytest.approx(trust.value)
    assert (trust.low, trust.high) == jackknife(lambda i: each[i].mean(), np.arange(90))


def test_places_in_a_plane_are_kept_whole_and_random_ones_at_chance():
    angles = torch.linspace(0, 1.4, 300)
    arc = torch.stack([angles.cos(), angles.sin()], 1)
    kept, trust = values(arc, arc)
    assert kept > 0.96 and trust > 0.999  # the fifteenth is as far on either side
    x = directions(2000, 64)
    kept, trust = values(x, torch.randn(2000, 2, generator=torch.Generator().manual_seed(5)))
    assert kept == pytest.approx(15 / 1999, abs=0.004) and trust == pytest.approx(0.5, abs=0.02)


def test_who_is_near_on_the_map_does_not_depend_on_where_the_map_lies():
    generator = torch.Generator().manual_seed(2)
    places = torch.randn(40, 2, generator=generator, dtype=torch.float64).repeat_interleave(10, 0)
    places += 1e-3 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    angles = torch.cat([places, torch.ones(400, 1).double()], 1).float()
    here, far = places.float(), (places + 8).float()
    assert values(angles, far) == pytest.approx(values(angles, here), abs=0.01)


def test_many_directions_are_judged_by_some_of_them(monkeypatch):
    x = directions(600, 8)
    places = principal(x, 2)
    all_of_them = distortion(x, places)
    monkeypatch.setattr("monosem.metrics.maps.N_JUDGED", 300)
    some_of_them = distortion(x, places)
    for some, every in zip(some_of_them, all_of_them, strict=True):
        assert (some.n, every.n) == (300, 600)
        assert some.value == pytest.approx(every.value, abs=0.03)
        assert some.low < every.value < some.high
        wider = (some.high - some.low) / (every.high - every.low)
        assert wider == pytest.approx(2**0.5, rel=0.2)


def test_principal_components_are_those_of_scikit_learn():
    x = directions()
    theirs = torch.from_numpy(PCA(3).fit_transform(x.double().numpy()))
    torch.testing.assert_close(principal(x, 3).double().abs(), theirs.abs(), atol=1e-5, rtol=1e-5)


def test_a_map_counts_angles_and_not_lengths():
    x = directions()
    longer = x * torch.linspace(0.1, 30, len(x))[:, None]
    ours, theirs = map_of(x, method="pca"), map_of(longer, method="pca")
    torch.testing.assert_close(ours.places, theirs.places, atol=1e-5, rtol=1e-4)
    assert ours.neighbours_by_chance == ours.kept.null == 15 / 89
    assert ours.kept.low < ours.neighbours_kept < ours.kept.high
    assert ours.trust.low < ours.trustworthiness < ours.trust.high
    assert ours.method == "pca"


def test_bunches_are_found_as_groups():
    x, bunch = bunches()
    groups = groups_of(x, method="pca")
    grouped = groups >= 0
    assert grouped.double().mean() > 0.9
    assert len(groups[grouped].unique()) == 6
    for g in groups[grouped].unique():
        assert len(bunch[groups == g].unique()) == 1


def test_a_group_is_mixed_where_both_sorts_are_in_it():
    groups = torch.tensor([0, 0, 1, 1, 2, 2, -1, -1])
    second = torch.tensor([False, True, True, True, False, False, False, True])
    assert mixed(groups, second) == pytest.approx(1 / 3)
    assert math.isnan(mixed(torch.tensor([-1, -1]), torch.tensor([True, False])))


def test_what_points_nowhere_is_refused():
    x = directions()
    x[3], x[5, 0] = 0, torch.inf
    with pytest.raises(ConfigError, match="2 of 90 directions have no length"):
        map_of(x, method="pca")
    with pytest.raises(ShapeMismatchError, match="44 directions are too few .* 45 or more"):
        map_of(directions(44), method="pca")


def test_without_the_extra_a_umap_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("monosem.metrics.maps.find_spec", lambda name: None)
    assert best_method() == "pca"
    with pytest.raises(MissingExtraError, match=r"pip install 'monosem\[maps\]'"):
        map_of(directions(), method="umap")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("umap"), reason="umap-learn is not installed")
@pytest.mark.filterwarnings("ignore::Warning:umap", "ignore::Warning:numba")
def test_a_umap_keeps_bunches_together():
    x, bunch = bunches(n_bunches=5, n=20)
    assert best_method() == "umap"
    made = map_of(x, method="umap", seed=3)
    assert made.neighbours_kept > 4 * made.neighbours_by_chance
    assert made.trustworthiness > 0.9
    groups = groups_of(x, method="umap", seed=3)
    for g in groups[groups >= 0].unique():
        assert len(bunch[groups == g].unique()) == 1
    torch.testing.assert_close(map_of(x, method="umap", seed=3).places, made.places)
