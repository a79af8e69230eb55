"""Specificity: what a unit fires on, measured against a proxy (`proxies.py`).

    specificity   share of the tokens it fires on where the proxy is above 0          (precision)
    expected      the same, each token counting by its activation: Σ a [proxy > 0] / Σ a
    sensitivity   share of the tokens where the proxy is above 0 that it fires on     (recall)
    correlation   Pearson coefficient of activation and max(proxy, 0) over all tokens: how far below 0 a
                  token lies says nothing, it is the floor's doing

and all of these by level of activation, which are the histograms of Bricken et al. 2023, "Towards
Monosemanticity": an Arabic feature fires on Arabic in 25 % of its weakest activations and 98 % of its
strong ones. Intervals draw contexts anew, because tokens of one are not independent. Chance: specificity
of a unit that fires anywhere is the share of such tokens, its sensitivity the share it fires on.

`best_unit` looks for the latent that correlates most on half of the contexts, and measures it on the
others; its chance is the same search with the proxy's contexts in another order, ten times. `ahead` says
by how much such a latent beats one of another basis (a neuron): contexts are drawn once for both, so that
what both owe to the same contexts falls out of the interval of the difference.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.metrics.measure import N_CHANCES, Measure, beside_chance, bootstrap, not_applicable
from monosem.metrics.sample import Sample, shape_of

N_LEVELS = 20
FEWEST = 20
"""Tokens where the proxy is above 0, and where the unit fires, below which nothing is said."""
NONE = -1
"""The number of the best unit where none could be chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Specificity:
    """How well one unit and one proxy agree."""

    specificity: Measure
    expected: Measure
    sensitivity: Measure
    correlation: Measure
    curves: "Curves"

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        names = ("specificity", "expected", "sensitivity", "correlation")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """The tokens a unit fires on, by level of activation: even bins of (0, its largest]."""

    edges: Float[np.ndarray, " levels_and_one"]
    n_tokens: Int64[np.ndarray, " levels"]
    n_true: Int64[np.ndarray, " levels"]
    """Those where the proxy is above 0."""
    activation: Float[np.ndarray, " levels"]
    """Sum of the activations: n_tokens, weighted by what they add (the "expected value")."""
    activation_true: Float[np.ndarray, " levels"]

    @property
    def specificity(self) -> Float[np.ndarray, " levels"]:
        """Return the share of each level where the proxy is above 0; NaN where a level is empty."""
        return np.where(self.n_tokens > 0, self.n_true / np.maximum(self.n_tokens, 1), np.nan)

    def sensitivity(self, n_proxy: int) -> Float[np.ndarray, " levels"]:
        """Return the share of `n_proxy` tokens of the proxy that fire at each level or above it."""
        return self.n_true[::-1].cumsum()[::-1] / n_proxy


def specificity(
    activations: Float[np.ndarray, " tokens"],
    proxy: Float[np.ndarray, " tokens"],
    context_of: Int64[np.ndarray, " tokens"],
    *,
    seed: int = 0,
) -> Specificity:
    """Return how a unit agrees with a proxy on the same tokens, of which contexts `context_of` says."""
    a, p = activations.astype(np.float64), np.maximum(proxy.astype(np.float64), 0.0)
    context_of = np.unique(context_of, return_inverse=True)[1]
    true, active = p > 0, a > 0
    both = (
        f"the proxy is above 0 on {int(true.sum())} tokens and the unit on {int(active.sum())}, of at "
        f"least {FEWEST} each"
    )
    if min(true.sum(), active.sum()) < FEWEST:
        void = not_applicable(both, len(a))
        measures = (void, void, void, void)
    else:
        sums = _sums(a, p, context_of)
        drawn = (
            _ratio(sums, 0, 1, seed, float(true.mean())),
            _ratio(sums, 3, 4, seed, float(true.mean())),
            _ratio(sums, 0, 2, seed, float(active.mean())),
            bootstrap(lambda i: _pearson(sums[i].sum(0)), len(sums), seed=seed),
        )
        measures = tuple(replace(measure, n=len(a)) for measure in drawn)
    names = ("specificity", "expected", "sensitivity", "correlation")
    return Specificity(**dict(zip(names, measures, strict=True)), curves=curves(a, true))


