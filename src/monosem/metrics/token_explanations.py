"""How far a latent is explained by a short list of tokens: the plainest explanation, scored on other text.

    explanation of i    the `n_listed` tokens with the most activation beyond the latent's mean, on half of
                        the contexts, each with the mean activation on it; `rest` is the mean on all others
    simulated_i(t)      that mean, where token t is listed; otherwise `rest`
    score of i          Pearson correlation of activation and simulated activation, on the other half

The score is that of Bills et al. 2023, "Language models can explain neurons in language models", with a
table in place of the two language models, over all tokens of running text. Explanations in words, which may
speak of more than the token itself, should beat it there; scores over chosen examples are other numbers.
Chance: the explanations of other latents of the dictionary, dealt out anew.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from monosem.core.errors import ConfigError
from monosem.metrics.by_token import latents_by_token, sums
from monosem.metrics.measure import N_CHANCES, Measure, median, not_applicable, share
from monosem.metrics.sample import Sample

N_LISTED = 20
"""Tokens of an explanation: what somebody would read."""
LEAST = 10
"""Tokens of each half on which a latent must fire to be explained, and to be scored."""


@dataclass(frozen=True, eq=False)
class TokenExplanations:
    """A list of tokens for each latent, and how well it foretells the latent on other text."""

    tables: csr_array
    """What a listed token adds to `rest`, [n_latents vocab]; nothing is stored for other tokens."""
    rest: Float[np.ndarray, " n_latents"]
    """Simulated activation on a token that is not listed."""
    scores: Float[np.ndarray, " n_latents"]
    """Correlation with what is simulated; NaN where a latent fires too rarely or its table is constant."""
    n_too_rare: int
    """Latents that fire on too few tokens of either half."""
    score: Measure
    """The median of the scores, its interval over latents, and chance."""

    def measures(self) -> dict[str, Measure]:
        """The score, and how many latents it is the median of."""
        n = len(self.scores)
        return {"score": self.score, "scored": share(int(np.isfinite(self.scores).sum()), n)}

    def of(self, latent: int) -> list[tuple[int, float]]:
        """Return the listed tokens of a latent, the largest mean activation first, with that mean."""
        if not 0 <= latent < len(self.rest):
            raise ConfigError(
                f"There is no latent {latent}: they are numbered from 0 to {len(self.rest) - 1}."
            )
        begin, end = self.tables.indptr[[latent, latent + 1]]
        found = zip(self.tables.indices[begin:end], self.tables.data[begin:end], strict=True)
        said = [(int(token), float(value + self.rest[latent])) for token, value in found]
        return sorted(said, key=lambda pair: -pair[1])


def token_explanations(
    sample: Sample, vocab: int, *, n_listed: int = N_LISTED, least: int = LEAST, seed: int = 0
) -> TokenExplanations:
    """Explain every latent of `sample` by tokens on half of its contexts, and score that on the others.

    `vocab` is the size of the vocabulary; raises `ConfigError` for a list of no token.
    """
    if n_listed < 1:
        raise ConfigError(
            f"`n_listed` must be at least 1, got {n_listed}: tokens of an explanation."
        )
    learning = _half(sample, seed)
    tokens = sample.text.at(sample.text.tokens)
    sides = [_Side.of(sample, tokens, rows, vocab) for rows in (learning, ~learning)]
    tables, rest = _explained(sides[0], n_listed)
    often = np.logical_and.reduce([side.n_fired >= least for side in sides])
    scores = np.where(often, sides[1].correlation(tables), np.nan)
    known = np.isfinite(scores)
    if not known.any():
        reason = f"no latent fires on {least} tokens of each half of the contexts"
        if often.any():
            reason = "each latent that fires often enough, or what its tokens foretell, is constant"
        found = not_applicable(reason, len(scores))
    else:
        found = median(scores, seed=seed, null=_chance(sides[1], tables, known, seed))
    return TokenExplanations(tables, rest, scores, int((~often).sum()), found)


@dataclass(frozen=True, eq=False)
class _Side:
    """Half of the text: what latents sum to on each token, and over all."""

    by_token: csr_array
    """Summed activation, [n_latents vocab]."""
    n_of_token: Float[np.ndarray, " vocab"]
    total: Float[np.ndarray, " n_latents"]
    squares: Float[np.ndarray, " n_latents"]
    n_fired: Int64[np.ndarray, " n_latents"]

    @classmethod
    def of(
        cls,
        sample: Sample,
        tokens: Int64[np.ndarray, " tokens"],
        rows: Bool[np.ndarray, " tokens"],
        vocab: int,
    ) -> "_Side":
        latents = csr_array(sample.latents[np.flatnonzero(rows)], dtype=np.float64)
        chosen = tokens[rows]
        return cls(
            by_token=csr_array(latents_by_token(latents, chosen, vocab), dtype=np.float64),
            n_of_token=np.bincount(chosen, minlength=vocab).astype(np.float64),
            total=sums(latents, 0),
            squares=sums(csr_array(latents.multiply(latents)), 0),
            n_fired=np.bincount(latents.indices, minlength=sample.n_latents).astype(np.int64),
        )

    @property
    def n(self) -> float:
        """Tokens."""
        return float(self.n_of_token.sum())

    def correlation(
        self, tables: csr_array, of: Int64[np.ndarray, " n_latents"] | None = None
    ) -> Float[np.ndarray, " n_latents"]:
        """Return the correlation of each latent with its table, or that of latent `of[i]`; NaN: constant."""
        dealt = tables if of is None else csr_array(tables[of])
        both = sums(csr_array(self.by_token.multiply(dealt)), 1)
        first = np.asarray(dealt @ self.n_of_token)
        second = np.asarray(csr_array(dealt.multiply(dealt)) @ self.n_of_token)
        covariance = both - self.total * first / self.n
        ours = self.squares - self.total**2 / self.n
        theirs = second - first**2 / self.n
        with np.errstate(divide="ignore", invalid="ignore"):
            found = covariance / np.sqrt(ours * theirs)
        return np.where((ours > 0) & (theirs > 1e-12 * np.maximum(second, 1e-300)), found, np.nan)


def _half(sample: Sample, seed: int) -> Bool[np.ndarray, " tokens"]:
    """Return which tokens are of the contexts that are learnt from."""
    order = np.random.default_rng(seed).permutation(len(sample.text))
    chosen = np.zeros(len(sample.text), bool)
    chosen[order[: len(order) // 2]] = True
    return chosen[sample.text.context_of]


def _explained(side: _Side, n_listed: int) -> tuple[csr_array, Float[np.ndarray, " n_latents"]]:
    """Return tables and rests: the tokens on which most activation lies, beyond the mean of the others."""
    n_latents, vocab = side.by_token.shape or (0, 0)
    rest = np.zeros(n_latents)
    data: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    for i in range(n_latents):
        row = slice(side.by_token.indptr[i], side.by_token.indptr[i + 1])
        token, value = side.by_token.indices[row], side.by_token.data[row]
        # Beyond what as many tokens have on average: common tokens gather a little of everything.
        beyond = value - side.n_of_token[token] * (side.total[i] / max(side.n, 1.0))
        kept = np.argsort(-beyond, kind="stable")[:n_listed]
        kept = np.sort(kept[beyond[kept] > 0])
        outside = side.n - side.n_of_token[token[kept]].sum()
        rest[i] = (side.total[i] - value[kept].sum()) / outside if outside > 0 else 0.0
        data.append(value[kept] / side.n_of_token[token[kept]] - rest[i])
        indices.append(token[kept])
    ends = np.cumsum([0, *(len(part) for part in data)])
    parts = (np.concatenate([*data, []]), np.concatenate([*indices, []]).astype(np.int64), ends)
    return csr_array(parts, shape=(n_latents, vocab)), rest


def _chance(
    side: _Side, tables: csr_array, known: Bool[np.ndarray, " n_latents"], seed: int
) -> Float[np.ndarray, " draws"]:
    """Return medians with the explanations of the known latents dealt out anew, none to its own."""
    random = np.random.default_rng([seed, 1])
    places = np.flatnonzero(known)
    if len(places) < 2:
        return np.full(1, np.nan)
    found: list[float] = []
    for _ in range(N_CHANCES):
        of = np.arange(len(known))
        # A cycle through a random order: everyone has another's, and any other's.
        order = random.permutation(places)
        of[order] = np.roll(order, 1)
        scores = side.correlation(tables, of)[places]
        found.append(float(np.nanmedian(scores)) if np.isfinite(scores).any() else np.nan)
    return np.array(found)
