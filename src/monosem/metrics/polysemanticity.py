"""Polysemanticity: in how many kinds of context a unit fires, weak activations included.

    contexts     of `n_contexts` tokens on which it fires, as many from each tenth of (0, its largest],
                 each with the weight that makes them stand for all
    kinds        average linkage in a `ContextSpace`, until no two clusters are alike on average
    effective    exp(-Σ p log p), p: share of the unit's activation in each kind
    largest      the largest p; its interval is of the share of that kind, contexts drawn anew
    null         the same of as many tokens drawn from anywhere, with the same weights
    needed       latents of a dictionary, chosen one by one, until they explain `SHARE` of the variance
                 of the unit on contexts that had no part in choosing them (orthogonal matching pursuit)

The space is fixed before any unit is looked at, and knows no dictionary. `effective` grows with the number
of contexts that are looked at: compare units at the same number, and with the null. It has no interval for
one unit (contexts drawn anew would repeat themselves, and repeats are alike); over units it has. Nor is the
largest of each draw taken for `largest`: of many equal kinds one is always drawn too often.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array

from monosem.core.errors import ConfigError
from monosem.metrics.context_space import ContextSpace
from monosem.metrics.measure import Measure, grouped, median, not_applicable
from monosem.metrics.sample import Sample, shape_of

N_LEVELS = 10
N_CONTEXTS = 120
FEWEST = 40
"""Firings below which nothing is said of a unit."""
SHARE = 0.8
MOST_LATENTS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Polysemanticity:
    """The kinds of context of one unit."""

    effective: Measure
    largest: Measure
    rows: Int64[np.ndarray, " contexts"]
    """Which ordinary tokens of the text were looked at."""
    kinds: Int64[np.ndarray, " contexts"]
    """The kind of each, from 0, the heaviest first."""
    weights: Float[np.ndarray, " contexts"]
    """The share of the unit's activation that each stands for."""


