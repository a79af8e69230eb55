import numpy as np
import pytest
from scipy.sparse import csr_array

from monosem.metrics.perturbation import WARNING, Coded, _recovered, _Tested, scr, tpp
from monosem.metrics.probes import balanced, fit
from monosem.metrics.sparse_probing import supervised_probe

N, D = 2400, 24


def world(mixed=False, n_labels=4, seed=0):
    """Labels along directions of their own; a dictionary with a latent for each, or for pairs of them."""
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(D, D)))[0]
    labels = random.random((N, n_labels)) < 0.3
    strength = labels * random.uniform(2.5, 3.5, labels.shape)
    other = random.random((N, 6)) * (random.random((N, 6)) < 0.3)
    x = 1.5 + strength @ directions[:n_labels] + other @ directions[10:16]
    x = x + random.normal(0, 0.1, x.shape)
    latents = np.concatenate([strength, other], 1)
    rows = np.concatenate([directions[:n_labels], directions[10:16]])
    if mixed:  # two latents for two labels, each half of either
        pairs = np.array([[1, 1], [1, -1]]) / 2**0.5
        rows[:2], latents[:, :2] = pairs @ rows[:2], latents[:, :2] @ pairs.T
        rows[2:4], latents[:, 2:4] = pairs @ rows[2:4], latents[:, 2:4] @ pairs.T
    return Coded(x, csr_array(latents), rows), labels, np.arange(N) // 8


def splits(labels, groups):
    return {
        str(i): balanced(labels[:, i], groups, n_train=400, n_test=400)
        for i in range(labels.shape[1])
    }


def test_what_is_taken_away_is_what_the_latents_add():
    coded, labels, _ = world()
    rows, chosen = np.arange(50), np.array([0, 2])
    dense = coded.latents.toarray()
    expected = coded.x[:50] - dense[:50, [0]] * coded.W_dec[0] - dense[:50, [2]] * coded.W_dec[2]
    np.testing.assert_allclose(coded.without(rows, chosen), expected)
    probe = fit(coded.x[:500], labels[:500, 1], strength=1.0)
    y, some = labels[:500, 1], dense[:500]
    by_hand = (some[y].mean(0) - some[~y].mean(0)) * (coded.W_dec @ probe.weights)
    np.testing.assert_allclose(coded.effects(np.arange(500), y, probe), by_hand)


def test_labels_with_latents_of_their_own_are_taken_away_one_by_one():
    coded, labels, groups = world()
    found = tpp(coded, splits(labels, groups), ns=(1,))[1]
    assert found.value == pytest.approx(
        0.5, abs=0.03
    )  # from certainty to guessing, and nobody else
    assert found.low > 0.4 > found.null
    torn, labels, groups = world(mixed=True)
    assert tpp(torn, splits(labels, groups), ns=(1,))[1].value < 0.35


