"""Density: how often each latent fires, and how many never or hardly ever do.

    density        = n_fired / n_tokens                            of each latent
    dead           : n_fired = 0                                   never in the stated window
    ultralow       : n_fired > 0 and density < ultralow_below      disjoint from dead
    ultralow_below = max(1e-6, 10 / n_tokens)

Bricken et al. 2023, "Towards Monosemanticity", call latents under 1e-6 ultralow, over 100 million
tokens; in a shorter window fewer than ten firings measure nothing, hence the second term. A latent
fires where its value is not zero.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

FREQUENT_ABOVE = 0.01
"""Density above which a latent counts as frequent; many of them mean a penalty too weak."""
DECADES = 8
BINS_A_DECADE = 4


@dataclass(frozen=True, kw_only=True)
class DensityCounts:
    """How many latents are dead, ultralow and frequent in a window of `n_tokens`."""

    n_latents: int
    n_tokens: int
    n_dead: int
    n_ultralow: int
    n_frequent: int
    ultralow_below: float


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
