"""Kneser–Ney against a dictionary-of-tuples implementation, and as a distribution."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import ConfigError, TokenizerMismatchError
from monosem.text.ngram import KneserNey


def naive(tokens: np.ndarray, order: int, vocab: int):
    """P(w | history) by the formula, with tuples and dictionaries."""
    counts = [Counter() for _ in range(order + 1)]
    for row in tokens.tolist():
        row = ["start", *row]
        for i in range(2, len(row)):
            counts[order][tuple(row[i - order + 1 : i + 1])] += 1
    for n in range(order - 1, 0, -1):
        before = defaultdict(set)
        for gram in counts[n + 1]:
            before[gram[1:]].add(gram[0])
        counts[n] = Counter({g: len(b) for g, b in before.items()})

    def probability(history: tuple, w: int) -> float:
        n = len(history) + 1
        once = sum(c == 1 for c in counts[n].values())
        twice = sum(c == 2 for c in counts[n].values())
        discount = once / (once + 2 * twice) if once else 0.5
        lower = 1 / vocab if n == 1 else probability(history[1:], w)
        after = {g[-1]: c for g, c in counts[n].items() if g[:-1] == history}
        total = sum(after.values())
        if total == 0:
            return lower
        return max(after.get(w, 0) - discount, 0) / total + discount * len(after) / total * lower

    return probability


contexts = st.integers(2, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=1, max_size=12
    )
)


@given(train=contexts, seed=st.integers(0, 99), order=st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_it_equals_the_formula_written_with_dictionaries(train, seed, order) -> None:
    tokens = np.array(train, dtype=np.int64)
    vocab = 7
    model, by_formula = KneserNey.fit(tokens, order, vocab), naive(tokens, order, vocab)
    asked = np.random.default_rng(seed).integers(0, vocab, (3, 4))
    nll = model.nll(asked)
    for row, found in zip(asked.tolist(), nll, strict=True):
        padded = ["start", *row]
        for i in range(2, len(padded)):
            history = tuple(padded[i - order + 1 : i])
            assert found[i - 2] == pytest.approx(
                -math.log(by_formula(history, padded[i])), abs=1e-9
            )


@given(
    train=contexts,
    order=st.sampled_from([1, 2, 3]),
    history=st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_every_distribution_sums_to_one_and_is_positive(train, order, history) -> None:
    model = KneserNey.fit(np.array(train, dtype=np.int64), order, 7)
    distribution = model.distribution(np.array(history))
    assert distribution.sum() == pytest.approx(1)
    assert (distribution > 0).all()


@given(
    train=contexts,
    order=st.sampled_from([1, 2, 3]),
    cuts=st.lists(st.integers(1, 11), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_tokens_that_come_in_blocks_give_the_same_model(train, order, cuts) -> None:
    tokens = np.array(train, dtype=np.int64)
    blocks = [b for b in np.split(tokens, sorted(c for c in cuts if c < len(tokens))) if len(b)]
    whole = KneserNey.fit(tokens, order, 7)
    in_parts = KneserNey.fit_blocks(iter(blocks), order, 7)
    asked = np.random.default_rng(0).integers(0, 7, (20, 5))
    assert np.array_equal(in_parts.nll(asked), whole.nll(asked))


def test_higher_orders_learn_what_lower_ones_cannot() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, (400, 1))
    second = rng.integers(0, 2, (400, 1))
    tokens = np.concatenate([np.full((400, 1), 3), first, second, first ^ second], axis=1)
    nll = [KneserNey.fit(tokens[:300], n, 4).nll(tokens[300:])[:, 2].mean() for n in (1, 2, 3)]
    assert nll[2] < 0.1  # the third token is decided by the two before it
    assert nll[1] > 0.6
    assert nll[0] > 0.6


def test_the_first_token_is_a_history_but_is_not_predicted() -> None:
    tokens = np.array([[9, 1, 2], [8, 1, 2]])
    model = KneserNey.fit(tokens, 2, 10)
    assert model.nll(tokens).shape == (2, 2)
    unigram = KneserNey.fit(tokens, 1, 10).distribution(np.array([9]))
    assert unigram[9] == unigram[0]  # never counted as a token that follows
    after_nine, after_one = model.distribution(np.array([9])), model.distribution(np.array([1]))
    assert after_nine[1] > 0.5 > after_one[1]


def test_contexts_do_not_run_into_each_other() -> None:
    tokens = np.array([[0, 1, 2, 3], [0, 4, 5, 6]])
    model = KneserNey.fit(tokens, 2, 8)
    across = model.distribution(np.array([0, 1, 2, 3]))
    assert across[0] == pytest.approx(across[7])  # 3 0 was never counted


def test_bad_orders_vocabularies_and_shapes_are_refused() -> None:
    tokens = np.array([[0, 1, 2]])
    with pytest.raises(ConfigError, match="`order` is 4"):
        KneserNey.fit(tokens, 4, 5)
    with pytest.raises(TokenizerMismatchError, match="vocabulary of 2"):
        KneserNey.fit(tokens, 2, 2)
    with pytest.raises(ConfigError, match="2 tokens or more"):
        KneserNey.fit(np.zeros((0, 3), dtype=np.int64), 2, 5)
    with pytest.raises(ConfigError, match="given none"):
        KneserNey.fit_blocks([], 2, 5)
    with pytest.raises(TokenizerMismatchError, match="vocabulary of 2"):
        KneserNey.fit_blocks([tokens % 2, tokens], 2, 2)
    with pytest.raises(ConfigError, match="fewer than"):
        KneserNey.fit(tokens, 3, 2**20)
