import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem.core.errors import ShapeMismatchError
from monosem.metrics.sample import Sample, Text, as_matrix, draw, vertical
from monosem.metrics.specificity import ahead, best_unit, correlations, curves, specificity
from monosem.metrics.stream import Place

CONTEXTS, LENGTH = 60, 30


def planted(seed=0):
    """A unit that fires on most tokens of a rule, strongly, and on others, weakly."""
    random = np.random.default_rng(seed)
    rule = random.random(CONTEXTS * LENGTH) < 0.1
    fires = np.where(rule, random.random(len(rule)) < 0.8, random.random(len(rule)) < 0.05)
    strength = np.where(rule, random.uniform(2, 5, len(rule)), random.uniform(0.1, 2.5, len(rule)))
    context_of = np.repeat(np.arange(CONTEXTS), LENGTH)
    return fires * strength, np.where(rule, 3.0, -9.0), context_of


def test_every_number_is_that_of_plain_numpy():
    a, proxy, context_of = planted()
    found = specificity(a, proxy, context_of)
    true = proxy > 0
    assert found.specificity.value == pytest.approx((true & (a > 0)).sum() / (a > 0).sum())
    assert found.expected.value == pytest.approx(a[true].sum() / a.sum())
    assert found.sensitivity.value == pytest.approx((a[true] > 0).mean())
    assert found.correlation.value == pytest.approx(np.corrcoef(a, np.maximum(proxy, 0))[0, 1])
    assert found.specificity.null == pytest.approx(true.mean())
    assert found.sensitivity.null == pytest.approx((a > 0).mean())
    assert all(m.low < m.value < m.high for m in found.measures().values())
    assert found.sensitivity.low < 0.8 < found.sensitivity.high
    assert found.specificity.beyond_null and found.specificity.n == len(a)
    moved = specificity(a, proxy, context_of + 500)  # numbers of contexts are names
    assert moved.measures() == found.measures()


def test_levels_hold_every_firing_once_and_rise_where_the_unit_is_specific():
    a, proxy, _ = planted()
    found = curves(a, proxy > 0, 10)
    counts, edges = np.histogram(a[a > 0], np.linspace(0, a.max(), 11))
    np.testing.assert_array_equal(found.n_tokens, counts)
    np.testing.assert_allclose(found.edges, edges)
    assert found.n_true.sum() == ((proxy > 0) & (a > 0)).sum()
    np.testing.assert_allclose(found.activation, np.histogram(a[a > 0], edges, weights=a[a > 0])[0])
    assert found.specificity[0] < 0.1 and found.specificity[-1] == 1
    of_rule = a[(proxy > 0) & (a > 0)]
    counts_true = np.histogram(of_rule, edges)[0]
    np.testing.assert_allclose(found.specificity[counts > 0], (counts_true / counts)[counts > 0])
    weighed = np.histogram(of_rule, edges, weights=of_rule)[0]
    np.testing.assert_allclose(found.activation_true, weighed)
    sensitivity = found.sensitivity(int((proxy > 0).sum()))
    by_hand = [(of_rule >= edge).sum() / (proxy > 0).sum() for edge in edges[:-1]]
    np.testing.assert_allclose(sensitivity, by_hand)
    assert sensitivity[0] == pytest.approx((a[proxy > 0] > 0).mean())
    assert (np.diff(sensitivity) <= 0).all()
    assert found.activation_true.sum() / found.activation.sum() == pytest.approx(
        specificity(a, proxy, np.zeros(len(a), int)).expected.value
    )


def test_a_rule_or_a_unit_that_is_hardly_there_says_nothing():
    a, proxy, context_of = planted()
    proxy[np.flatnonzero(proxy > 0)[10:]] = -1
    found = specificity(a, proxy, context_of)
    assert found.expected.void.startswith("not applicable: the proxy is above 0 on 10 tokens")


def sample(latents):
    tokens = np.ones((CONTEXTS, LENGTH), np.int64)
    text = Text(np.arange(CONTEXTS), tokens, tokens > 0, [["a"] * LENGTH] * CONTEXTS)
    return Sample(text, torch.zeros(len(latents), 2), csr_array(latents))


