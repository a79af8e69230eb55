import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import ttest_1samp
from sklearn.metrics import f1_score

from monosem.metrics.absorption import (
    Absorption,
    absorption,
    looked_at,
    main_latents,
    over_classes,
)
from monosem.metrics.measure import Measure
from monosem.metrics.probes import Split, balanced

N, D = 3000, 40
BIAS = np.full(D, 3.0)


CASES = 5


def world(absorbed=False, split=1, seed=0):
    """Examples of a label with special cases, and a dictionary of its latent and others.

    Where it is `absorbed`, the label's latent (24) is silent in five cases that are a twenty-fifth of it
    each, and a latent of the case (0 to 4) writes the label's direction instead. With `split`, the label
    has several latents, a part each.
    """
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(D, D)))[0]
    labels, case = random.random(N) < 0.5, random.integers(25, size=N)
    part, strength = random.integers(split, size=N), random.uniform(2.4, 3.6, N)
    label = directions[0]
    W_dec = np.concatenate([directions[1:25], np.tile(label, (split, 1))])
    W_dec[:CASES] = (label + 0.5 * directions[1 : 1 + CASES]) / np.sqrt(1.25)
    latents = np.zeros((N, len(W_dec)))
    for i in range(N):
        latents[i, random.integers(CASES, 24, 2)] = random.uniform(0.5, 1, 2)
        if labels[i]:
            taken = absorbed and case[i] < CASES
            latents[i, case[i] if taken else 24 + part[i]] = strength[i]
    x = random.normal(0, 0.05, (N, D)) + BIAS + latents @ W_dec
    return csr_array(latents), x, W_dec, labels, np.arange(N) // 10, case


def test_a_planted_share_of_absorption_is_found():
    latents, x, W_dec, labels, groups, case = world(absorbed=True)
    split = balanced(labels, groups, n_train=1000, n_test=1000)
    found = absorption(latents, x, W_dec, BIAS, split)
    assert found.main.tolist() == [24]
    tested = case[split.test[labels[split.test]]]
    planted = (tested < CASES).mean()
    assert planted == pytest.approx(0.2, abs=0.05)
    assert found.full.value == pytest.approx(planted, abs=0.005)
    assert found.full.low < planted < found.full.high and found.full.beyond_null
    assert found.absorbers == {c: int((tested == c).sum()) for c in range(CASES)}
    assert found.fraction.value == pytest.approx(planted, abs=0.02)
    assert found.main_f1.value == pytest.approx(2 * 0.8 / 1.8, abs=0.03)


def test_without_absorption_there_is_none_and_split_latents_are_all_main():
    latents, x, W_dec, labels, groups, _ = world(split=3)
    split = balanced(labels, groups)
    found = absorption(latents, x, W_dec, BIAS, split)
    assert sorted(found.main) == [24, 25, 26]
    assert (found.full.value, found.fraction.value) == (0, 0)
    assert found.main_f1.value == pytest.approx(1, abs=0.01)
    assert found.main_f1.low <= found.main_f1.value <= found.main_f1.high


def test_the_rule_is_that_of_the_definition_by_hand():
    W_dec = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0.02, 1.0, 0], [0, 0, 1.0]])
    W_dec /= np.linalg.norm(W_dec, axis=1)[:, None]
    latents = csr_array(
        np.array(
            [
                [2.0, 0.0, 0, 1],  # the main latent fires: not absorbed
                [0.0, 2.0, 0, 1],  # the second latent has 1.6 of 2
                [0.0, 0.9, 0, 1],  # 0.72 of 2 is too little
                [0.0, 0.0, 99, 1],  # nearly orthogonal
                [1.0, 1.5, 0, 1],  # a part of it
            ]
        )
    )
    x = np.tile([2.0, 0, 0], (5, 1))
    full, fraction, who = looked_at(latents, x, W_dec, np.array([1.0, 0, 0]), np.array([0]))
    assert full.tolist() == [False, True, False, False, False]
    assert who.tolist() == [-1, 1, -1, -1, -1]
    assert fraction == pytest.approx([0, 1, 0, 0, min(1.2, 2 - 1) / (1.2 + 1)])


