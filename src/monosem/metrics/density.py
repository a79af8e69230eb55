"""Density: how often each latent fires, and how many never or hardly ever do.

    density        = n_fired / n_tokens                            of each latent
    dead           : n_fired = 0                                   never in the stated window
    ultralow       : n_fired > 0 and density < ultralow_below      disjoint from dead
    ultralow_below = max(1e-6, 10 / n_tokens)

Bricken et al. 2023, "Towards Monosemanticity", call latents under 1e-6 ultralow, over 100 million
tokens; in a shorter window fewer than ten firings measure nothing, hence the second term. A latent
fires where its value is not zero.

Their histogram of log10 densities has two modes, an ultralow one that means nothing and a higher one that
does. `bimodality` asks whether there are two here: a mixture of two Gaussians beside one.

    separation = √2 |μ₁ − μ₂| / √(σ₁² + σ₂²)     above 2: two modes that stand apart (Ashman et al. 1994)
    gain       = BIC of one − BIC of two         above 10: the data ask for two

The interval of the separation is of drawing the counted latents anew, two Gaussians fitted to each draw.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from sklearn.mixture import GaussianMixture

from monosem.metrics.measure import Measure, bootstrap, not_applicable

FREQUENT_ABOVE = 0.01
"""Density above which a latent counts as frequent; many of them mean a penalty too weak."""
DECADES = 8
BINS_A_DECADE = 4
FEWEST_LATENTS, FEWEST_FIRINGS = 100, 10
"""Latents, and firings of each, below which nothing is fitted: single firings make a mode of their own."""
MOST_OF_LIVING = 0.8
"""Share of the living latents that must have so many."""
APART, GAIN, SMALLEST_SHARE = 2.0, 10.0, 0.01
"""Separation, gain and share of the smaller mode from which there are two."""
N_FITS = 200
"""Draws of latents, each with a fit of its own, that the interval of the separation is made of."""


@dataclass(frozen=True, kw_only=True)
class DensityCounts:
    """How many latents are dead, ultralow and frequent in a window of `n_tokens`."""

    n_latents: int
    n_tokens: int
    n_dead: int
    n_ultralow: int
    n_frequent: int
    ultralow_below: float


@dataclass(frozen=True, kw_only=True)
class Bimodality:
    """Two Gaussians fitted to log10 densities, the lower one first."""

    means: tuple[float, float]
    deviations: tuple[float, float]
    shares: tuple[float, float]
    separation: Measure
    """Its chance is what the same fit finds in counts of one log-normal of the same mean and deviation."""
    gain: float
    """By how much the BIC of two is better than that of one."""

    @property
    def two(self) -> bool:
        """Whether there are two modes."""
        enough = min(self.shares) >= SMALLEST_SHARE and self.gain > GAIN
        return enough and (self.separation.value or 0.0) > APART


def ultralow_below(n_tokens: int) -> float:
    """Return the density under which a latent that fired is ultralow, for a window of `n_tokens`.

    >>> ultralow_below(2_000_000), ultralow_below(100_000_000)
    (5e-06, 1e-06)
    """
    return max(1e-6, 10 / n_tokens)


def density(
    n_fired: Int64[np.ndarray, " n_latents"], n_tokens: int
) -> Float[np.ndarray, " n_latents"]:
    """Return the share of tokens on which each latent fired."""
    return n_fired / n_tokens


def count(n_fired: Int64[np.ndarray, " n_latents"], n_tokens: int) -> DensityCounts:
    """Return the counts of a window of `n_tokens` on which the latents fired `n_fired` times."""
    threshold = ultralow_below(n_tokens)
    share = density(n_fired, n_tokens)
    return DensityCounts(
        n_latents=len(n_fired),
        n_tokens=n_tokens,
        n_dead=int((n_fired == 0).sum()),
        n_ultralow=int(((n_fired > 0) & (share < threshold)).sum()),
        n_frequent=int((share > FREQUENT_ABOVE).sum()),
        ultralow_below=threshold,
    )


def histogram(
    n_fired: Int64[np.ndarray, " n_latents"], n_tokens: int
) -> tuple[list[float], list[int]]:
    """Return edges of log10 density, from −8 to 0, and how many latents lie between them.

    Dead latents have no logarithm and are left out; rarer ones than 1e-8 fall into the first bin.
    """
    edges = np.linspace(-DECADES, 0, DECADES * BINS_A_DECADE + 1)
    alive = np.log10(density(n_fired[n_fired > 0], n_tokens)).clip(-DECADES, 0)
    counts, _ = np.histogram(alive, bins=edges)
    return edges.tolist(), counts.tolist()


def bimodality(
    n_fired: Int64[np.ndarray, " n_latents"], n_tokens: int, *, seed: int = 0
) -> Bimodality:
    """Return the two modes of the living latents' log10 densities."""
    living, counted = n_fired[n_fired > 0], n_fired[n_fired >= FEWEST_FIRINGS]
    nothing, reason = (math.nan, math.nan), ""
    if len(counted) < FEWEST_LATENTS:
        reason = f"{len(counted)} latents fire {FEWEST_FIRINGS} times or more, of at least {FEWEST_LATENTS}"
    elif len(counted) < MOST_OF_LIVING * len(living):
        reason = (
            f"{len(living) - len(counted)} of {len(living)} living latents fire fewer than "
            f"{FEWEST_FIRINGS} times in {n_tokens:,} tokens: too short a window for its lower mode"
        )
    if reason:
        void = not_applicable(reason, len(counted))
        return Bimodality(
            means=nothing, deviations=nothing, shares=nothing, separation=void, gain=math.nan
        )
    alive = np.log10(density(counted, n_tokens))
    if np.ptp(alive) == 0:
        void = not_applicable("all latents that are counted have one density", len(counted))
        return Bimodality(
            means=nothing, deviations=nothing, shares=nothing, separation=void, gain=math.nan
        )
    means, deviations, shares, gain = _two(alive, seed)
    one = _one_mode(alive, n_tokens, seed)
    return Bimodality(
        means=means,
        deviations=deviations,
        shares=shares,
        separation=bootstrap(
            lambda drawn: _separation_of(alive[drawn], (means, deviations, shares), seed),
            len(alive),
            seed=seed,
            n_draws=N_FITS,
            null=_separation(*_two(one, seed)[:2]) if len(one) > 1 else None,
        ),
        gain=gain,
    )


