"""How real features fire, in the words of the toy worlds; and which of a world's assumptions fail.

`measure` reads sparse activations and the directions they stand for, of a real dictionary or of a
world, alike. `fit` chooses the world that is nearest to what was measured; `compare` sets the two
side by side, assumption by assumption:

    frequencies   how often features fire: the distribution of log10 frequency
    burstiness    Var(l0) / Σ f (1 - f): 1 if features fire independently of one another; nothing is
                  said of it where a dictionary fixes l0, as TopK does
    hierarchy     share of features that fire (95 %) only where some more frequent one does
    magnitudes    the distribution of magnitude / its feature's median
    basis         largest |coordinate| of a direction, beside that of a random one: 1 if no basis is special
    crowding      largest cosine with another direction, beside that of random ones
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.sparse import csr_array
from scipy.stats import ks_2samp
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.toy.sparse_features import (
    HIGHEST,
    LAWS,
    Law,
    Magnitude,
    SparseFeatures,
    SparseFeaturesConfig,
)

LEAST = 20
"""Firings that a feature needs, to be looked at."""
MOST_PAIRS = 2048
"""Features whose pairs are looked at, the most frequent."""
PARENT = 0.95
"""Share of a child's firings at which its parent fires too."""
FIXED = 0.05
"""Burstiness under which l0 counts as fixed."""
FITTED_ROWS = 4096
"""Rows drawn to see how bursts grow with correlation."""
COMMON = 0.6
"""A parent fires in no larger share of the rows."""


@dataclass(frozen=True)
class Firings:
    """Which features fire in which rows, and how strongly: one entry a firing."""

    rows: Int[Tensor, " n_firings"]
    features: Int[Tensor, " n_firings"]
    values: Float[Tensor, " n_firings"]
    n_rows: int
    n_features: int

    @classmethod
    def of(cls, magnitudes: Float[Tensor, "n n_features"]) -> "Firings":
        """Return the firings of dense magnitudes."""
        rows, features = magnitudes.nonzero(as_tuple=True)
        return cls(rows, features, magnitudes[rows, features], *magnitudes.shape)

    @classmethod
    def drawn(cls, world: SparseFeatures, n_rows: int, seed: int) -> "Firings":
        """Return the firings of `world.sample(n_rows, seed)`, without holding what does not fire."""
        parts: list[Firings] = []
        for _, magnitudes in world.blocks(n_rows, seed):
            parts.append(cls.of(magnitudes))
        starts = np.cumsum([0, *(part.n_rows for part in parts)])
        rows = torch.cat([p.rows + int(s) for p, s in zip(parts, starts, strict=False)])
        features = torch.cat([part.features for part in parts])
        values = torch.cat([part.values for part in parts])
        return cls(rows, features, values, n_rows, world.config.n_features)


@dataclass(frozen=True)
class Statistics:
    """What is measured of firings and directions."""

    d: int
    n_features: int
    """Features that fire `LEAST` times or more."""
    l0: float
    """Features that fire in a row, in the mean."""
    frequencies: Float[np.ndarray, " n_features"]
    """Of those features, the most frequent first."""
    burstiness: float
    hierarchy: float
    magnitudes: Float[np.ndarray, " n_sampled"]
    """Magnitudes over their feature's median, a sample."""
    basis: float
    crowding: float


@dataclass(frozen=True)
class Assumption:
    """One assumption of a world, beside what is so."""

    name: str
    real: float
    """The measured statistic; for a distribution, its distance from the world's (Kolmogorov-Smirnov)."""
    world: float
    """The world's; for a distribution, the distance within which it passes."""
    holds: bool | None
    """None: not applicable."""