def test_a_dictionary_that_knows_nothing_has_no_main_latent_that_tells():
    latents, x, W_dec, labels, groups, _ = world()
    split = balanced(labels, groups)
    blind = latents.toarray()
    blind[:, 24] = 0
    found = absorption(csr_array(blind), x, W_dec, BIAS, split)
    assert found.full.value < 0.05 and found.main_f1.value < 0.8  # it scores well, and says why
    main, _ = main_latents(latents, split)
    assert main.tolist() == [24]


def test_labels_that_are_not_there_are_not_applicable_and_few_classes_have_no_mean():
    latents, x, W_dec, labels, groups, _ = world()
    other = np.random.default_rng(9).random(N) < 0.5
    unknown = absorption(latents, x, W_dec, BIAS, balanced(other, groups))
    assert unknown.full.void.startswith("not applicable: a supervised probe reaches F1")
    few = absorption(latents, x, W_dec, BIAS, Split(np.arange(20), np.arange(20, 40), labels))
    assert "of at least 50" in few.fraction.void
    known = absorption(latents, x, W_dec, BIAS, balanced(labels, groups, n_test=200, n_train=400))
    void = over_classes({"a": known, "b": unknown})["full_absorption"].void
    assert void == "not applicable: it applies to 1 of 2 classes, of at least 3"
    three = over_classes(dict.fromkeys("abc", known) | {"d": unknown})
    assert three["main_f1"].value == pytest.approx(known.main_f1.value)


def test_intervals_are_over_the_contexts_of_the_examples_that_are_looked_at(drawn_anew):
    latents, x, W_dec, labels, groups, case = world(absorbed=True)
    taken = np.argsort(case >= CASES, kind="stable")  # whole contexts are absorbed, or not at all
    named = np.empty(N, int)
    named[taken] = np.arange(N) // 8
    split = balanced(labels, named, n_train=900, n_test=900)
    found = absorption(latents, x, W_dec, BIAS, split)
    assert found.main.tolist() == [24]
    rows = split.test[labels[split.test]]
    full, own = (case[rows] < CASES).astype(float), named[rows]
    assert found.full.value == pytest.approx(full.mean(), abs=0.01)
    assert (found.full.low, found.full.high) == drawn_anew(
        lambda i: full[i].mean(), own, within=0.4
    )
    assert (found.fraction.low, found.fraction.high) == drawn_anew(
        lambda i: full[i].mean(), own, within=0.45
    )
    y, said = labels[split.test], latents.toarray()[split.test, 24] > 0
    right = y & said
    assert found.main_f1.value == pytest.approx(f1_score(y, said))
    f1 = drawn_anew(lambda i: 2 * right[i].sum() / (y[i].sum() + said[i].sum()), named[split.test])
    assert (found.main_f1.low, found.main_f1.high) == f1
    one_by_one = 2 * 1.96 * full.std() / np.sqrt(len(full))
    assert found.full.high - found.full.low > 1.4 * one_by_one


def test_the_mean_over_classes_has_the_interval_of_a_mean_of_few():
    def measured(value):
        measures = (Measure(value=v, null=v / 4, n=9) for v in (value, value / 2, 1 - value))
        names = ("full", "fraction", "main_f1")
        none = {"main": np.zeros(0, int), "absorbers": {}}
        return Absorption(**dict(zip(names, measures, strict=True)), **none)

    values = np.array([0.1, 0.3, 0.2, 0.8])
    found = over_classes({str(v): measured(float(v)) for v in values})
    for name, scale in (("full_absorption", 1.0), ("absorption_fraction", 0.5), ("main_f1", 1.0)):
        theirs = ttest_1samp(values * scale, 0.0).confidence_interval(0.95)
        ends = (theirs.low, theirs.high)
        if name == "main_f1":
            ends = (1 - theirs.high, 1 - theirs.low)
        assert (found[name].low, found[name].high) == pytest.approx(ends)
    assert found["full_absorption"].null == pytest.approx(values.mean() / 4)
