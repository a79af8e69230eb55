import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.cluster import AgglomerativeClustering
from sklearn.linear_model import orthogonal_mp

from monosem.core.errors import ConfigError
from monosem.metrics.context_space import ContextSpace, pointwise_information, token_vectors
from monosem.metrics.polysemanticity import (
    account,
    clusters,
    effective_number,
    of_units,
    polysemanticity,
    shares,
)
from monosem.metrics.sample import Sample, Text

TOPICS, WORDS, LENGTH = 12, 8, 32


@pytest.fixture(scope="module")
def text() -> Text:
    """Contexts of one topic each; a topic is a cycle of eight words of its own, with slips."""
    random = np.random.default_rng(0)
    tokens = np.zeros((400, LENGTH), np.int64)
    for row in tokens:
        topic, word = random.integers(TOPICS), random.integers(WORDS)
        for place in range(1, LENGTH):
            word = (word + 1) % WORDS if random.random() < 0.9 else random.integers(WORDS)
            row[place] = 1 + topic * WORDS + word
    return Text(np.arange(400), tokens, tokens > 0, [[""] * LENGTH] * 400)


@pytest.fixture(scope="module")
def space(text) -> ContextSpace:
    return ContextSpace.fit([text.tokens[:200], text.tokens[200:]], text, 1 + TOPICS * WORDS)


def sample(text, latents) -> Sample:
    return Sample(text, torch.zeros(len(latents), 1), csr_array(latents))


def firing(text, words, strength=1.0):
    own = text.tokens[text.ordinary]
    random = np.random.default_rng(1)
    return np.isin(own, words) * random.uniform(0.2, 1.0, len(own)) * strength


def test_mutual_information_is_that_of_the_definition():
    counts = np.random.default_rng(0).integers(0, 4, (6, 6)).astype(float)
    p = counts / counts.sum()
    with np.errstate(divide="ignore"):
        expected = np.log(p / (p.sum(1, keepdims=True) * p.sum(0)))
    found = pointwise_information(csr_array(counts)).toarray()
    np.testing.assert_allclose(found, np.maximum(np.where(p > 0, expected, 0), 0), atol=1e-12)


def test_words_of_a_topic_lie_near_one_another_and_unused_ones_nowhere(text):
    vectors = token_vectors([text.tokens], 120)
    assert not vectors[100:].any()
    used = vectors[1 : 1 + TOPICS * WORDS]
    np.testing.assert_allclose(np.linalg.norm(used, axis=1), 1)
    cosines = used @ used.T
    topic = np.arange(len(used)) // WORDS
    same = topic[:, None] == topic
    np.fill_diagonal(same, False)
    assert cosines[same].mean() > 3 * np.abs(cosines[topic[:, None] != topic].mean())


def test_a_context_stops_at_a_special_token(text, space):
    tokens = np.array([[0, 3, 4, 0, 5, 6], [0, 9, 9, 9, 5, 6]])
    made = Text(np.arange(2), tokens, tokens > 0, [[""] * 6] * 2)
    rows = space.embed(made, np.arange(9))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    lone = space.vectors[5]
    np.testing.assert_allclose(rows[2][: len(lone)], lone, atol=1e-12)  # its own part alone
    assert not rows[2][len(lone) :].any() and rows[7][len(lone) :].any()


def test_the_kinds_of_context_that_were_planted_are_counted(text, space):
    one, three = [1], [1, 30, 60]
    found = {
        n: polysemanticity(firing(text, words), sample(text, np.zeros((1, 1))), space)
        for n, words in (("one", one), ("three", three))
    }
    assert found["one"].effective.value < 1.3 and found["one"].largest.value > 0.9
    assert found["three"].effective.value == pytest.approx(3, abs=0.5)
    own = text.tokens[text.ordinary][found["three"].rows]
    topic = (own - 1) // WORDS
    assert all(len(set(topic[found["three"].kinds == k])) == 1 for k in range(3))
    for measured in found.values():
        assert measured.effective.null > 8
        assert measured.largest.low <= measured.largest.value <= measured.largest.high
        assert measured.weights.sum() == pytest.approx(1)
        assert (np.diff(shares(measured.kinds, measured.weights)) <= 1e-12).all()


def test_kinds_count_by_the_activation_they_stand_for(text, space):
    strong = firing(text, [1]) * 9 + firing(text, [60])
    found = polysemanticity(strong, sample(text, np.zeros((1, 1))), space)
    true = firing(text, [1]).sum() * 9 / strong.sum()
    assert found.largest.value == pytest.approx(true, abs=0.06)
    p = np.array([true, 1 - true])
    assert found.effective.value == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=0.25)
    silent = polysemanticity(firing(text, []), sample(text, np.zeros((1, 1))), space)
    assert silent.effective.void == "not applicable: it fires on 0 tokens, of at least 40"


