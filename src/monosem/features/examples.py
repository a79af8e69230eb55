"""Chooses each latent's examples: the strongest, some of every interval, and random ones.

    top        the strongest tokens of different contexts: the strongest of each context, in order
               of activation, ties by row, so that one page of a document is shown once
    interval   [0, max] cut into eleven even intervals; the tokens of each, in the order of the
               corpus, cut into as many even parts as examples are wanted, and one drawn of each part
    random     likewise of all the tokens on which the latent fired

Drawing one of each part spreads examples over the corpus, takes none twice, and is the same for a
seed whatever the size of the blocks. Intervals after Bricken et al. (2023), "Feature proxies".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64

from monosem.features import schema
from monosem.features.schema import N_BINS
from monosem.features.statistics import bins
from monosem.features.tables import ExampleTable
from monosem.features.transposition import LatentMajor, stable_order
from monosem.rendering.feature import N_INTERVALS


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """How many examples of each kind, from contexts of `context` tokens."""

    n_latents: int
    context: int
    n_top: int
    n_per_interval: int
    n_random: int
    seed: int

    def choose(self, entries: LatentMajor, largest: Float[np.ndarray, " latents"]) -> ExampleTable:
        """Return the examples of a range of latents, whose rows are still places."""
        latents = entries.latents()
        parts = [
            self._top(entries, latents, largest),
            self._intervals(entries, latents, largest),
            self._random(entries),
        ]
        chosen = np.concatenate([entries_of for entries_of, _ in parts])
        slots = np.concatenate([slots_of for _, slots_of in parts])
        order = np.argsort(latents[chosen], kind="stable")
        chosen = chosen[order]
        counts = np.bincount(latents[chosen], minlength=entries.n_latents)
        return ExampleTable(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows=entries.places[chosen],
            activations=entries.values[chosen],
            slots=slots[order],
        )

    def _top(
        self,
        entries: LatentMajor,
        latents: Int64[np.ndarray, " entries"],
        largest: Float[np.ndarray, " latents"],
    ) -> "Slotted":
        best = best_of_contexts(entries, latents, self.context)
        best = best[candidates(entries.values[best], latents[best], largest, self.n_top)]
        best = best[np.lexsort([best, -entries.values[best], latents[best]])]
        starts = np.searchsorted(latents[best], np.arange(entries.n_latents))
        rank = np.arange(len(best)) - starts[latents[best]]
        best = best[rank < self.n_top]
        return best, np.full(len(best), schema.TOP)

    def _intervals(
        self,
        entries: LatentMajor,
        latents: Int64[np.ndarray, " entries"],
        largest: Float[np.ndarray, " latents"],
    ) -> "Slotted":
        interval = bins(entries.values.astype(np.float64), largest[latents], N_INTERVALS)
        groups = latents * N_INTERVALS + interval
        n_groups = entries.n_latents * N_INTERVALS
        counts = np.bincount(groups, minlength=n_groups)
        draws = self._interval_draws[self._range(entries)].reshape(n_groups, -1)
        drawn = stable_order(groups, n_groups)[one_of_each_part(counts, draws)]
        return drawn, interval[drawn]

    def _random(self, entries: LatentMajor) -> "Slotted":
        drawn = one_of_each_part(entries.counts, self._random_draws[self._range(entries)])
        return drawn, np.full(len(drawn), schema.RANDOM)

    def _range(self, entries: LatentMajor) -> slice:
        return slice(entries.first, entries.first + entries.n_latents)

    @cached_property
    def _interval_draws(self) -> Float[np.ndarray, "n_latents intervals n_per_interval"]:
        # For all latents at once: what is drawn must not depend on how they are cut into ranges.
        shape = (self.n_latents, N_INTERVALS, self.n_per_interval)
        return np.random.default_rng([self.seed, 0]).random(shape)

    @cached_property
    def _random_draws(self) -> Float[np.ndarray, "n_latents n_random"]:
        shape = (self.n_latents, self.n_random)
        return np.random.default_rng([self.seed, 1]).random(shape)


Slotted = tuple[Int64[np.ndarray, " n_examples"], Int64[np.ndarray, " n_examples"]]
"""Entries that are examples, and the slot of each (`features/schema.py`)."""


def best_of_contexts(
    entries: LatentMajor, latents: Int64[np.ndarray, " entries"], context: int
) -> Int64[np.ndarray, " groups"]:
    """Return the strongest entry of each latent in each context, the first of equals."""
    if len(latents) == 0:
        return np.zeros(0, np.int64)
    contexts = entries.places // context
    begins = np.concatenate([[True], (np.diff(contexts) != 0) | (np.diff(latents) != 0)])
    starts = np.flatnonzero(begins)
    largest = np.maximum.reduceat(entries.values, starts)
    group = np.cumsum(begins) - 1
    hits = np.flatnonzero(entries.values == largest[group])
    first = np.concatenate([[True], np.diff(group[hits]) != 0])
    return hits[first]


def candidates(
    values: Float[np.ndarray, " entries"],
    latents: Int64[np.ndarray, " entries"],
    largest: Float[np.ndarray, " latents"],
    n: int,
) -> Bool[np.ndarray, " entries"]:
    """Return a mask that keeps at least the `n` largest of each latent, and few others.

    Sorting all of them would cost more than everything else here; whole histogram bins from the
    top, until they hold `n`, are enough.
    """
    place = bins(values.astype(np.float64), largest[latents], N_BINS)
    counts = np.bincount(latents * N_BINS + place, minlength=len(largest) * N_BINS)
    counts = counts.reshape(len(largest), N_BINS)
    from_above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # how many lie in this bin or above
    lowest = np.maximum((from_above >= n).sum(axis=1) - 1, 0)
    return place >= lowest[latents]


def one_of_each_part(
    counts: Int64[np.ndarray, " groups"], draws: Float[np.ndarray, "groups n"]
) -> Int64[np.ndarray, " drawn"]:
    """Return one member of each of `n` even parts of every group; all members of a smaller group.

    Groups lie one after the other, `counts` long; the result counts over all of them.
    """
    n = draws.shape[1]
    parts, sizes = np.arange(n), counts[:, None]
    begins, ends = parts * sizes // max(n, 1), (parts + 1) * sizes // max(n, 1)
    drawn = np.minimum(begins + (draws * (ends - begins)).astype(np.int64), ends - 1)
    drawn = np.where(sizes < n, parts, drawn)
    starts = (np.cumsum(counts) - counts)[:, None]
    return (starts + drawn)[parts < sizes]