def test_the_planted_latent_is_chosen_and_measured_on_other_contexts():
    a, proxy, _ = planted()
    random = np.random.default_rng(1)
    latents = random.random((len(a), 300)) * (random.random((len(a), 300)) < 0.05)
    latents[:, 123] = a
    found = best_unit(sample(latents), proxy.reshape(CONTEXTS, LENGTH))
    assert found.latent == 123
    assert found.correlation.beyond_null and abs(found.correlation.null) < 0.1
    assert found.correlation.value == pytest.approx(
        np.corrcoef(a, np.maximum(proxy, 0))[0, 1], abs=0.1
    )
    assert found.agreement.sensitivity.value == pytest.approx(0.8, abs=0.1)
    without = np.delete(latents, 123, 1)
    chance = best_unit(sample(without), proxy.reshape(CONTEXTS, LENGTH))
    assert abs(chance.correlation.value) < 0.1  # chosen on one half, it is nothing on the other
    with pytest.raises(ShapeMismatchError, match="Make it of this text"):
        best_unit(sample(latents), proxy.reshape(LENGTH, CONTEXTS))


def test_correlations_are_pearsons():
    random = np.random.default_rng(2)
    latents = random.random((500, 7)) * (random.random((500, 7)) < 0.3) + 0.2
    latents[:, 6] = 0
    proxy = random.random(500) + 4
    theirs = [np.corrcoef(latents[:, i], proxy)[0, 1] for i in range(6)]
    found = correlations(csr_array(latents), proxy)
    np.testing.assert_allclose(found[:6], theirs, atol=1e-12)
    assert np.isnan(found[6])


def test_a_sample_is_what_the_dictionary_makes_of_its_text(dictionary, model, store, monkeypatch):
    monkeypatch.setattr(
        type(store),
        "pieces",
        lambda self, c, a, b: [str(t) for t in self.tokens([c])[0]],
        raising=False,
    )
    place = Place(model, store, "blocks.0.mlp.hook_post")
    found = draw(dictionary, place, n_tokens=200, batch=64)
    text = found.text
    seen = model.capture(torch.from_numpy(text.tokens), [place.site])[place.site]
    x = seen[torch.from_numpy(text.ordinary)]
    torch.testing.assert_close(found.x, x)
    dense = dictionary.encode(x).numpy()
    np.testing.assert_allclose(found.latents.toarray(), dense, atol=1e-5)
    np.testing.assert_allclose(found.column(3), dense[:, 3], atol=1e-5)
    np.testing.assert_array_equal(found.n_fired(), (dense > 0).sum(0))
    assert 200 <= len(found) < 216 and set(text.contexts) <= set(store.contexts("heldout"))
    np.testing.assert_array_equal(text.at(text.tokens), text.tokens[text.ordinary])
    both = vertical([as_matrix(dictionary.encode_sparse(part).ragged()) for part in x.split(7)])
    np.testing.assert_allclose(both.toarray(), dense, atol=1e-5)


def test_a_lead_is_the_difference_on_the_contexts_that_chose_neither():
    a, proxy, _ = planted()
    random = np.random.default_rng(3)
    worse = a * (random.random(len(a)) < 0.5) + 0.5 * (random.random(len(a)) < 0.1)
    one, other = sample(a[:, None]), sample(np.stack([np.zeros(len(a)), worse], 1))
    rule = proxy.reshape(CONTEXTS, LENGTH)
    lead = ahead(one, 0, other, 1, rule)
    chosen, second = best_unit(one, rule), best_unit(other, rule)
    assert second.latent == 1
    for name in ("correlation", "expected"):
        ours, theirs = (getattr(u.agreement, name).value for u in (chosen, second))
        assert getattr(lead, name).value == pytest.approx(ours - theirs)
        assert getattr(lead, name).beyond_null
    assert ahead(other, 1, one, 0, rule).correlation.high < 0


def test_of_a_unit_beside_itself_nobody_is_ahead_however_wide_both_intervals_are():
    a, proxy, _ = planted()
    rule = proxy.reshape(CONTEXTS, LENGTH)
    lead = ahead(sample(a[:, None]), 0, sample(2 * a[:, None]), 0, rule).correlation
    assert lead.low == pytest.approx(0, abs=1e-12) and lead.high == pytest.approx(0, abs=1e-12)
    rare = np.where(np.arange(len(a)) % 100 == 0, a + 1, 0)
    nothing = ahead(sample(a[:, None]), 0, sample(rare[:, None]), 0, rule)
    assert nothing.correlation.void.startswith("not applicable: the proxy is above 0 on")
    with pytest.raises(ShapeMismatchError, match="Draw both of the same contexts"):
        ahead(
            sample(a[:, None]),
            0,
            Sample(
                Text(np.arange(2), np.ones((2, 3), int), np.ones((2, 3), bool), []),
                torch.zeros(6, 2),
                csr_array(np.ones((6, 1))),
            ),
            0,
            rule,
        )


