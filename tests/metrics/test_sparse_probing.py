import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from monosem.core.errors import ConfigError
from monosem.metrics.probes import Split, auc, balanced, f1, fit
from monosem.metrics.sparse_probing import sparse_probing, supervised_probe, telling

N, D, N_LATENTS = 2400, 24, 60


def world(split=1, seed=0, strength=3.0):
    """Activations that hold a label along one direction, about a mean, and latents that split it up."""
    random = np.random.default_rng(seed)
    labels = random.random(N) < 0.3
    kind = random.integers(split, size=N)
    latents = random.random((N, N_LATENTS)) * (random.random((N, N_LATENTS)) < 0.1)
    for part in range(split):
        own = labels & (kind == part)
        latents[:, 10 + part] = own * random.uniform(0.5, 1.5, N)
    direction = random.normal(size=D)
    x = random.normal(2.0, 1.0, (N, D)) + strength * labels[:, None] * direction
    return csr_array(latents), x, labels, np.arange(N) // 8


def test_scores_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    y = random.random(300) < 0.4
    scores = (random.normal(size=300) + y).round(1)  # many are equal
    assert auc(scores, y) == pytest.approx(roc_auc_score(y, scores))
    assert f1(scores > 0.5, y) == pytest.approx(f1_score(y, scores > 0.5))
    assert np.isnan(auc(scores, np.ones(300, bool)))


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_a_probe_is_a_regression_of_standardised_inputs(penalty):
    _, x, labels, _ = world(strength=0.2)
    found = fit(x[:600], labels[:600], penalty=penalty)
    mean, spread = x[:600].mean(0), x[:600].std(0)
    theirs = LogisticRegression(
        C=found.strength,
        l1_ratio=float(penalty == "l1"),
        solver="liblinear" if penalty == "l1" else "lbfgs",
        max_iter=5000,
        random_state=0,
    ).fit((x[:600] - mean) / spread, labels[:600])
    expected = theirs.decision_function((x[600:] - mean) / spread)
    np.testing.assert_allclose(found.scores(x[600:]), expected, atol=0.02)
    assert np.corrcoef(found.scores(x[600:]), labels[600:])[0, 1] > 0.3


def test_examples_are_balanced_and_no_context_is_on_both_sides():
    _, _, labels, groups = world()
    found = balanced(labels, groups, n_train=400, n_test=300)
    assert len(found.train) == 400 and len(found.test) == 300
    assert labels[found.train].mean() == labels[found.test].mean() == 0.5
    assert not set(groups[found.train]) & set(groups[found.test])
    assert found.fewest == 150
    rare = balanced(labels, groups, share=0.1, n_train=200)
    assert labels[rare.train].mean() == pytest.approx(0.1)
    few = balanced(np.arange(N) < 20, groups, seed=3)
    assert labels.sum() > few.fewest and len(few.train) == 2 * few.labels[few.train].sum()
    with pytest.raises(ConfigError, match="`share` must lie between 0 and 1"):
        balanced(labels, groups, share=1.0)


def test_one_latent_is_enough_where_one_holds_the_label():
    latents, x, labels, groups = world()
    found = sparse_probing(latents, x, balanced(labels, groups), ks=(1, 4))
    assert found.latents[0] == 10
    assert found.supervised.value > 0.95
    assert found.auc[1].value == pytest.approx(1, abs=0.01)
    assert found.auc[1].low > found.auc[1].null  # one shuffle of ten may come upon the same latent
    assert found.auc[1].null == pytest.approx(0.5, abs=0.08)
    assert found.f1[1].value > 0.98
    known = supervised_probe(x, balanced(labels, groups))
    again = sparse_probing(latents, x, balanced(labels, groups), ks=(1, 4), supervised=known)
    assert again.measures() == found.measures()
    assert set(found.measures()) == {"supervised_f1", "auc_k1", "auc_k4"}


def test_a_label_that_was_split_takes_as_many_latents():
    latents, x, labels, groups = world(split=4)
    found = sparse_probing(latents, x, balanced(labels, groups), ks=(1, 2, 4))
    assert set(found.latents[:4]) == {10, 11, 12, 13}
    values = [found.auc[k].value for k in (1, 2, 4)]
    # k of four parts found: their share of the label is told, the rest is guessed
    assert values == pytest.approx([1 / 8 + 1 / 2, 2 / 8 + 1 / 2, 1], abs=0.05)
    assert values[1] > found.auc[1].high


def test_latents_are_ranked_by_differences_of_means_in_units_of_their_own():
    latents, _, labels, _ = world()
    dense = latents.toarray()
    scale = [column[column > 0].mean() for column in dense.T]
    expected = np.abs(dense[labels].mean(0) - dense[~labels].mean(0)) / scale
    order = telling(latents, labels)
    np.testing.assert_allclose(expected[order], np.sort(expected)[::-1])
    louder = csr_array(dense * np.linspace(1, 100, N_LATENTS))
    np.testing.assert_array_equal(telling(louder, labels), order)


def test_a_label_that_is_not_there_or_hardly_occurs_is_not_applicable():
    latents, x, labels, groups = world(strength=0.0)
    found = sparse_probing(latents, x, balanced(labels, groups), ks=(1,))
    assert found.auc[1].void.startswith("not applicable: a supervised probe reaches F1 0.")
    assert found.auc[1].void.endswith("of at least 0.9")
    few = Split(np.arange(60), np.arange(60, 120), np.arange(N) % 2 == 0)
    assert "a class has 30 examples" in sparse_probing(latents, x, few).supervised.void
    with pytest.raises(ConfigError, match="the same label"):
        fit(x, np.ones(N, bool))


def test_intervals_draw_the_contexts_of_the_test_anew(jackknife):
    """In one context in five the latent and the activations both hold the opposite of the label."""
    latents, x, labels, groups = world(split=2, strength=6.0)
    wrong = (np.random.default_rng(1).random(N // 8) < 0.06)[groups]
    x[wrong] = x[np.flatnonzero(wrong) - 8 * (N // 16)]
    split = balanced(labels, groups, n_train=800, n_test=800)
    found = sparse_probing(latents, x, split, ks=(1,))
    y, own = labels[split.test], groups[split.test]
    probe = fit(x[split.train], labels[split.train])
    said = probe.scores(x[split.test]) > 0
    assert 0.9 < found.supervised.value == pytest.approx(f1_score(y, said))
    ends = jackknife(lambda i: f1_score(y[i], said[i]), own)
    assert (found.supervised.low, found.supervised.high) == ends
    few = latents[:, found.latents[:1]].toarray()
    theirs = fit(few[split.train], labels[split.train], penalty="l1").scores(few[split.test])
    assert found.auc[1].value == pytest.approx(roc_auc_score(y, theirs))
    # 200 draws, and not 500
    ends = jackknife(lambda i: roc_auc_score(y[i], theirs[i]), own, within=0.5)
    assert (found.auc[1].low, found.auc[1].high) == ends
    ends = jackknife(lambda i: f1_score(y[i], theirs[i] > 0), own)
    assert (found.f1[1].low, found.f1[1].high) == ends