def _one_mode(alive: Float[np.ndarray, " n"], n_tokens: int, seed: int) -> Float[np.ndarray, " m"]:
    """Return log10 densities that are counted in as many tokens, of latents with one mode."""
    random = np.random.default_rng(seed)
    drawn = 10 ** random.normal(alive.mean(), max(float(alive.std()), 1e-9), len(alive))
    counts = random.poisson(np.minimum(drawn, 1.0) * n_tokens)
    return np.log10(counts[counts >= FEWEST_FIRINGS] / n_tokens)


Pair = tuple[float, float]


def _two(x: Float[np.ndarray, " n"], seed: int) -> tuple[Pair, Pair, Pair, float]:
    """Return means, deviations and shares of two Gaussians, and how much better than one they are."""
    column = x[:, None]
    two = GaussianMixture(2, n_init=3, random_state=seed).fit(column)
    one = GaussianMixture(1, random_state=seed).fit(column)
    centres = np.asarray(two.means_)[:, 0]
    order = np.argsort(centres)

    def pair(values: np.ndarray) -> Pair:
        low, high = values[order].tolist()
        return low, high

    deviations = np.sqrt(np.asarray(two.covariances_)[:, 0, 0])
    gain = float(one.bic(column) - two.bic(column))
    return pair(centres), pair(deviations), pair(np.asarray(two.weights_)), gain


def _separation_of(x: Float[np.ndarray, " n"], found: tuple[Pair, Pair, Pair], seed: int) -> float:
    """Return the separation of the better of two fits; of values that are all the same there is none.

    One begins with the modes that were `found` in all values, one anywhere: from anywhere alone, a small
    mode is lost in many draws, and from the modes alone, one that is better is never tried.
    """
    if np.ptp(x) == 0:
        return math.nan
    means, deviations, shares = (np.array(pair) for pair in found)
    fits = [GaussianMixture(2, random_state=seed).fit(x[:, None])]
    if deviations.min() > 0:
        precisions = (1 / deviations**2).reshape(2, 1, 1)
        begun = GaussianMixture(
            2,
            weights_init=shares / shares.sum(),
            means_init=means[:, None],
            precisions_init=precisions,
        )
        fits.append(begun.fit(x[:, None]))
    fitted = max(fits, key=lambda fit: fit.lower_bound_)
    low, high = np.asarray(fitted.means_)[:, 0].tolist()
    first, second = np.sqrt(np.asarray(fitted.covariances_)[:, 0, 0]).tolist()
    return _separation((low, high), (first, second))


def _separation(means: Pair, deviations: Pair) -> float:
    spread = math.hypot(*deviations)
    return math.sqrt(2) * abs(means[1] - means[0]) / spread if spread else math.nan
