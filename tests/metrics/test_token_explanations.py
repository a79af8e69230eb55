"""Latents explained by lists of tokens: planted ones, and every score recomputed densely by NumPy."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem.core.errors import ConfigError
from monosem.metrics.sample import Sample, Text
from monosem.metrics.token_explanations import TokenExplanations, token_explanations

N, CONTEXT, VOCAB = 60, 21, 40


def text(seed: int = 0) -> Text:
    """Contexts of random tokens, frequent ones among them, of which the first is special."""
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, VOCAB)
    tokens = random.choice(np.arange(1, VOCAB), (N, CONTEXT), p=shares / shares.sum())
    tokens[:, 0] = 0
    ordinary = np.ones(tokens.shape, bool)
    ordinary[:, 0] = False
    return Text(np.arange(N), tokens, ordinary, [[""] * CONTEXT] * N)


def sample(values: np.ndarray, given: Text) -> Sample:
    return Sample(given, torch.zeros(len(values), 2), csr_array(values.astype(np.float32)))


@pytest.fixture(scope="module")
def planted() -> tuple[Sample, TokenExplanations]:
    """Latents: of one token, of two, of 25, of none, of whole contexts, hardly ever on, never on."""
    given = text()
    tokens = given.at(given.tokens)
    random = np.random.default_rng(1)
    strong = 1 + random.random(len(tokens))
    columns = [
        (tokens == 3) * 2.0,
        (tokens == 2) * 1.0 + (tokens == 5) * 4.0,
        (tokens > 14) * strong,
        (random.random(len(tokens)) < 0.2) * strong,
        (given.context_of % 3 == 0) * strong,
        np.arange(len(tokens)) < 3,
        np.zeros(len(tokens)),
    ]
    found = sample(np.stack(columns, 1), given)
    return found, token_explanations(found, VOCAB, n_listed=20, seed=4)


def halves(given: Sample, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of contexts that are learnt from, and of the others."""
    order = np.random.default_rng(seed).permutation(N)[: N // 2]
    learning = np.isin(given.text.context_of, order)
    return np.flatnonzero(learning), np.flatnonzero(~learning)


def test_what_hangs_on_tokens_is_explained_and_what_does_not_is_not(planted):
    _, found = planted
    one, two, many, none, contexts, rare, never = found.scores
    assert one == pytest.approx(1.0) and two == pytest.approx(1.0)
    assert 0.5 < many < 0.99  # 20 of its 25 tokens, and its strength is drawn
    assert abs(none) < 0.1 and abs(contexts) < 0.1
    assert np.isnan(rare) and np.isnan(never) and found.n_too_rare == 2
    assert found.measures()["scored"].value == 5 / 7 and found.measures()["score"] is found.score
    assert found.of(0)[0] == (3, pytest.approx(2.0))
    assert [token for token, _ in found.of(1)[:2]] == [5, 2]
    assert [value for _, value in found.of(1)[:2]] == pytest.approx([4.0, 1.0])
    assert len(found.of(2)) == 20 and {token for token, _ in found.of(2)} <= set(range(15, 40))


def test_scores_are_correlations_with_what_the_table_says_token_by_token(planted):
    given, found = planted
    dense = given.latents.toarray().astype(float)
    tokens = given.text.at(given.text.tokens)
    learning, scoring = halves(given, 4)
    for latent in range(5):
        values = dense[learning, latent]
        means = {
            t: values[tokens[learning] == t].mean() for t in np.unique(tokens[learning]).tolist()
        }
        beyond = {t: (tokens[learning] == t).sum() * (m - values.mean()) for t, m in means.items()}
        listed = sorted((t for t in beyond if beyond[t] > 1e-9), key=lambda t: -beyond[t])[:20]
        rest = values[~np.isin(tokens[learning], listed)].mean()
        assert {t for t, _ in found.of(latent)} == set(listed)
        assert found.rest[latent] == pytest.approx(rest, abs=1e-6)
        simulated = [means[t] if t in listed else rest for t in tokens[scoring].tolist()]
        wanted = np.corrcoef(dense[scoring, latent], simulated)[0, 1]
        assert found.scores[latent] == pytest.approx(wanted, abs=1e-6)


def test_the_score_is_the_median_beside_explanations_of_other_latents():
    """Nine latents of a token each: their own explanation says all, another's less than nothing."""
    given = text(2)
    tokens = given.at(given.tokens)
    values = np.stack([(tokens == t) * float(t) for t in range(1, 10)], 1)
    made = sample(values, given)
    found = token_explanations(made, VOCAB, seed=0)
    assert found.score.value == pytest.approx(1.0)
    assert found.score.n == 9 and found.score.n_nulls == 10
    assert found.score.null is not None and -0.2 < found.score.null < 0.0
    assert found.score.beyond_null
    # by hand: the correlation of two tokens' indicators on the scored half, the median over such pairs
    chosen = tokens[halves(made, 0)[1]]
    pairs = [
        np.corrcoef(chosen == a, chosen == b)[0, 1]
        for a in range(1, 10)
        for b in range(1, 10)
        if a != b
    ]
    assert found.score.null == pytest.approx(np.median(pairs), abs=0.02)


def test_two_latents_of_one_token_explain_each_other_and_the_score_is_not_beyond_chance():
    given = text(3)
    tokens = given.at(given.tokens)
    values = np.stack([(tokens == 2) * 1.0, (tokens == 2) * 3.0], 1)
    found = token_explanations(sample(values, given), VOCAB)
    assert found.score.value == pytest.approx(1.0) and found.score.null == pytest.approx(1.0)
    assert not found.score.beyond_null


def test_shorter_lists_say_less(planted):
    given, twenty = planted
    five = token_explanations(given, VOCAB, n_listed=5, seed=4)
    assert five.scores[2] < twenty.scores[2] - 0.05
    assert five.scores[0] == pytest.approx(twenty.scores[0])
    with pytest.raises(ConfigError, match="n_listed.*0"):
        token_explanations(given, VOCAB, n_listed=0)


def test_where_nothing_fires_often_enough_there_is_no_score():
    given = text()
    found = token_explanations(sample(np.zeros((N * (CONTEXT - 1), 3)), given), VOCAB)
    assert found.score.value is None and "10 tokens" in str(found.score)
    assert found.n_too_rare == 3
    assert found.of(1) == []
    for latent in (-1, 3):
        with pytest.raises(ConfigError, match=f"no latent {latent}: .* 0 to 2"):
            found.of(latent)
    constant = token_explanations(sample(np.ones((N * (CONTEXT - 1), 2)), given), VOCAB)
    assert constant.n_too_rare == 0 and str(constant.score).endswith("is constant")
