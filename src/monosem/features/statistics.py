"""Moments and histograms of each latent's positive activations, exactly, in double precision.

    mean = E[a]   variance = E[(a - mean)^2]   skew = E[(a - mean)^3] / variance^1.5
    kurtosis = E[(a - mean)^4] / variance^2               over tokens where the latent fired
    bin(a) = min(floor(bins · a / max), bins - 1)

The values are those stored, that is rounded to float16; what a reader recomputes from the
activations beside the database is therefore the same to the last digits of a double.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int64

from monosem.features.schema import N_BINS
from monosem.features.transposition import LatentMajor


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of a range of latents; NaN where they are not defined."""

    max_activation: Float[np.ndarray, " latents"]
    mean: Float[np.ndarray, " latents"]
    variance: Float[np.ndarray, " latents"]
    skew: Float[np.ndarray, " latents"]
    kurtosis: Float[np.ndarray, " latents"]
    histogram: Int64[np.ndarray, "latents bins"]

    @classmethod
    def joined(cls, parts: "list[Moments]") -> "Moments":
        """Return consecutive ranges as one."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def moments(entries: LatentMajor) -> Moments:
    """Return the statistics of every latent in the range."""
    counts, latents = entries.counts, entries.latents()
    values = entries.values.astype(np.float64)
    largest = segments(np.maximum, values, entries.offsets)
    with np.errstate(invalid="ignore", divide="ignore"):  # a dead latent's 0 / 0 is its NaN
        mean = segments(np.add, values, entries.offsets) / counts
        centred = values - mean[latents]
        powers = centred * centred
        variance = segments(np.add, powers, entries.offsets) / counts
        third = segments(np.add, powers * centred, entries.offsets) / counts
        fourth = segments(np.add, powers * powers, entries.offsets) / counts
        skew, kurtosis = third / variance**1.5, fourth / variance**2
    return Moments(
        max_activation=largest,
        mean=mean,
        variance=variance,
        skew=skew,
        kurtosis=kurtosis,
        histogram=histogram(values, latents, largest, N_BINS),
    )


def bins(
    values: Float[np.ndarray, " entries"], largest: Float[np.ndarray, " entries"], n_bins: int
) -> Int64[np.ndarray, " entries"]:
    """Return which of `n_bins` even bins of [0, largest] each value falls into; the last is closed."""
    return np.minimum((values * n_bins / largest).astype(np.int64), n_bins - 1)


def histogram(
    values: Float[np.ndarray, " entries"],
    latents: Int64[np.ndarray, " entries"],
    largest: Float[np.ndarray, " latents"],
    n_bins: int,
) -> Int64[np.ndarray, "latents bins"]:
    """Return the counts of each latent's values in `n_bins` even bins of [0, its largest]."""
    found = latents * n_bins + bins(values, largest[latents], n_bins)
    counts = np.bincount(found, minlength=len(largest) * n_bins)
    return counts.reshape(len(largest), n_bins)


def segments(
    operation: np.ufunc,
    values: Float[np.ndarray, " entries"],
    offsets: Int64[np.ndarray, " segments_and_one"],
) -> Float[np.ndarray, " segments"]:
    """Return `operation` over each segment of `values`, 0 for an empty one."""
    found = np.zeros(len(offsets) - 1)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):  # reduceat gives an empty segment the value that follows it
        found[filled] = operation.reduceat(values, offsets[filled])
    return found