def polysemanticity(
    activations: Float[np.ndarray, " tokens"],
    sample: Sample,
    space: ContextSpace,
    *,
    n_contexts: int = N_CONTEXTS,
    seed: int = 0,
) -> Polysemanticity:
    """Return the kinds of context in which a unit fires, from its activations on a sample's tokens."""
    fired = np.flatnonzero(activations > 0)
    none = np.zeros(0, np.int64)
    if len(fired) < FEWEST:
        void = not_applicable(f"it fires on {len(fired)} tokens, of at least {FEWEST}", len(fired))
        return Polysemanticity(
            effective=void, largest=void, rows=none, kinds=none, weights=np.zeros(0)
        )
    random = np.random.default_rng(seed)
    rows, weights = _spread(fired, activations[fired].astype(np.float64), n_contexts, random)
    kinds = _heaviest_first(clusters(space.embed(sample.text, rows), space.alike), weights)
    others = random.choice(len(activations), len(rows), replace=False)
    chance = clusters(space.embed(sample.text, others), space.alike)

    p, by_chance = shares(kinds, weights), shares(chance, weights)
    return Polysemanticity(
        effective=Measure(value=effective_number(p), null=effective_number(by_chance), n=len(rows)),
        largest=grouped(
            lambda i: float(weights[i][kinds[i] == 0].sum() / weights[i].sum()),
            sample.text.context_of[rows],
            seed=seed,
            null=float(by_chance.max()),
        ),
        rows=rows,
        kinds=kinds,
        weights=weights,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Polysemanticity of several units; medians are over them."""

    units: Int64[np.ndarray, " units"]
    effective: Measure
    largest: Measure
    each: tuple[Polysemanticity, ...]

    def measures(self) -> dict[str, Measure]:
        """Return the medians by name."""
        return {"effective_contexts": self.effective, "largest_kind": self.largest}


def of_units(
    sample: Sample,
    space: ContextSpace,
    *,
    n_units: int = 100,
    n_contexts: int = N_CONTEXTS,
    seed: int = 0,
) -> Units:
    """Return the polysemanticity of units drawn at random among those that fire often enough."""
    known = np.flatnonzero(sample.n_fired() >= FEWEST)
    random = np.random.default_rng(seed)
    units = np.sort(random.choice(known, min(n_units, len(known)), replace=False))
    each = tuple(
        polysemanticity(sample.column(int(u)), sample, space, n_contexts=n_contexts, seed=seed)
        for u in units
    )

    def over(measures: list[Measure]) -> Measure:
        nulls = [m.null for m in measures if m.null is not None]
        values = np.array([m.value for m in measures if m.value is not None], np.float64)
        return median(values, seed=seed, null=float(np.median(nulls)) if nulls else None)

    return Units(
        units=units,
        effective=over([found.effective for found in each]),
        largest=over([found.largest for found in each]),
        each=each,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """The latents that explain a unit, the most telling first."""

    latents: Int64[np.ndarray, " chosen"]
    explained: Float[np.ndarray, " chosen"]
    """Share of the variance that the first 1, 2, … explain, on other contexts."""
    needed: Measure
    """How many explain `SHARE` of it."""


def account(
    unit: Float[np.ndarray, " tokens"],
    sample: Sample,
    *,
    share: float = SHARE,
    most: int = MOST_LATENTS,
    seed: int = 0,
) -> Account:
    """Return how many latents of `sample` account for a unit on the same tokens, by contexts apart."""
    if len(unit) != len(sample):
        raise ConfigError(
            f"The unit has {len(unit)} tokens, the sample {len(sample)}. Use the same ones."
        )
    order = np.random.default_rng(seed).permutation(len(sample.text))
    choosing = np.isin(sample.text.context_of, order[: len(order) // 2])
    y = unit.astype(np.float64)
    if not (y[choosing].var() > 0 and y[~choosing].var() > 0):
        void = not_applicable("the unit is the same on every token", len(y))
        return Account(latents=np.zeros(0, np.int64), explained=np.zeros(0), needed=void)
    chosen, explained = _pursued(sample.latents, y, choosing, most, share)
    reached = np.flatnonzero(explained >= share)
    if len(reached):
        needed = Measure(value=float(reached[0] + 1), n=len(y))
    else:
        best = float(explained.max()) if len(explained) else 0.0  # under 0: worse than the mean
        needed = not_applicable(
            f"{len(chosen)} latents explain {best:.2f} of it at most, under {share}", len(y)
        )
    return Account(latents=chosen, explained=explained, needed=needed)


def effective_number(p: Float[np.ndarray, " kinds"]) -> float:
    """Return exp of the entropy of shares: how many equal ones it would take.

    >>> round(effective_number(np.array([0.5, 0.5, 0.0])), 6)
    2.0
    """
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def clusters(points: Float[np.ndarray, "n d"], alike: float) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each of `points` (unit vectors): average linkage at the cosine `alike`."""
    if len(points) < 2:
        return np.zeros(len(points), np.int64)
    upper = np.triu_indices(len(points), 1)
    distances = np.maximum(1.0 - (points @ points.T)[upper], 0.0)
    found = fcluster(linkage(distances, "average"), 1.0 - alike, "distance")
    return np.asarray(found, np.int64) - 1


def shares(
    kinds: Int64[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " kinds"]:
    """Return the share of all weight that each kind has."""
    return np.bincount(kinds, weights) / weights.sum()


def _spread(
    fired: Int64[np.ndarray, " fired"],
    values: Float[np.ndarray, " fired"],
    n: int,
    random: np.random.Generator,
) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return up to `n` tokens from all levels of activation, and the activation each stands for."""
    level = np.minimum((values / values.max() * N_LEVELS).astype(int), N_LEVELS - 1)
    filled = np.unique(level)
    rows: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for own in filled:
        inside = np.flatnonzero(level == own)
        taken = random.choice(inside, min(len(inside), max(1, n // len(filled))), replace=False)
        rows.append(fired[taken])
        weights.append(values[taken] * (values[inside].sum() / values[taken].sum()))
    whole = np.concatenate(weights)
    return np.concatenate(rows), whole / whole.sum()


def _heaviest_first(
    kinds: Int64[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    rank = np.empty(kinds.max() + 1, np.int64)
    rank[np.argsort(-np.bincount(kinds, weights), kind="stable")] = np.arange(len(rank))
    return rank[kinds]


def _pursued(
    latents: csr_array,
    y: Float[np.ndarray, " tokens"],
    choosing: np.ndarray,
    most: int,
    share: float,
) -> tuple[Int64[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]:
    """Return latents chosen on some tokens, and what they explain on the others, until it is enough."""
    fit, test = latents[choosing], latents[~choosing].tocsc()
    by_latent = fit.tocsc()
    n = len(y[choosing])
    mean = np.asarray(fit.mean(0)).ravel()
    square = np.asarray(fit.multiply(fit).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    own, other = y[choosing], y[~choosing]
    left, chosen = own - own.mean(), []
    explained: list[float] = []
    for _ in range(min(most, shape_of(latents)[1])):
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.abs(fit.T @ left - mean * left.sum()) / (deviation * n)
        size[chosen] = -1.0
        best = int(np.nan_to_num(size, nan=-1.0, posinf=-1.0).argmax())
        if size[best] <= 1e-9:
            break
        chosen.append(best)
        columns = np.column_stack([np.ones(n), by_latent[:, chosen].toarray()])
        weights = np.linalg.lstsq(columns, own, rcond=None)[0]
        left = own - columns @ weights
        there = np.column_stack([np.ones(len(other)), test[:, chosen].toarray()])
        explained.append(float(1 - ((other - there @ weights) ** 2).mean() / other.var()))
        if explained[-1] >= share:
            break
    return np.array(chosen, np.int64), np.array(explained)