def measure(
    firings: Firings, directions: Float[Tensor, "n_features d"], seed: int = 0
) -> Statistics:
    """Return the statistics of `firings`, whose features point along `directions`."""
    counts = torch.bincount(firings.features, minlength=firings.n_features)
    order = counts.argsort(descending=True, stable=True)
    kept = order[counts[order] >= LEAST]
    if len(kept) < 2:
        raise ConfigError(
            f"{len(kept)} features fire {LEAST} times or more in {firings.n_rows} rows. Statistics "
            "need two of them at least: pass more rows."
        )
    new = torch.full((firings.n_features,), -1)
    new[kept] = torch.arange(len(kept))
    chosen = new[firings.features] >= 0
    rows, features = firings.rows[chosen], new[firings.features[chosen]]
    values = firings.values[chosen].double().numpy()
    frequencies = (counts[kept].double() / firings.n_rows).numpy()
    l0 = torch.bincount(rows, minlength=firings.n_rows).double()
    units = torch.nn.functional.normalize(directions[kept].detach().float(), dim=1)
    return Statistics(
        d=directions.shape[1],
        n_features=len(kept),
        l0=float(l0.mean()),
        frequencies=frequencies,
        burstiness=_burstiness(l0, frequencies),
        hierarchy=_hierarchy(rows, features, counts[kept], firings.n_rows),
        magnitudes=_normalised(values, features.numpy(), seed),
        basis=_basis(units, seed),
        crowding=_crowding(units, seed),
    )


def fit(statistics: Statistics, seed: int = 0) -> SparseFeaturesConfig:
    """Return the world nearest to `statistics`: its law of frequencies, of magnitudes, its bursts."""
    power, decay = _law(statistics.frequencies)
    l0 = min(statistics.l0, 0.9 * HIGHEST * statistics.n_features)
    plain = SparseFeaturesConfig(
        d=statistics.d,
        n_features=statistics.n_features,
        l0=l0,
        power=power,
        decay=decay,
        n_groups=1,
        hierarchy=min(statistics.hierarchy, 0.9),
        magnitude=_magnitude(statistics.magnitudes),
        seed=seed,
    )
    low, high = 0.0, 0.95
    if math.isnan(statistics.burstiness):
        return replace(plain, correlation=0.0)
    # Bursts grow with correlation; eight halvings settle it to 0.004.
    for _ in range(8):
        middle = (low + high) / 2
        world = SparseFeatures(replace(plain, correlation=middle))
        drawn = Firings.drawn(world, FITTED_ROWS, seed)
        on = torch.bincount(drawn.rows, minlength=FITTED_ROWS).double()
        f = torch.bincount(drawn.features, minlength=drawn.n_features).double() / FITTED_ROWS
        bursts = float(on.var() / (f * (1 - f)).sum())
        low, high = (middle, high) if bursts < statistics.burstiness else (low, middle)
    return replace(plain, correlation=(low + high) / 2)


def compare(
    real: Statistics, world: Statistics, *, distance: float = 0.15, factor: float = 1.5
) -> list[Assumption]:
    """Return each assumption of `world` and whether `real` keeps to it.

    Distributions pass within a Kolmogorov-Smirnov `distance`; ratios within a `factor` either way, the
    share of children within 0.1.
    """
    apart = {
        "frequencies": _apart(np.log10(real.frequencies), np.log10(world.frequencies)),
        "magnitudes": _apart(real.magnitudes, world.magnitudes),
    }
    found = [Assumption(name, value, distance, value <= distance) for name, value in apart.items()]
    for name in ("burstiness", "basis", "crowding"):
        one, other = getattr(real, name), getattr(world, name)
        known = not (math.isnan(one) or math.isnan(other))
        holds = abs(math.log(one / other)) <= math.log(factor) if known else None
        found.append(Assumption(name, one, other, holds))
    near = abs(real.hierarchy - world.hierarchy) <= 0.1
    found.append(Assumption("hierarchy", real.hierarchy, world.hierarchy, near))
    return found


def failing(assumptions: Sequence[Assumption]) -> list[str]:
    """Return the names of those that do not hold."""
    return [a.name for a in assumptions if a.holds is False]


