import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from monosem.core.errors import ShapeMismatchError
from monosem.metrics.geometry import (
    dimensionality,
    effective_dimension,
    geometry,
    largest_cosine,
    random_directions,
)
from monosem.metrics.matching import assignment, matching, shuffled_entries


def rows(n, d, seed=0):
    """Rows of any length about a mean that is not zero."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 3 + 0.7


def by_numpy(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T


def test_cosines_are_those_of_numpy_over_several_blocks():
    W_dec, W_enc = rows(1500, 12), rows(1500, 12, 1).t()
    cosines = by_numpy(W_dec, W_dec)
    np.fill_diagonal(cosines, -1)
    found = geometry(W_enc, W_dec)
    np.testing.assert_allclose(found.largest, cosines.max(1), atol=1e-6)
    np.testing.assert_allclose(
        found.encoder_decoder, np.diagonal(by_numpy(W_enc.t(), W_dec)), atol=1e-6
    )
    assert found.encoder_decoder_cosine.value == pytest.approx(
        np.median(found.encoder_decoder), abs=1e-6
    )


def test_a_latent_that_is_there_twice_is_seen_and_random_ones_lie_at_chance():
    W_dec = random_directions(300, 32, 5)
    found = geometry(W_dec.t(), W_dec)
    assert found.largest_cosine.value == pytest.approx(found.largest_cosine.null, abs=0.03)
    twice = geometry(W_dec.t().repeat(1, 2), W_dec.repeat(2, 1))
    assert (
        twice.largest_cosine.value == pytest.approx(1, abs=1e-5)
        and twice.largest_cosine.beyond_null
    )
    assert twice.encoder_decoder_cosine.value == pytest.approx(1, abs=1e-6)


def test_dimensions_are_counted_by_eigenvalues():
    x = rows(40, 6) * torch.tensor([3.0, 1.0, 1.0, 0.5, 0.1, 0.0])
    values = np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy())
    assert effective_dimension(x) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert effective_dimension(x[:4]) <= 4
    pentagon = torch.tensor([[np.cos(a), np.sin(a)] for a in np.arange(5) * 2 * np.pi / 5])
    torch.testing.assert_close(dimensionality(pentagon), torch.full((5,), 0.4, dtype=torch.float64))
    alone = torch.tensor([[2.0, 0, 0], [0, 1.0, 0], [0, -3.0, 0], [0, 0, 0]])
    torch.testing.assert_close(dimensionality(alone)[[0, 3]], torch.tensor([1.0, 0.0]))


def test_a_transcoder_has_no_cosine_of_encoder_and_decoder():
    found = geometry(rows(8, 20).t(), rows(8, 6))
    assert found.encoder_decoder_cosine.void == "not applicable: it reads width 20 and writes 6"
    assert bool(torch.isnan(found.encoder_decoder).all())


def test_a_permuted_dictionary_is_found_again_whole():
    a = rows(50, 16)
    order = torch.randperm(50)
    found = matching(a, 2.5 * a[order])
    assert found.mmcs.value == pytest.approx(1, abs=1e-5) and found.mmcs.beyond_null
    assert (found.hungarian.value, found.above.value) == pytest.approx((1, 1), abs=1e-5)
    assert torch.equal(order[found.nearest], torch.arange(50))


def test_one_way_and_one_to_one_are_different_things():
    a, b = rows(7, 5), rows(4, 5, 1)
    cosines = by_numpy(a, b)
    found = matching(a, b)
    assert found.mmcs.value == pytest.approx(cosines.max(1).mean(), abs=1e-6)
    assert matching(b, a).mmcs.value == pytest.approx(cosines.max(0).mean(), abs=1e-6)
    best = max(
        sum(cosines[row, column] for column, row in enumerate(chosen))
        for chosen in itertools.permutations(range(7), 4)
    )
    assert found.hungarian.value == pytest.approx(best / 4, abs=1e-6)
    repeated = matching(a[:1].repeat(4, 1), torch.cat([a[:1], b]))  # all four want the same one
    assert repeated.mmcs.value == pytest.approx(1, abs=1e-6)
    assert repeated.hungarian.value < 0.9


def test_the_share_above_nine_tenths_counts_partners_one_to_one():
    a = torch.eye(5)
    b = a.clone()
    b[1] = torch.tensor([0.0, 0.95, (1 - 0.95**2) ** 0.5, 0.0, 0.0])  # still above
    b[3] = torch.tensor([0.0, 0.0, 0.0, 0.8, 0.6])  # below, and the fourth is its nearest
    found = matching(a, b)
    assert found.above.value == pytest.approx(4 / 5)
    assert found.hungarian.value == pytest.approx((1 + 0.95 + 1 + 0.8 + 1) / 5, abs=1e-6)
    assert matching(a[:4], a[:4]).above.value == 1


def test_unrelated_dictionaries_lie_at_chance():
    found = matching(random_directions(400, 24, 1), random_directions(400, 24, 2))
    for measure in (found.mmcs, found.hungarian):
        assert measure.value == pytest.approx(measure.null, abs=0.01) and measure.null > 0.4
    assert found.above.value == found.above.null == 0
    b = rows(30, 8)
    assert sorted(shuffled_entries(b, 0).flatten().tolist()) == sorted(b.flatten().tolist())


def test_what_has_no_cosine_is_refused_and_what_is_too_large_left_out(monkeypatch):
    with pytest.raises(ShapeMismatchError, match=r"widths 5 and 6.*universality.similarity"):
        matching(rows(3, 5), rows(3, 6))
    monkeypatch.setattr("monosem.metrics.matching.MOST_ASSIGNED", 2)
    found = matching(rows(3, 5), rows(3, 5, 1))
    assert (
        found.hungarian.void
        == "not applicable: the smaller has 3 latents, and 2 are assigned at most"
    )
    assert found.mmcs.applicable
    assert len(assignment(rows(3, 5), rows(9, 5, 1))) == 3
    assert float(largest_cosine(rows(1, 4))) == -1


def test_intervals_are_over_latents(is_that_of_a_median):
    W_dec, W_enc = rows(151, 12), rows(151, 12, 1).t()
    found = geometry(W_enc, W_dec)
    cosines = by_numpy(W_dec, W_dec)
    squares = np.square(W_dec.double().numpy() @ W_dec.double().numpy().T)
    shares = np.diagonal(squares) / squares.sum(1)  # ‖w‖⁴ over Σ (w · w_j)²: both over ‖w‖²
    assert is_that_of_a_median(found.dimensionality, shares)
    np.fill_diagonal(cosines, -1)
    assert is_that_of_a_median(found.largest_cosine, cosines.max(1))
    along = np.diagonal(by_numpy(W_enc.t(), W_dec))
    assert is_that_of_a_median(found.encoder_decoder_cosine, along)
    assert found.largest_cosine.n == 151


def test_intervals_of_what_two_dictionaries_share_are_over_the_latents_of_the_first(jackknife):
    a = rows(120, 10)
    b = torch.cat([a[:30] + 0.4 * rows(30, 10, 2), rows(200, 10, 1)])
    found, cosines = matching(a, b), by_numpy(a, b)
    best = cosines.max(1)
    assert (found.mmcs.low, found.mmcs.high) == jackknife(lambda i: best[i].mean(), np.arange(120))
    assert found.mmcs.n == 120
    pairs = cosines[linear_sum_assignment(cosines, maximize=True)]
    one_to_one = jackknife(lambda i: pairs[i].mean(), np.arange(120))
    assert (found.hungarian.low, found.hungarian.high) == one_to_one
    theirs = binomtest(int((pairs > 0.9).sum()), 120).proportion_ci(0.95, method="wilson")
    assert 0 < found.above.low < found.above.high < 1
    assert (found.above.low, found.above.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_chance_has_the_entries_of_the_other_in_any_places():
    """One deal of the entries lies among a hundred others of them."""
    a, b = rows(60, 6), rows(40, 6, 1)
    random = np.random.default_rng(0)
    dealt = [
        by_numpy(a, torch.from_numpy(random.permutation(b.flatten().numpy()).reshape(40, 6))).max(1)
        for _ in range(100)
    ]
    means = np.array([each.mean() for each in dealt])
    null = matching(a, b).mmcs.null
    assert abs(null - means.mean()) < 3 * means.std()
