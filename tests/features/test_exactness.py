"""Everything in a database, recomputed naively from the same activations."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from monosem.dictionaries.topk import TopK
from monosem.features.database import FeatureDatabase
from monosem.metrics.density import count
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

SITE = "blocks.0.mlp.hook_post"
DEAD = 5
N_TOP = 7


class Naive:
    """Dense latents and neurons of the ordinary tokens that the database looked at."""

    def __init__(
        self, database: FeatureDatabase, dictionary: TopK, model: LanguageModel, store: TokenStore
    ) -> None:
        contexts = np.asarray(database.activations.contexts)
        tokens = store.tokens(contexts)
        with torch.no_grad():
            x = model.capture(torch.from_numpy(tokens), [SITE])[SITE]
            latents = dictionary.encode(x).half().double().numpy()
        ordinary = store.ordinary(tokens)
        rows = contexts[:, None] * store.context + np.arange(store.context)
        self.rows, self.context = rows[ordinary], store.context
        self.latents, self.neurons = latents[ordinary], x.double().numpy()[ordinary]

    def fired(self, latent: int) -> list[tuple[int, float]]:
        a = self.latents[:, latent]
        return [(int(row), float(v)) for row, v in zip(self.rows, a, strict=True) if v > 0]


@pytest.fixture(scope="module")
def naive(
    database: FeatureDatabase, dictionary: TopK, model: LanguageModel, store: TokenStore
) -> Naive:
    return Naive(database, dictionary, model, store)


def alive(database: FeatureDatabase) -> Iterator[int]:
    return (f.index for f in database.list(sort="index", limit=1000) if f.n_fired)


def test_density_and_status_are_those_of_the_metrics(
    database: FeatureDatabase, naive: Naive
) -> None:
    n_fired = (naive.latents > 0).sum(0)
    features = [database.feature(i) for i in range(database.n_latents)]
    assert [f.n_fired for f in features] == n_fired.tolist()
    assert [f.density for f in features] == pytest.approx((n_fired / len(naive.rows)).tolist())
    counted = count(n_fired, len(naive.rows))
    statuses = [f.status for f in features]
    assert statuses.count("dead") == counted.n_dead == database.metrics["n_dead"]
    assert statuses.count("ultralow") == counted.n_ultralow == database.metrics["n_ultralow"]
    assert database.metrics["n_tokens"] == len(naive.rows)
    assert database.metrics["l0"] == pytest.approx(n_fired.sum() / len(naive.rows))


def test_moments_are_those_of_the_positive_activations(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        a = np.array([v for _, v in naive.fired(latent)])
        feature = database.feature(latent)
        centred = a - a.mean()
        assert feature.max_activation == a.max()
        assert feature.mean_activation == pytest.approx(a.mean(), rel=1e-12)
        assert feature.variance == pytest.approx((centred**2).mean(), rel=1e-9)
        if len(set(a)) > 2:
            deviation = a.std()
            assert feature.skew == pytest.approx((centred**3).mean() / deviation**3, rel=1e-9)
            assert feature.kurtosis == pytest.approx((centred**4).mean() / deviation**4, rel=1e-9)


def test_the_histogram_counts_every_activation_in_its_bin(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        feature = database.feature(latent)
        a = np.array([v for _, v in naive.fired(latent)])
        expected = np.zeros(50, np.int64)
        for value in a:
            expected[min(int(value * 50 / a.max()), 49)] += 1
        assert feature.histogram.tolist() == expected.tolist()
        assert feature.histogram_edges == pytest.approx(np.linspace(0, a.max(), 51))


def test_top_examples_are_the_strongest_of_different_contexts_ties_by_row(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        expected: list[tuple[int, float]] = []
        seen: set[int] = set()
        for row, value in sorted(naive.fired(latent), key=lambda e: (-e[1], e[0])):
            if row // naive.context not in seen and len(expected) < N_TOP:
                seen.add(row // naive.context)
                expected.append((row, value))
        found = [(e.row, e.activation) for e in database.examples(latent, "top")]
        assert found == expected


def test_interval_examples_lie_in_their_interval_and_fill_it_as_far_as_they_can(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        fired = dict(naive.fired(latent))
        largest = max(fired.values())
        inside = [min(int(v * 11 / largest), 10) for v in fired.values()]
        for interval in range(11):
            found = [e for e in database.examples(latent, "interval") if e.interval == interval]
            assert len({e.row for e in found}) == len(found) == min(inside.count(interval), 5)
            for example in found:
                assert fired[example.row] == example.activation
                assert min(int(example.activation * 11 / largest), 10) == interval


def test_random_examples_are_different_tokens_on_which_it_fired(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        fired = dict(naive.fired(latent))
        found = database.examples(latent, "random")
        assert len({e.row for e in found}) == len(found) == min(len(fired), 10)
        assert all(fired[e.row] == e.activation for e in found)


def test_correlated_neurons_are_those_of_the_largest_pearson_coefficient(
    database: FeatureDatabase, naive: Naive
) -> None:
    for latent in alive(database):
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.array([np.corrcoef(naive.latents[:, latent], n)[0, 1] for n in naive.neurons.T])
        expected = np.sort(np.abs(r))[::-1][:4]
        found = database.feature(latent).neurons
        assert [abs(c) for _, c in found] == pytest.approx(expected.tolist(), abs=1e-5)
        assert [c for _, c in found] == pytest.approx(r[[n for n, _ in found]].tolist(), abs=1e-5)


def test_logit_effects_are_shifted_by_the_median_over_tokens_that_occur(
    database: FeatureDatabase, dictionary: TopK, model: LanguageModel, store: TokenStore
) -> None:
    n_contexts = store.n_contexts("train") + store.n_contexts("heldout")
    used = sorted(set(store.tokens(slice(0, n_contexts)).ravel().tolist()))
    assert len(used) < store.vocab_size  # or the test would not see that the others are dropped
    with torch.no_grad():
        effects = model.logit_effects(SITE, dictionary.W_dec)[:, used].double().numpy()
    for latent in range(database.n_latents):
        ordered = np.sort(effects[latent])
        shifted = effects[latent] - ordered[(len(used) - 1) // 2]
        feature = database.feature(latent)
        for found, order in (
            (feature.top_logits, np.argsort(-shifted)),
            (feature.bottom_logits, np.argsort(shifted)),
        ):
            expected = shifted[order[:20]].tolist()
            assert [e for _, _, e in found] == pytest.approx(expected, abs=1e-4)
            assert {t for t, _, _ in found} <= set(used)


def test_neighbours_are_the_largest_cosines_between_decoder_rows(
    database: FeatureDatabase, dictionary: TopK
) -> None:
    rows = dictionary.W_dec.detach().double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    for latent in range(database.n_latents):
        expected = [c for c in np.sort(cosines[latent])[::-1][:8] if c > 0]
        found = database.feature(latent).neighbours
        assert [c for _, c in found] == pytest.approx(expected, abs=1e-5)
        assert [cosines[latent, i] for i, _ in found] == pytest.approx(expected, abs=1e-5)


def test_a_window_shows_the_text_and_what_the_latent_did_on_each_token(
    database: FeatureDatabase, naive: Naive, store: TokenStore
) -> None:
    for latent in list(alive(database))[:5]:
        fired = dict(naive.fired(latent))
        for example in database.examples(latent):
            window = database.window(example, before=5, after=3)
            rows = range(window.row_start, window.row_start + len(window.pieces))
            assert window.row_start + window.focus == example.row
            assert window.activations[window.focus] == example.activation
            assert window.activations == [fired.get(row, 0.0) for row in rows]
            assert len({row // store.context for row in rows}) == 1
            context, position = divmod(window.row_start, store.context)
            assert window.pieces == store.pieces(context, position, position + len(rows))


def test_the_latents_of_a_token_can_be_read_back(database: FeatureDatabase, naive: Naive) -> None:
    for place in (0, 17, len(naive.rows) - 1):
        latents, values = database.activations.active(int(naive.rows[place]))
        expected = np.flatnonzero(naive.latents[place])
        assert sorted(latents.tolist()) == expected.tolist()
        assert sorted(values.tolist()) == sorted(naive.latents[place][expected].tolist())


def test_a_dead_latent_has_logits_and_neighbours_but_no_examples(
    database: FeatureDatabase,
) -> None:
    feature = database[DEAD]
    assert feature.status == "dead" and feature.n_fired == 0 and feature.density == 0
    assert feature.max_activation == 0 and feature.histogram.sum() == 0
    assert np.isnan([feature.mean_activation, feature.variance, feature.skew]).all()
    assert database.examples(DEAD) == [] and feature.windows == () and feature.neurons == []
    assert len(feature.top_logits) == 20
    assert "dead" in repr(feature) and "dead" in feature._repr_html_()