def test_clusters_are_those_of_scikit_learn():
    points = np.random.default_rng(3).normal(0.3, 1, (60, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    theirs = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=0.6
    ).fit_predict(points)
    ours = clusters(points, 0.4)
    assert (
        len(set(zip(ours.tolist(), theirs.tolist(), strict=True)))
        == len(set(ours))
        == len(set(theirs))
    )
    assert clusters(points[:1], 0.4).tolist() == [0]
    assert effective_number(np.ones(5)) == pytest.approx(5)


def test_units_of_one_word_are_less_polysemantic_than_mixtures(text, space):
    words = np.stack([firing(text, [w]) for w in range(1, 41)], 1)
    mixed = np.stack([firing(text, [w, w + 20, w + 45]) for w in range(1, 41)], 1)
    one, three = (of_units(sample(text, x), space, n_units=12) for x in (words, mixed))
    assert len(one.units) == 12 and one.effective.n == 12
    assert one.effective.high < three.effective.low < three.effective.null
    assert one.largest.low > three.largest.high


def test_the_latents_that_make_up_a_unit_are_found_and_counted(text):
    random = np.random.default_rng(5)
    n = int(text.ordinary.sum())
    latents = random.random((n, 40)) * (random.random((n, 40)) < 0.2)
    unit = (
        2 * latents[:, 3] + 1.5 * latents[:, 17] + latents[:, 30] + 0.05 * random.normal(size=n) + 4
    )
    found = account(unit, sample(text, latents), share=0.97)
    assert found.latents.tolist() == [3, 17, 30] and found.needed.value == 3
    order = np.random.default_rng(0).permutation(400)
    choosing = np.isin(text.context_of, order[:200])
    x, y = latents[choosing], unit[choosing]
    standard = (x - x.mean(0)) / x.std(0)
    theirs = orthogonal_mp(standard, y - y.mean(), n_nonzero_coefs=3)
    assert set(np.flatnonzero(theirs)) == {3, 17, 30}
    columns = np.column_stack([np.ones(n), latents[:, 3]])
    weights = np.linalg.lstsq(columns[choosing], y, rcond=None)[0]
    left = (unit - columns @ weights)[~choosing]
    assert found.explained[0] == pytest.approx(1 - (left**2).mean() / unit[~choosing].var())


def test_a_unit_that_latents_do_not_make_up_is_not_accounted_for(text):
    random = np.random.default_rng(6)
    n = int(text.ordinary.sum())
    latents = random.random((n, 10)) * (random.random((n, 10)) < 0.2)
    found = account(random.normal(size=n), sample(text, latents), most=5)
    assert found.needed.void.startswith("not applicable: 5 latents explain")
    assert found.explained.max() < 0.01
    assert account(np.ones(n), sample(text, latents)).needed.void.endswith("same on every token")
    with pytest.raises(ConfigError, match="The unit has 3 tokens"):
        account(np.ones(3), sample(text, latents))


def test_the_largest_of_many_equal_kinds_has_an_interval_around_its_own_share(
    text, space, jackknife
):
    found = polysemanticity(
        firing(text, list(range(1, 97, 8))), sample(text, np.zeros((1, 1))), space
    )
    own, context_of = found.kinds == 0, text.context_of[found.rows]
    share = found.weights[own].sum()
    assert found.largest.value == pytest.approx(share) and share < 0.25
    weights = found.weights
    ends = jackknife(lambda i: weights[i][own[i]].sum() / weights[i].sum(), context_of)
    assert (found.largest.low, found.largest.high) == ends
    assert found.largest.low < 1 / TOPICS < found.largest.high and found.largest.n == len(own)


def test_intervals_over_units_are_those_of_medians(text, space, is_that_of_a_median):
    words = np.stack([firing(text, [w, w + 20 * (w % 3)]) for w in range(1, 32)], 1)
    found = of_units(sample(text, words), space, n_units=31, n_contexts=60)
    for measure, name in ((found.effective, "effective"), (found.largest, "largest")):
        values = np.array([getattr(each, name).value for each in found.each])
        assert is_that_of_a_median(measure, values)
        chances = [getattr(each, name).null for each in found.each]
        assert measure.null == pytest.approx(np.median(chances)) and measure.n == 31
