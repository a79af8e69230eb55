"""Interpolated Kneser–Ney n-gram models, the baselines a language model has to beat.

    P_n(w | h) = max(c(h w) - D, 0) / c(h) + D t(h) / c(h) · P_{n-1}(w | h without its first token)

`c(h)` is the sum of `c(h w)` over `w`, `t(h)` the number of `w` with `c(h w) > 0`, and
`D = n_1 / (n_1 + 2 n_2)` from the numbers of n-grams counted once and twice. At the highest order
`c` counts occurrences; below, `c(h w)` counts the different tokens seen before `h w`, so that
"Francisco" is not thought likely everywhere because "San Francisco" is frequent. A unigram
interpolates with the uniform distribution. A history never counted hands over to the next order.

Kneser & Ney 1995, "Improved backing-off for m-gram language modeling"; interpolated form and `D`:
Chen & Goodman 1999, "An empirical study of smoothing techniques", equations 25 and 24.

Each context stands alone. Its first token is only ever a history; before it stands a mark of the
beginning, so that the second token's trigram is (beginning, first, second) and needs no exception.

Tokens may come in blocks: only the different n-grams seen so far are kept, 16 bytes each and twice
that while a block is merged in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from monosem.core.errors import ConfigError, TokenizerMismatchError

HIGHEST_ORDER = 3
DISCOUNT_WITHOUT_SINGLES = 0.5


@dataclass(frozen=True)
class _Level:
    """Counts of one order: n-grams and histories as sorted keys."""

    grams: Int[np.ndarray, " grams"]
    counts: Int[np.ndarray, " grams"]
    histories: Int[np.ndarray, " histories"]
    totals: Int[np.ndarray, " histories"]
    types: Int[np.ndarray, " histories"]
    discount: float


class KneserNey:
    """An n-gram model of whole contexts of tokens."""

    def __init__(self, levels: list[_Level], vocab: int) -> None:
        """Hold the counts of the orders 1 to n; `KneserNey.fit` makes them."""
        self._levels, self._base = levels, vocab + 1  # one more, for the mark of the beginning
        self.vocab = vocab
        self.order = len(levels)

    @classmethod
    def fit(cls, tokens: Int[np.ndarray, "n context"], order: int, vocab: int) -> "KneserNey":
        """Return the model of `order` 1, 2 or 3 counted on `tokens`."""
        return cls.fit_blocks([tokens], order, vocab)

    @classmethod
    def fit_blocks(
        cls, blocks: Iterable[Int[np.ndarray, "n context"]], order: int, vocab: int
    ) -> "KneserNey":
        """Return the same model counted on contexts that come a block at a time."""
        if not 1 <= order <= HIGHEST_ORDER:
            raise ConfigError(
                f"`order` is {order}; n-gram models are made for 1 to {HIGHEST_ORDER}."
            )
        base = vocab + 1
        grams, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        for tokens in blocks:
            _check(tokens, vocab)
            more = np.unique(_keys(tokens, order, base), return_counts=True)
            grams, counts = _merged(grams, counts, *more)
        if len(grams) == 0:
            raise ConfigError("An n-gram model needs tokens to count; it was given none.")
        levels = [_level(grams, counts, base)]
        for below in range(order - 1, 0, -1):
            grams, counts = np.unique(grams % base**below, return_counts=True)
            levels.append(_level(grams, counts, base))
        return cls(levels[::-1], vocab)

    def nll(self, tokens: Int[np.ndarray, "n context"]) -> Float[np.ndarray, "n context-1"]:
        """Return -log P in nats of each token but the first of its context."""
        _check(tokens, self.vocab)
        keys = _keys(tokens, self.order, self._base)
        distinct, where = np.unique(keys, return_inverse=True)
        nll = -np.log(self._probability(distinct))
        return nll[where].reshape(len(tokens), tokens.shape[1] - 1)

    def distribution(self, context: Int[np.ndarray, " pos"]) -> Float[np.ndarray, " vocab"]:
        """Return P of every token after the tokens of one `context`, its first included."""
        tokens = np.repeat(np.append(context, 0)[None].astype(np.int64), self.vocab, axis=0)
        tokens[:, -1] = np.arange(self.vocab)
        keys = _keys(tokens, self.order, self._base).reshape(self.vocab, -1)[:, -1]
        return self._probability(keys)

    def _probability(self, keys: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        probability = np.full(len(keys), 1 / self.vocab)
        for order, level in enumerate(self._levels, start=1):
            grams = keys % self._base**order
            seen = _lookup(level.grams, level.counts, grams)
            total = _lookup(level.histories, level.totals, grams // self._base)
            types = _lookup(level.histories, level.types, grams // self._base)
            kept = np.maximum(seen - level.discount, 0) + level.discount * types * probability
            probability = np.divide(kept, total, out=probability, where=total > 0)
        return probability


def _keys(tokens: Int[np.ndarray, "n context"], order: int, base: int) -> Int[np.ndarray, " grams"]:
    """Return the n-gram that ends at each position but the first, as one number in base `base`."""
    n, context = tokens.shape
    padded = np.full((n, context + 1), base - 1, dtype=np.int64)
    padded[:, 1:] = tokens
    keys = np.zeros((n, context - 1), dtype=np.int64)
    for back in range(order - 1, -1, -1):
        keys = keys * base + padded[:, 2 - back : context + 1 - back]
    return keys.reshape(-1)


def _merged(
    grams: Int[np.ndarray, " grams"],
    counts: Int[np.ndarray, " grams"],
    more: Int[np.ndarray, " more"],
    n_more: Int[np.ndarray, " more"],
) -> tuple[Int[np.ndarray, " all"], Int[np.ndarray, " all"]]:
    """Return the sorted n-grams of both with their counts; `counts` is changed in place."""
    place = np.searchsorted(grams, more)
    known = np.append(grams, -1)[place] == more
    counts[place[known]] += n_more[known]
    new = place[~known]
    return np.insert(grams, new, more[~known]), np.insert(counts, new, n_more[~known])


def _level(
    grams: Int[np.ndarray, " grams"], counts: Int[np.ndarray, " grams"], base: int
) -> _Level:
    histories, first = np.unique(grams // base, return_index=True)
    once, twice = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    return _Level(
        grams=grams,
        counts=counts,
        histories=histories,
        totals=np.add.reduceat(counts, first),
        types=np.diff(first, append=len(grams)),
        discount=once / (once + 2 * twice) if once else DISCOUNT_WITHOUT_SINGLES,
    )


def _lookup(
    keys: Int[np.ndarray, " known"], values: Int[np.ndarray, " known"], asked: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Return the value of each key asked for, 0 where it is not known."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)


def _check(tokens: Int[np.ndarray, "n context"], vocab: int) -> None:
    n, context = tokens.shape
    if n == 0 or context < 2:
        raise ConfigError(
            f"An n-gram model needs contexts of 2 tokens or more; it was given {n} of {context}."
        )
    if vocab >= 2**20:
        raise ConfigError(f"`vocab` is {vocab:,}; trigrams are counted for fewer than {2**20:,}.")
    if int(tokens.max()) >= vocab or int(tokens.min()) < 0:
        raise TokenizerMismatchError(
            f"Tokens from {int(tokens.min())} to {int(tokens.max())} do not fit a vocabulary of {vocab}."
        )