def test_where_no_unit_was_chosen_nobody_is_ahead():
    a, proxy, context_of = planted()
    # The rule holds in one context, which the seed puts among those that are measured, not among the others.
    seed = next(
        s
        for s in range(9)
        if 3 not in np.random.default_rng(s).permutation(CONTEXTS)[: CONTEXTS // 2]
    )
    rule = np.where(context_of == 3, 3.0, -9.0).reshape(CONTEXTS, LENGTH)
    both = sample(np.stack([a, np.where(context_of == 3, 2.0, 0.1 * a)], 1))
    none = best_unit(both, rule, seed=seed)
    assert none.latent == -1 and none.agreement is None and not none.correlation.applicable
    # The last column would be measured in its place: there it fires on enough tokens of the rule.
    assert ahead(both, 1, both, 0, rule, seed=seed).expected.applicable
    for unit, other in ((none.latent, 0), (0, none.latent), (none.latent, none.latent)):
        found = ahead(both, unit, both, other, rule, seed=seed)
        assert found.expected == found.correlation
        assert found.correlation.void == (
            "not applicable: no unit was chosen on the other half of the contexts"
        )


def in_contexts(seed=0):
    """A unit that follows a rule closely in some contexts, and hardly in others."""
    a, proxy, context_of = planted(seed)
    random = np.random.default_rng(seed + 50)
    strength = random.choice([0.1, 3.0], CONTEXTS)[context_of]
    often = random.choice([0.25, 1.0], CONTEXTS)[context_of]
    return a * strength * (random.random(len(a)) < often), proxy, context_of


def test_intervals_are_those_of_drawing_contexts_anew(drawn_anew):
    a, proxy, context_of = in_contexts()
    true = proxy > 0
    found = [specificity(a, proxy, context_of, seed=seed).measures() for seed in range(5)]
    by_hand = {
        "specificity": lambda i: true[i][a[i] > 0].mean(),
        "expected": lambda i: a[i][true[i]].sum() / a[i].sum(),
        "sensitivity": lambda i: (a[i][true[i]] > 0).mean(),
        "correlation": lambda i: np.corrcoef(a[i], np.maximum(proxy[i], 0))[0, 1],
    }
    for name, of in by_hand.items():
        ends = np.mean([[each[name].low, each[name].high] for each in found], axis=0)
        assert tuple(ends) == drawn_anew(of, context_of), name
    rest = by_hand["sensitivity"](np.arange(len(a)))
    alone = 2 * 1.96 * np.sqrt(rest * (1 - rest) / true.sum())
    assert found[0]["sensitivity"].high - found[0]["sensitivity"].low > 1.3 * alone


def test_the_interval_of_a_lead_pairs_the_contexts_that_chose_neither(drawn_anew):
    a, proxy, context_of = in_contexts()
    random = np.random.default_rng(8)
    other = 0.8 * a + 0.3 * (random.random(len(a)) < 0.05) * random.random(len(a))
    rule = proxy.reshape(CONTEXTS, LENGTH)
    one, two = sample(a[:, None]), sample(other[:, None])
    alone = best_unit(one, rule, seed=4)
    held = np.ones(CONTEXTS, bool)
    held[np.random.default_rng(4).permutation(CONTEXTS)[: CONTEXTS // 2]] = False
    held = held[context_of]
    a, other, p = a[held], other[held], np.maximum(proxy[held], 0)

    def expected(x, i):
        return x[i][p[i] > 0].sum() / x[i].sum()

    def correlation(x, i):
        return np.corrcoef(x[i], p[i])[0, 1]

    own = context_of[held]
    assert alone.agreement.correlation.low == alone.correlation.low
    for name, of in (("expected", expected), ("correlation", correlation)):
        single = getattr(alone.agreement, name)
        measure = getattr(ahead(one, 0, two, 0, rule, seed=4), name)
        assert (single.low, single.high) == drawn_anew(
            lambda i, of=of: of(a, i), own, within=0.6
        ), name
        assert (measure.low, measure.high) == drawn_anew(
            lambda i, of=of: of(a, i) - of(other, i), own, within=0.4
        ), name
        # drawn apart, what both owe to the same contexts would not fall out
        assert measure.high - measure.low < 0.7 * (single.high - single.low)
