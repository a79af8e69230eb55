import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.latents import RaggedLatents, ragged_from_dense
from monosem.metrics import universality
from monosem.metrics.universality import (
    attributions,
    logit_weight_similarity,
    row_correlations,
    similarity,
)


def firing(n_tokens=600, n=20, share=0.2, seed=0):
    """Latents whose mean is not zero, the last one dead."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n_tokens, n, generator=generator) * 3 + 0.5
    on = torch.rand(n_tokens, n, generator=generator) < share
    on[:, -1] = False
    return values * on


def stream(a, b, size=170):
    return lambda: (
        (ragged_from_dense(x), ragged_from_dense(y))
        for x, y in zip(a.split(size), b.split(size), strict=True)
    )


def by_numpy(a, b):
    """Correlations and masked cosines of all pairs, plainly."""
    a, b = a.double().numpy(), b.double().numpy()
    r, m = np.full((a.shape[1], b.shape[1]), -np.inf), np.full((a.shape[1], b.shape[1]), -np.inf)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            x, y = a[:, i], b[:, j]
            if x.any() and y.any():
                r[i, j] = np.corrcoef(x, y)[0, 1]
                both = [(x[mask], y[mask]) for mask in (x != 0, y != 0)]
                m[i, j] = max(
                    u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) if u.any() and v.any() else 0
                    for u, v in both
                )
    return r, m


@pytest.mark.parametrize("dense_from", [0.0, 2.0])
@pytest.mark.parametrize("budget", [2**30, 6 * 8 * 31 * 7])
def test_similarities_are_those_of_numpy_however_they_are_summed(dense_from, budget, monkeypatch):
    monkeypatch.setattr(universality, "DENSE_FROM", dense_from)
    monkeypatch.setattr(universality, "PAIRS_AT_ONCE", 100)
    a, b = firing(), torch.cat([firing(seed=1), firing(n=11, share=0.02, seed=2)], 1)
    b[:, 3] = a[:, 5] + b[:, 3]
    found = similarity(stream(a, b), 20, 31, budget=budget)
    r, m = by_numpy(a, b)
    alive = slice(0, 19)
    np.testing.assert_allclose(found.correlations[alive], r[alive].max(1), atol=1e-12)
    np.testing.assert_array_equal(found.nearest[alive], r[alive].argmax(1))
    np.testing.assert_allclose(found.masked[alive], m[alive].max(1), atol=1e-12)
    assert bool(found.correlations[-1].isnan()) and bool(found.masked[-1].isnan())
    assert found.n_tokens == 600
    assert found.correlation.value == pytest.approx(np.median(r[alive].max(1)))
    assert found.correlation.n == 19


def test_the_same_latents_in_another_order_are_found_and_others_lie_at_chance():
    a, order = firing(n_tokens=4000), torch.randperm(20)
    same = similarity(stream(a, 2 * a[:, order], 1000), 20, 20)
    assert same.correlation.value == pytest.approx(1) and same.correlation.beyond_null
    assert torch.equal(order[same.nearest[:19]], torch.arange(19))
    assert same.masked_cosine.value == pytest.approx(1)
    other = similarity(stream(a, firing(4000, seed=7), 1000), 20, 20)
    assert other.correlation.value == pytest.approx(other.correlation.null, abs=0.015)
    assert 0.005 < other.correlation.null < 0.06  # the largest of nineteen is not zero


def topics(seed, n_contexts=192, length=64, n=60):
    """Latents that are on in whole contexts, each in a tenth of them."""
    random = np.random.default_rng(seed)
    on = np.repeat(random.random((n_contexts, n)) < 0.1, length, axis=0)
    return torch.from_numpy(on * random.uniform(0.5, 1.5, on.shape)).float()


def test_topics_correlate_by_chance_more_than_tokens_and_the_null_knows():
    a, b = topics(1), topics(2)
    found = similarity(stream(a, b, 64 * 64), 60, 60)
    for measure in (found.correlation, found.masked_cosine):
        assert measure.value == pytest.approx(measure.null, abs=0.05) and measure.null > 0.15
    one_block = similarity(stream(a, b, len(a)), 60, 60)
    assert one_block.correlation.null == pytest.approx(found.correlation.null, abs=0.05)
    assert one_block.correlation.value == pytest.approx(found.correlation.value)
    lagging = similarity(stream(a, b, 64 * 32), 60, 60, lag=2)
    assert lagging.correlation.null == pytest.approx(found.correlation.null, abs=0.05)


def test_a_part_of_a_latent_has_a_masked_cosine_of_one():
    a = firing(n=4)
    part = a.clone()
    part[::2] = 0  # fires on half of its tokens
    found = similarity(stream(a, part), 4, 4)
    assert found.masked_cosine.value == pytest.approx(1)
    assert found.correlation.value < 0.8


def test_attributions_are_latents_times_the_weight_of_what_follows():
    a, weights = firing(), torch.randn(20, 50)
    following = torch.randint(50, (600,))
    found = attributions(ragged_from_dense(a), following, weights)
    torch.testing.assert_close(found.dense(), a * weights[:, following].t())
    signed = lambda: [(found, found)]  # noqa: E731  (values below zero count, too)
    assert similarity(signed, 20, 20).correlation.value == pytest.approx(1)


def test_logit_weights_of_pairs_are_correlated_over_the_vocabulary():
    a = torch.randn(40, 60) + 3
    b = a + torch.randn(40, 60)
    theirs = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(row_correlations(a, b), theirs, atol=1e-6)
    found = logit_weight_similarity(a, b)
    assert found.value == pytest.approx(np.median(theirs)) and found.beyond_null
    assert abs(found.null) < 0.1
    assert bool(row_correlations(torch.ones(1, 3), torch.rand(1, 3)).isnan())


def test_blocks_that_do_not_belong_together_are_refused():
    a = ragged_from_dense(firing())
    with pytest.raises(ConfigError, match="600 tokens of A and 10 of B"):
        similarity(lambda: [(a, ragged_from_dense(firing(10)))], 20, 20)
    with pytest.raises(ConfigError, match="no tokens"):
        similarity(lambda: [], 20, 20)
    constant = ragged_from_dense(torch.full((600, 20), 0.1))
    assert bool(similarity(lambda: [(constant, a)], 20, 20).correlations.isnan().all())
    nothing = RaggedLatents(torch.zeros(0), torch.zeros(0).int(), torch.zeros(6).long(), 20)
    dead = similarity(lambda: [(nothing, nothing)], 20, 20)
    assert not dead.correlation.applicable and dead.correlation.null is None


def test_intervals_are_over_the_latents_of_the_first(is_that_of_a_median):
    a = firing(n=52)  # the last one is dead
    b = torch.cat([firing(n=31, seed=1), 2 * a[:, :25] + firing(n=25, seed=2)], 1)
    found = similarity(stream(a, b), 52, 56)
    r, m = by_numpy(a, b)
    assert is_that_of_a_median(found.correlation, r[:51].max(1))
    assert is_that_of_a_median(found.masked_cosine, m[:51].max(1))
    assert found.correlation.n == found.masked_cosine.n == 51


def test_the_interval_of_logit_weights_is_over_pairs(is_that_of_a_median):
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(41, 60, generator=generator) + 3
    b = a + torch.linspace(0.2, 3, 41)[:, None] * torch.randn(41, 60, generator=generator)
    theirs = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert is_that_of_a_median(logit_weight_similarity(a, b), np.array(theirs))
