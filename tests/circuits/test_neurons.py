"""Neurons: one that was planted is found, its tokens are understood, and its absence costs what it gave."""

import pytest
import torch

from monosem.circuits import congruence, neurons
from monosem.core.errors import MonosemError

NEURON = 17
VARIANTS = (7, 8, 9)


@pytest.fixture
def rows():
    """Text in which `see` is followed by one of the variants, and nothing else is."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(12, 40, (40, 24), generator=generator)
    rows[:, 0] = 0
    rows[:, 4::6] = 1
    following = torch.randint(0, 3, rows[:, 5::6].shape, generator=generator)
    rows[:, 5::6] = torch.tensor(VARIANTS)[following]
    return rows


def test_the_neuron_that_writes_a_token_leads_by_far(planted):
    found = congruence.search(planted)
    assert len(found.writers) == 40
    assert len(found.nulls) == 10
    assert found.null == max(found.nulls)
    assert {(w.layer, w.index) for w in found.found} == {(0, NEURON), (0, 5)}
    assert {w.token for w in found.found if w.index == NEURON} == set(VARIANTS)
    leads = [w.lead for w in found.writers]
    assert leads == sorted(leads, reverse=True)
    matrix = congruence.congruences(planted, 0)
    assert matrix.mean(1).abs().max() < 1e-5
    first = found.writers[0]
    column = matrix[:, first.token]
    top = column.topk(2).values
    assert first.congruence == pytest.approx(float(top[0]))
    assert first.lead == pytest.approx(
        float((top[0] - top[1]) / column.std(correction=0)), rel=1e-4
    )


def test_the_search_is_the_same_in_small_parts(planted, monkeypatch):
    whole = congruence.search(planted)
    monkeypatch.setattr(congruence, "AT_ONCE", 40 * 7)
    parts = congruence.search(planted)
    assert [w.token for w in parts.writers] == [w.token for w in whole.writers]
    assert parts.writers[3].lead == pytest.approx(whole.writers[3].lead, rel=1e-5)


def test_its_tokens_are_classed_by_what_they_are(planted, monkeypatch):
    monkeypatch.setattr(congruence, "OUTLIER", 2.0)  # of forty tokens none is far out
    an = congruence.written(planted, 0, NEURON)
    assert (an.kind, an.string) == ("variants of one string", "an")
    assert set(an.tokens) == set(VARIANTS)
    several = congruence.written(planted, 0, 5)
    assert several.kind == "several meanings"
    assert set(several.tokens) == {10, 11}
    monkeypatch.setattr(congruence, "SHARE", 0.999)
    assert congruence.written(planted, 0, NEURON).kind == "one token"
    monkeypatch.setattr(congruence, "OUTLIER", 50.0)
    assert congruence.written(planted, 0, 3).kind == "nothing"


def test_variants_that_follow_the_same_are_used_alike(planted, rows):
    found = neurons.use(planted, rows, 0, NEURON, VARIANTS)
    assert found.verdict == "alike"
    for one in found.tokens:
        assert one.n > 10
        assert one.area > 0.95
        assert one.low <= one.area <= one.high
        assert one.mean > 10 * max(found.elsewhere, 1e-6)


def test_a_variant_that_comes_elsewhere_is_not_used_alike(planted, rows):
    rows = rows.clone()
    rows[rows == 9] = 8
    rows[:, 2] = 9  # after a random word
    found = neurons.use(planted, rows, 0, NEURON, VARIANTS)
    assert found.verdict == "not alike"
    assert found.tokens[2].area < 0.7 < found.tokens[0].area
    assert neurons.use(planted, rows, 0, 3, VARIANTS[:1]).verdict == "too few"
    rare = neurons.use(planted, rows, 0, NEURON, (7, 11))
    assert rare.tokens[1].n == 0
    assert rare.tokens[1].area is None
    assert rare.verdict == "too few"


def test_areas_under_the_curve_count_ties_half():
    one, other = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    pairs = [(a > b) + (a == b) / 2 for a in one.tolist() for b in other.tolist()]
    assert float(neurons._shares(one, other).mean()) == pytest.approx(sum(pairs) / len(pairs))


def test_an_interval_takes_contexts_as_independent_not_tokens(planted, monkeypatch):
    """Where whole contexts are active, and a token comes in some contexts only, nothing is told."""
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(12, 40, (30, 24), generator=generator)
        often = torch.arange(30)[:, None] < 15
        rows[(torch.rand(30, 24, generator=generator) < 0.4) & often] = 7
        active = torch.randn(30, 1, generator=generator) + 0.3 * torch.randn(
            30, 24, generator=generator
        )
        monkeypatch.setattr(neurons, "activations", lambda *_, active=active: active)
        (one,) = neurons.use(planted, rows, 0, NEURON, [7]).tokens
        covered += one.low <= 0.5 <= one.high
    assert covered >= 51  # of 60; with tokens as units it would be less than 30


def test_what_feeds_it_is_the_word_it_was_planted_for(planted, rows):
    found = neurons.feeders(planted, rows, 0, NEURON, n_examples=6)
    assert (found[0].kind, found[0].index) == ("token", 1)
    active = neurons.activations(planted, rows, 0, NEURON)
    assert sum(
        f.value for f in neurons.feeders(planted, rows, 0, NEURON, n_examples=6, n=10**6)
    ) == (pytest.approx(float(active.max(1).values.topk(6).values.mean()), rel=1e-4))


def test_nothing_feeds_a_neuron_that_never_fires(planted, rows):
    silent = rows.clone()
    silent[silent == 1] = 2
    assert float(neurons.activations(planted, silent, 0, NEURON).max()) == 0
    assert neurons.feeders(planted, silent, 0, NEURON) == []


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_ablating_it_costs_the_tokens_it_writes(planted, rows, how):
    found = neurons.ablate(planted, rows, 0, NEURON, how=how, tokens=VARIANTS)
    assert found.loss > 3 * found.loss_error > 0
    assert all(change < -0.2 for _, n, change in found.tokens if n)
    other = neurons.ablate(planted, rows, 0, 3, how=how, tokens=(*VARIANTS, 11))
    assert abs(other.loss) < found.loss / 20
    assert other.tokens[3] == (11, 0, None)


def test_mean_ablation_is_what_it_says(planted, rows):
    site = "blocks.0.mlp.hook_post"
    mean = neurons.activations(planted, rows, 0, NEURON)[:, 1:].mean()  # BOS is special

    def put(x):
        x = x.clone()
        x[:, 1:, NEURON] = mean
        return x

    before = planted.losses(rows)
    with planted.replaced({site: put}):
        after = planted.losses(rows)
    found = neurons.ablate(planted, rows, 0, NEURON, how="mean", tokens=(7,))
    assert found.loss == pytest.approx(float((after - before).mean()), rel=1e-4)
    at = rows[:, 1:] == 7
    assert found.tokens[0][2] == pytest.approx(float((before - after)[at].mean()), rel=1e-4)


def test_stems_are_what_variants_share():
    for text in (" an", "An", "_an", "▁AN", "(an", "an.", "ａｎ"):
        assert congruence.stem(text) == "an"
    assert congruence.stem(" ...") == "..."
    assert congruence.stem("  ") == "  "
    assert congruence.stem("it's") == "it's"


def test_what_is_not_there_is_named(planted, make, rows):
    for call, message in (
        (lambda: congruence.written(planted, 0, 60), "0 to 59"),
        (lambda: congruence.congruences(planted, 1), "There is no layer 1"),
        (lambda: congruence.search(make("monosem-attention")), "no MLPs"),
        (lambda: neurons.activations(planted, rows, 0, -1), "0 to 59"),
        (lambda: neurons.ablate(planted, rows, 0, 1, how="negate"), "mean and resample"),
        (lambda: congruence.search(planted, n_shuffles=0), "at least 1"),
        (lambda: neurons.use(planted, rows, 0, 1, range(40)), "Pass other text"),
    ):
        with pytest.raises(MonosemError, match=message):
            call()