def test_a_planted_cue_is_removed_by_the_latents_that_hold_it():
    random = np.random.default_rng(4)
    directions = np.linalg.qr(random.normal(size=(D, D)))[0]
    labels = random.random((N, 2)) < 0.5
    strength = random.uniform(1.0, 1.5, (N, 4))
    latents = np.stack([labels[:, 0], ~labels[:, 0], labels[:, 1], ~labels[:, 1]], 1) * strength
    other = random.random((N, 6)) * (random.random((N, 6)) < 0.3)
    rows = np.stack([directions[0], -directions[0], directions[1], -directions[1]])
    latents = np.concatenate([latents, other], 1)
    rows = np.concatenate([rows, directions[10:16]])
    x = 1.5 + latents @ rows + random.normal(0, 0.1, (N, D))
    coded = Coded(x, csr_array(latents), rows)
    found = scr(coded, labels[:, 0], labels[:, 1], np.arange(N) // 8, ns=(1, 2))
    assert found[2].value == pytest.approx(1, abs=0.05) and found[2].beyond_null
    assert found[1].value == pytest.approx(0.5, abs=0.05)  # one of its two latents
    assert found[2].low <= found[2].value <= found[2].high


def test_what_cannot_be_measured_says_why():
    coded, labels, groups = world()
    blind = Coded(np.random.default_rng(0).normal(size=coded.x.shape), coded.latents, coded.W_dec)
    assert tpp(blind, splits(labels, groups), ns=(2,))[2].void == (
        "not applicable: supervised probes reach F1 0.9 for 0 of 4 labels, of at least 3"
    )
    assert "costs" in scr(blind, labels[:, 0], labels[:, 1], groups, ns=(2,))[2].void
    never = scr(coded, labels[:, 0], labels[:, 0], groups, ns=(2,))[2]
    assert never.void == "not applicable: the rarest pair of labels has 0 examples, of at least 25"
    assert "arXiv:2605.18229" in WARNING


def test_targeted_perturbation_is_the_mean_of_its_definition_and_its_interval_draws_contexts():
    coded, labels, groups = world(mixed=True)
    each = splits(labels, groups)
    known = {name: supervised_probe(coded.x, split) for name, split in each.items()}
    found = tpp(coded, each, ns=(2,), supervised=known)[2]
    probes = {name: probe for name, (_, probe) in known.items()}
    scores = []
    for name, split in each.items():
        effects = coded.effects(split.train, split.labels[split.train], probes[name])
        chosen = np.argsort(-effects, kind="stable")[:2]
        chosen, drop = chosen[effects[chosen] > 0], {}
        for other, test in each.items():
            y, rows = test.labels[test.test], test.test
            taken = coded.x[rows] - coded.latents.toarray()[rows][:, chosen] @ coded.W_dec[chosen]
            before, after = (probes[other].scores(x) > 0 for x in (coded.x[rows], taken))
            drop[other] = (before == y).mean() - (after == y).mean()
        scores.append(drop.pop(name) - np.mean(list(drop.values())))
    assert found.value == pytest.approx(np.mean(scores)) and found.n == 4
    assert found.low < found.value < found.high and found.null < found.null_high
    same = dict.fromkeys("abcd", known["0"])  # one label four times: nothing of it alone is lost
    alike = tpp(coded, dict.fromkeys("abcd", each["0"]), ns=(2,), supervised=same)[2]
    assert (alike.value, alike.low, alike.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_label_that_no_drawn_context_holds_is_left_out_of_the_draw():
    coded, labels, groups = world()
    each = splits(labels, groups)
    known = {name: supervised_probe(coded.x, split)[1] for name, split in each.items()}
    tested = _Tested(coded, each, known)
    drops = tested.drops(np.array([0]))
    everywhere = tested.targeted(drops, 0)
    absent = (tested._counts[3] == 0).astype(float)  # contexts without an example of label 3
    shares = (drops @ absent)[:3] / (tested._counts @ absent)[:3]
    assert everywhere == pytest.approx(0.5, abs=0.05)
    assert tested.targeted(drops, 0, absent) == pytest.approx(shares[0] - shares[1:].mean())
    assert np.isnan(tested.targeted(drops, 3, absent))


def percentiles(draws):
    """The ends of an interval, and how far those of 500 other draws may lie from them."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return pytest.approx((low, high), abs=0.3 * np.std(draws))


def test_the_interval_of_targeted_perturbation_draws_labels_and_contexts():
    coded, labels, groups = world(mixed=True, n_labels=4)
    x = coded.x.copy()
    half = (np.random.default_rng(5).random(N // 8) < 0.5)[groups]
    latents = coded.latents.toarray()
    latents[half, :2] = 0  # in half of the contexts the dictionary has nothing of two labels
    coded = Coded(x, csr_array(latents), coded.W_dec)
    each = splits(labels, groups)
    known = {name: supervised_probe(x, split) for name, split in each.items()}
    found = tpp(coded, each, ns=(1,), supervised=known)[1]
    probes = {name: probe for name, (_, probe) in known.items()}
    lost = {}  # (taken away, label): one value a test example
    for name, split in each.items():
        effects = coded.effects(split.train, split.labels[split.train], probes[name])
        best = [int(effects.argmax())]
        for other, test in each.items():
            y, rows = test.labels[test.test], test.test
            taken = x[rows] - latents[rows][:, best] @ coded.W_dec[best]
            before, after = ((probes[other].scores(z) > 0) == y for z in (x[rows], taken))
            lost[name, other] = before.astype(float) - after
    contexts = np.unique(np.concatenate([groups[split.test] for split in each.values()]))
    random, draws = np.random.default_rng(77), []
    for _ in range(1500):
        times = np.zeros(groups.max() + 1)
        np.add.at(times, random.choice(contexts, len(contexts)), 1)
        drop = {k: np.average(v, weights=times[groups[each[k[1]].test]]) for k, v in lost.items()}
        scores = [
            drop[name, name] - np.mean([drop[name, o] for o in each if o != name]) for name in each
        ]
        draws.append(np.mean(random.choice(scores, len(scores))))
    assert (found.low, found.high) == percentiles(draws)


def test_the_interval_of_what_is_removed_draws_contexts_for_both_accuracies(jackknife):
    random = np.random.default_rng(6)
    groups = np.arange(400) // 5
    biased = (random.random(400) < 0.6).astype(float)
    oracle = np.maximum(biased, random.random(400) < 0.9)
    helped = (random.random(80) < 0.5)[groups]
    ablated = np.where(helped, oracle, biased)
    nulls = [biased, oracle]
    found = _recovered(ablated, nulls, (biased, oracle), groups, 0)

    def share(i):
        return (ablated[i].mean() - biased[i].mean()) / (oracle[i].mean() - biased[i].mean())

    assert found.value == pytest.approx(share(np.arange(400)))
    assert (found.low, found.high) == jackknife(share, groups)
    assert (found.null, found.null_high, found.n) == (0.5, 1.0, 400)
