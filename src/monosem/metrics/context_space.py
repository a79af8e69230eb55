"""Context space: where the contexts of tokens lie, by counts of the text alone.

    v(token)   rows of U √S, of the positive pointwise mutual information of each token with the tokens
               one and two places to either side, each place apart (Levy and Goldberg 2014), centred
    context    [√a v(t), √b v(t - 1), √c mean of v over the WINDOW tokens before]       each part of length 1

so that the cosine of two contexts is a, b and c times the cosines of their parts. It knows neither model
nor dictionary: a residual stream would favour whatever was trained on it, and would call alike what the
model confuses. Tokens used alike (digits, names, pieces of base64) lie near one another, the same token
in the same place, which counts of n-grams alone would not see of rare ones.

Two contexts are alike above the cosine that one pair in a hundred of random ones has, and in any case above
that of the same token in two contexts that have nothing else in common, a (`alike`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import coo_array, csr_array, hstack
from sklearn.decomposition import TruncatedSVD

from monosem.core.errors import ConfigError
from monosem.metrics.sample import Text

PLACES = (-2, -1, 1, 2)
WINDOW = 8
PARTS = (0.5, 0.2, 0.3)
"""Weights of the token itself, of the one before, and of those before that."""
D_TOKEN = 48
RANDOM_PAIRS = 20_000
LIKE_ONE_IN = 100


@dataclass(frozen=True, eq=False)
class ContextSpace:
    """Vectors of tokens, and the cosine from which contexts are alike."""

    vectors: Float[np.ndarray, "vocab d"]
    alike: float

    @classmethod
    def fit(
        cls,
        tokens: Iterable[Int64[np.ndarray, "n context"]],
        text: Text,
        vocab: int,
        *,
        seed: int = 0,
    ) -> "ContextSpace":
        """Return the space of a text: `tokens` are counted, pairs of random contexts are of `text`."""
        vectors = token_vectors(tokens, vocab, seed=seed)
        space = cls(vectors, 1.0)
        n = int(text.ordinary.sum())
        if n < 2:
            raise ConfigError(f"A space of contexts needs two ordinary tokens, and has {n}.")
        random = np.random.default_rng(seed)
        a, b = random.integers(0, n, (2, RANDOM_PAIRS))
        apart = a != b
        left, right = space.embed(text, a[apart]), space.embed(text, b[apart])
        cosines = (left * right).sum(1)
        return cls(vectors, min(PARTS[0], float(np.quantile(cosines, 1 - 1 / LIKE_ONE_IN))))

    def embed(self, text: Text, rows: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Return unit vectors of the contexts of ordinary tokens of `text`, by their places among them."""
        contexts, places = (index[rows] for index in np.nonzero(text.ordinary))
        back = places[:, None] - np.arange(WINDOW + 1)
        tokens = text.tokens[contexts[:, None], np.maximum(back, 0)]
        known = text.ordinary[contexts[:, None], np.maximum(back, 0)] & (back >= 0)
        known = np.logical_and.accumulate(known, axis=1)  # nothing of before a special token
        seen = self.vectors[tokens] * known[..., None]
        parts = (seen[:, 0], seen[:, 1], seen[:, 1:].sum(1))
        weighted = [w**0.5 * _unit(part) for w, part in zip(PARTS, parts, strict=True)]
        return _unit(np.concatenate(weighted, 1))


def token_vectors(
    tokens: Iterable[Int64[np.ndarray, "n context"]], vocab: int, *, seed: int = 0
) -> Float[np.ndarray, "vocab d"]:
    """Return a unit vector for each token that occurs, zeros for the others."""
    counts = [csr_array((vocab, vocab), dtype=np.float64) for _ in PLACES]
    for some in tokens:
        for i, place in enumerate(PLACES):
            ahead = abs(place)
            a, b = some[:, :-ahead].ravel(), some[:, ahead:].ravel()
            own, other = (a, b) if place > 0 else (b, a)
            new = coo_array((np.ones(len(own)), (own, other)), shape=(vocab, vocab))
            counts[i] = counts[i] + new.tocsr()
    information = hstack([pointwise_information(c) for c in counts]).tocsr()
    d = min(D_TOKEN, vocab - 1)
    found = TruncatedSVD(d, random_state=seed).fit(information)
    rows = (
        information
        @ np.asarray(found.components_).T
        / np.sqrt(np.maximum(found.singular_values_, 1e-12))
    )
    used = np.asarray(counts[0].sum(1)).ravel() + np.asarray(counts[-1].sum(1)).ravel() > 0
    if used.any():
        rows[used] -= rows[used].mean(0)
    rows[~used] = 0.0
    return _unit(rows)


def pointwise_information(counts: csr_array) -> csr_array:
    """Return max(0, log p(a, b) / p(a) p(b)) of a table of counts."""
    table = counts.tocoo()
    total = table.sum()
    of_a, of_b = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
    a, b = table.coords
    value = np.log(np.maximum(table.data * total, 1e-30) / (of_a[a] * of_b[b]))
    made = coo_array((np.maximum(value, 0.0), (a, b)), shape=table.shape).tocsr()
    made.eliminate_zeros()
    return made


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 1e-12, norms, 1.0)