def _burstiness(l0: Float[Tensor, " n_rows"], frequencies: Float[np.ndarray, " n"]) -> float:
    """The ratio; NaN where l0 hardly varies, because then the dictionary decides it and not the data."""
    ratio = float(l0.var()) / float((frequencies * (1 - frequencies)).sum())
    return ratio if ratio > FIXED else math.nan


def _apart(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    return float(cast(Any, ks_2samp(one, other)).statistic)


def _law(frequencies: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Power and decay of log f = c - power * log(rank) + (rank - 1) * log(decay), neither negative."""
    rank = np.arange(1, len(frequencies) + 1, dtype=np.float64)
    design = np.stack([np.ones_like(rank), -np.ones_like(rank), -np.log(rank), 1 - rank], axis=1)
    solved, _ = nnls(design, np.log(frequencies))
    return float(solved[2]), float(math.exp(-solved[3]))


def _magnitude(values: Float[np.ndarray, " n"]) -> Magnitude:
    """The law, of all with their parameters at what the quantiles say, that is nearest."""
    low, spread = float(np.quantile(values, 0.02)), float(np.log(values).std())
    # Values are over their median: 1 = (w + 1) / 2 for the uniform law, w + log 2 for the exponential.
    parameters: dict[Law, dict[str, float]] = {
        "uniform": {"weakest": min(max(low / (2 - low), 0.0), 1.0) if low < 1 else 1.0},
        "exponential": {"weakest": max(low * math.log(2) / (1 - low), 0.0) if low < 0.99 else 60.0},
        "lognormal": {"spread": spread},
    }
    generator = torch.Generator().manual_seed(0)
    best, nearest = Magnitude(), math.inf
    for law in LAWS:
        magnitude = Magnitude(law=law, **parameters[law])
        drawn = magnitude.draw(20_000, 1, generator).flatten().double().numpy()
        apart = _apart(values, drawn / np.median(drawn))
        best, nearest = (magnitude, apart) if apart < nearest else (best, nearest)
    return best


def _normalised(
    values: Float[np.ndarray, " n"], features: Int[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " n_sampled"]:
    order = np.lexsort((values, features))
    values, features = values[order], features[order]
    counts = np.bincount(features)
    starts = np.cumsum(counts) - counts
    medians = values[starts + counts // 2]
    scaled = values / medians[features]
    drawn = np.random.default_rng(seed).permutation(len(scaled))[:50_000]
    return scaled[drawn]


def _hierarchy(rows: Tensor, features: Tensor, counts: Tensor, n_rows: int) -> float:
    n = min(len(counts), MOST_PAIRS)
    inside = (features < n).numpy()
    places = (features.numpy()[inside], rows.numpy()[inside])
    on = csr_array((np.ones(len(places[0]), dtype=np.float32), places), shape=(n, n_rows))
    both = (on @ on.T).toarray()
    often = counts[:n].double().numpy()
    # A feature that is on nearly always is nobody's parent: whatever fires, fires with it.
    may_be_parent = (often[None, :] > often[:, None]) & (often[None, :] <= COMMON * n_rows)
    return float(((both >= PARENT * often[:, None]) & may_be_parent).any(1).mean())


def _basis(units: Tensor, seed: int) -> float:
    return _beside(units, lambda rows: rows.abs().amax(1).mean(), seed)


def _crowding(units: Tensor, seed: int) -> float:
    def nearest(rows: Tensor) -> Tensor:
        cosines = rows @ rows.T
        return cosines.fill_diagonal_(-1).amax(1).mean()

    return _beside(units[:MOST_PAIRS], nearest, seed)


def _beside(units: Tensor, of: Callable[[Tensor], Tensor], seed: int) -> float:
    """What `of` says of `units`, in multiples of what it says of as many random directions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(units.shape, generator=generator)
    chance = torch.nn.functional.normalize(drawn, dim=1)
    return float(of(units)) / float(of(chance))