def curves(
    activations: Float[np.ndarray, " tokens"], true: np.ndarray, n_levels: int = N_LEVELS
) -> Curves:
    """Return the histograms of a unit's positive activations; `true` says where the proxy is above 0."""
    active = activations > 0
    a, t = activations[active].astype(np.float64), true[active]
    edges = np.linspace(0.0, float(a.max()) if len(a) else 1.0, n_levels + 1)
    level = np.minimum((a / edges[-1] * n_levels).astype(np.int64), n_levels - 1)
    return Curves(
        edges=edges,
        n_tokens=np.bincount(level, minlength=n_levels),
        n_true=np.bincount(level[t], minlength=n_levels),
        # Of no token at all numpy's counts are whole numbers, whatever the weights.
        activation=np.bincount(level, a, minlength=n_levels).astype(np.float64),
        activation_true=np.bincount(level[t], a[t], minlength=n_levels).astype(np.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class BestUnit:
    """The latent that follows a proxy most closely."""

    latent: int
    """`NONE` where there is none."""
    correlation: Measure
    """On contexts that had no part in choosing it; `null`: the same search at chance."""
    agreement: Specificity | None = None
    """All of it on those contexts; None where it is not applicable."""


def best_unit(sample: Sample, proxy: Float[np.ndarray, "n context"], *, seed: int = 0) -> BestUnit:
    """Return the latent of `sample` with the largest correlation with `proxy`, which is of its text."""
    text = sample.text
    if proxy.shape != text.tokens.shape:
        raise ShapeMismatchError(
            f"The proxy has shape {proxy.shape}, and the text {text.tokens.shape}. Make it of this text."
        )
    if len(text) < 4:
        raise ConfigError(f"{len(text)} contexts are too few to choose on half of them. Take more.")
    random = np.random.default_rng(seed)
    half = _half(len(text), random)
    p = np.maximum(text.at(proxy), 0.0)
    choosing = half[text.context_of]
    if min((p[choosing] > 0).sum(), (p[~choosing] > 0).sum()) < FEWEST:
        void = not_applicable(
            f"the proxy is above 0 on {int((p > 0).sum())} tokens, of at least {FEWEST} in each half",
            len(p),
        )
        return BestUnit(latent=NONE, correlation=void)
    latent = _strongest(sample.latents[choosing], p[choosing])
    null = _by_chance(sample, proxy, half, random)
    measured = specificity(
        sample.column(latent)[~choosing], p[~choosing], text.context_of[~choosing], seed=seed
    )
    kept = measured.correlation
    kept = beside_chance(kept, null) if kept.applicable else kept
    return BestUnit(latent=latent, correlation=kept, agreement=measured)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ahead:
    """By how much one unit is ahead of another; of units as good as each other it is 0."""

    correlation: Measure
    expected: Measure
    """The difference of the shares of activation that are on tokens of the proxy."""


def ahead(
    sample: Sample,
    unit: int,
    others: Sample,
    other: int,
    proxy: Float[np.ndarray, "n context"],
    *,
    seed: int = 0,
) -> Ahead:
    """Return by how much `unit` of `sample` is ahead of `other` of `others`, on contexts that chose neither.

    Both samples are of the same text, and both units are what `best_unit` chose with this `seed`: where it
    chose none (−1), nobody is ahead of anybody, and that is not applicable.
    """
    text = sample.text
    if not np.array_equal(text.tokens, others.text.tokens):
        raise ShapeMismatchError(
            f"{len(text)} contexts of one sample and {len(others.text)} of the other are not the same text. "
            "Draw both of the same contexts."
        )
    if NONE in (unit, other):
        void = not_applicable("no unit was chosen on the other half of the contexts", len(sample))
        return Ahead(correlation=void, expected=void)
    held = ~_half(len(text), np.random.default_rng(seed))[text.context_of]
    p = np.maximum(text.at(proxy).astype(np.float64), 0.0)[held]
    context_of = np.unique(text.context_of[held], return_inverse=True)[1]
    units = [sample.column(unit)[held], others.column(other)[held]]
    n_on = [int((column > 0).sum()) for column in (p, *units)]
    if min(n_on) < FEWEST:
        void = not_applicable(
            f"the proxy is above 0 on {n_on[0]} tokens, the units on {n_on[1]} and {n_on[2]}, of at "
            f"least {FEWEST} each",
            len(p),
        )
        return Ahead(correlation=void, expected=void)
    first, second = (_sums(column.astype(np.float64), p, context_of) for column in units)

    def difference(statistic: Callable[[np.ndarray], float]) -> Measure:
        found = bootstrap(
            lambda i: statistic(first[i].sum(0)) - statistic(second[i].sum(0)),
            len(first),
            seed=seed,
            null=0.0,
        )
        return replace(found, n=len(p))

    return Ahead(correlation=difference(_pearson), expected=difference(_expected))


def correlations(
    latents: csr_array, proxy: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, " n_latents"]:
    """Return the Pearson coefficient of each latent with `proxy`; NaN where one does not vary."""
    n = shape_of(latents)[0]
    centred = proxy.astype(np.float64) - proxy.mean()
    mean = np.asarray(latents.mean(0)).ravel()
    square = np.asarray(latents.multiply(latents).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    scale = deviation * centred.std() * n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (latents.T @ centred) / scale, np.nan)


def _strongest(latents: csr_array, proxy: Float[np.ndarray, " tokens"]) -> int:
    return int(np.nan_to_num(correlations(latents, proxy), nan=-np.inf).argmax())


def _by_chance(
    sample: Sample, proxy: np.ndarray, half: np.ndarray, random: np.random.Generator
) -> Float[np.ndarray, " chances"]:
    """Return what latents chosen for the proxy of other contexts correlate with it elsewhere, each time."""
    text = sample.text
    known = np.maximum(np.where(np.isfinite(proxy), proxy, 0.0), 0.0)
    choosing = half[text.context_of]
    mine, theirs = sample.latents[choosing], sample.latents[~choosing]
    found: list[float] = []
    for _ in range(N_CHANCES):
        p = text.at(known[random.permutation(len(text))])
        latent = _strongest(mine, p[choosing])
        found.append(float(np.nan_to_num(correlations(theirs[:, [latent]], p[~choosing])[0])))
    return np.array(found)


def _half(n: int, random: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """Return which of `n` contexts a unit is chosen on: half of them."""
    half = np.zeros(n, bool)
    half[random.permutation(n)[: n // 2]] = True
    return half


def _sums(
    a: Float[np.ndarray, " tokens"],
    p: Float[np.ndarray, " tokens"],
    context_of: Int64[np.ndarray, " tokens"],
) -> Float[np.ndarray, "contexts columns"]:
    """Return sums over the tokens of each context, of which every measure is a function."""
    true, active = p > 0, a > 0
    ones = np.ones(len(a))
    columns = (true & active, active, true, a * true, a * active, ones, a, p, a * a, p * p, a * p)
    n = int(context_of.max()) + 1 if len(context_of) else 0
    return np.stack([np.bincount(context_of, column, minlength=n) for column in columns], 1)


def _ratio(sums: np.ndarray, top: int, bottom: int, seed: int, null: float) -> Measure:
    def ratio(drawn: np.ndarray) -> float:
        below = float(sums[drawn, bottom].sum())
        return float(sums[drawn, top].sum()) / below if below else float("nan")

    return bootstrap(ratio, len(sums), seed=seed, null=null)


def _expected(sums: Float[np.ndarray, " columns"]) -> float:
    return float(sums[3] / sums[4]) if sums[4] else float("nan")


def _pearson(sums: Float[np.ndarray, " columns"]) -> float:
    n, a, p, aa, pp, ap = sums[5:]
    scale = np.sqrt(max(aa / n - (a / n) ** 2, 0.0) * max(pp / n - (p / n) ** 2, 0.0))
    return float((ap / n - a / n * p / n) / scale) if scale > 0 else float("nan")
