import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.feature_selection import f_classif

from monosem.metrics.disentanglement import disentanglement, exchanged, telling_classes
from monosem.metrics.perturbation import Coded

N, D, N_CLASSES = 1600, 24, 3


def world(mixed=False, seed=0):
    """Two attributes of three classes; latents of one class of one of them each, or of a pair of classes."""
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(D, D)))[0]
    classes = random.integers(N_CLASSES, size=(N, 2))
    latents = np.zeros((N, 60))
    for a in range(2):
        latents[np.arange(N), 3 * a + classes[:, a]] = random.uniform(2, 3, N)
    latents[:, 6:] = random.random((N, 54)) * (random.random((N, 54)) < 0.05)
    rows = np.concatenate([directions[:6], np.tile(directions[6:24], (3, 1))])
    x = 2.0 + latents @ rows + random.normal(0, 0.1, (N, D))
    if mixed:  # one latent for each pair of classes
        pair = N_CLASSES * classes[:, 0] + classes[:, 1]
        rows = np.array([directions[p // 3] + directions[3 + p % 3] for p in range(9)]) / 2**0.5
        latents = np.zeros((N, 9))
        latents[np.arange(N), pair] = 2.5 * 2**0.5
    attributes = {"country": classes[:, 0], "language": classes[:, 1]}
    return Coded(x, csr_array(latents), rows), attributes, np.arange(N) // 4


def test_latents_of_their_own_are_exchanged_alone():
    coded, attributes, groups = world()
    found = disentanglement(coded, attributes, groups)
    assert set(found["country"].latents[:3]) == {0, 1, 2}
    assert set(found["language"].latents[:3]) == {3, 4, 5}
    for each in found.values():
        assert each.cause.value > 0.97 and each.isolation.value > 0.97
        assert each.score.beyond_null and each.score.null < 0.75
        assert each.score.value == pytest.approx((each.cause.value + each.isolation.value) / 2)


def test_latents_of_pairs_move_both_attributes_or_neither():
    coded, attributes, groups = world(mixed=True)
    found = disentanglement(coded, attributes, groups)["country"]
    assert found.score.value < 0.75
    assert found.score.low <= found.score.value <= found.score.high


def test_what_is_caused_and_what_stays_is_counted_as_by_hand():
    """One latent holds the country and adds it to the language's coordinate, which is cut off at 0 and 1.

    To another country the language's coordinate moves by one, up or down: it stays what it is where it was
    at that end already, which is half of the languages.
    """
    country, language = np.arange(N) % 2, np.arange(N) // 2 % 2
    latents = csr_array(country[:, None].astype(float))
    coded = Coded(np.stack([country, language], 1).astype(float), latents, np.array([[1.0, 1.0]]))
    readers = {
        name: lambda x, i=i: (x[:, i] > 0.5).astype(np.int64)
        for i, name in enumerate(("country", "language"))
    }
    attributes = {"country": country, "language": language}
    groups = (
        np.arange(N) // 4
    )  # of which each has all four pairs, so that either side has them alike
    found = disentanglement(coded, attributes, groups, readers=readers, ns=(1,), n_pairs=2000)
    assert found["country"].cause.value == 1
    assert found["country"].isolation.value == pytest.approx(0.5, abs=0.05)
    assert found["country"].score.value == pytest.approx(0.75, abs=0.025)
    # the country's latent says nothing of the language: it becomes the source's, where it differs, only
    # where the countries differ in the same sense, in a quarter; and the country stays where they are equal
    assert found["language"].cause.value == pytest.approx(0.25, abs=0.05)
    assert found["language"].isolation.value == pytest.approx(0.5, abs=0.05)


def test_an_exchange_keeps_the_error_and_changes_the_chosen_latents_alone():
    coded, _, _ = world()
    base, source, chosen = np.arange(9), np.arange(20, 29), np.array([1, 4])
    dense = coded.latents.toarray()
    made = dense[base].copy()
    made[:, chosen] = dense[source][:, chosen]
    error = coded.x[base] - dense[base] @ coded.W_dec
    np.testing.assert_allclose(exchanged(coded, base, source, chosen), made @ coded.W_dec + error)


def test_latents_are_ranked_by_the_f_of_an_analysis_of_variance():
    coded, attributes, _ = world()
    theirs, _ = f_classif(coded.latents.toarray(), attributes["country"])
    order = telling_classes(coded.latents, attributes["country"])
    np.testing.assert_allclose(theirs[order], np.sort(theirs)[::-1])


def test_a_reader_of_ones_own_is_asked_and_what_cannot_be_read_is_not_applicable():
    coded, attributes, groups = world()
    asked = []

    def reader(x):
        asked.append(len(x))
        return np.zeros(len(x), np.int64)

    found = disentanglement(coded, attributes, groups, readers={"language": reader}, ns=(4,))
    assert asked
    assert found["language"].score.void.startswith("not applicable: `language` is read with F1 0.")
    assert (
        found["country"].score.void
        == "not applicable: 1 of 2 attributes can be read, of at least 2"
    )
    rare = attributes | {"rare": (np.arange(N) < 12).astype(np.int64), "one": np.zeros(N, np.int64)}
    found = disentanglement(coded, rare, groups, ns=(4,))
    assert found["one"].score.void == "not applicable: `one` has one class"
    assert "of at least 25 on each side" in found["rare"].score.void
    assert found["country"].score.applicable


def test_intervals_draw_the_contexts_of_bases_and_of_sources_anew(monkeypatch, jackknife):
    """A latent holds the language ten times over in half of the contexts, and not at all in the others.

    So a language is exchanged where the context of the base is of the first sort, or that of the source.
    """
    random, groups = np.random.default_rng(3), np.arange(N) // 10
    holds = (random.random(N // 10) < 0.5)[groups]
    country, language = np.arange(N) % 2, np.arange(N) // 2 % 2
    latents = csr_array((holds * 10.0 * (2 * language - 1))[:, None])
    x = np.stack([country, 2 * language - 1], 1).astype(float)
    readers = {
        name: lambda x, i=i, above=above: (x[:, i] > above).astype(np.int64)
        for i, (name, above) in enumerate((("country", 0.5), ("language", 0.0)))
    }
    drawn = []

    def pairs(rows, classes, n, _):
        either = [random.choice(rows[classes[rows] == c], n) for c in (0, 1)]
        drawn.append(random.permuted(np.array(either), axis=0))
        return drawn[-1]

    monkeypatch.setattr("monosem.metrics.disentanglement._pairs", pairs)
    attributes = {"country": country, "language": language}
    coded = Coded(x, latents, np.array([[0.0, 1.0]]))
    found = disentanglement(coded, attributes, groups, readers=readers, ns=(1,))["language"]
    base, source = drawn[-1]
    assert found.isolation.value == found.isolation.low == found.isolation.high == 1
    moved = (holds[base] | holds[source]).astype(float)
    assert found.cause.value == moved.mean() and found.cause.n == 400
    contexts = np.unique(groups[drawn[-1]])
    without = np.array(
        [moved[(groups[base] != c) & (groups[source] != c)].mean() for c in contexts]
    )
    n = len(contexts)
    error = np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    assert error > 1.3 * moved.std() / np.sqrt(400)
    for measure, size in ((found.cause, error), (found.score, error / 2)):
        ends = (measure.value - 1.96 * size, measure.value + 1.96 * size)
        assert (measure.low, measure.high) == pytest.approx(ends, abs=0.3 * size)
