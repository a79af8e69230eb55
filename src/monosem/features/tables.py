"""What the build finds out, as arrays over all latents, and packed for the rows of the database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Int64

from monosem.features import schema
from monosem.features.statistics import Moments
from monosem.metrics.density import density, ultralow_below


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """How often and how strongly each latent fired."""

    n_tokens: int
    """Ordinary tokens looked at."""
    n_fired: Int64[np.ndarray, " n_latents"]
    moments: Moments

    @property
    def density(self) -> Float[np.ndarray, " n_latents"]:
        """Share of the tokens on which each latent fired."""
        return density(self.n_fired, self.n_tokens)

    def statuses(self) -> list[str]:
        """Return dead, ultralow or alive for each latent, as `monosem.metrics.density` counts them."""
        low = self.density < ultralow_below(self.n_tokens)
        names = np.where(low, "ultralow", "alive")
        return np.where(self.n_fired == 0, "dead", names).tolist()


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """The best of something for each latent, the best first."""

    indices: Int[np.ndarray, "n_latents k"]
    values: Float[np.ndarray, "n_latents k"]
    """NaN where there are fewer than k."""

    @classmethod
    def none(cls, n_latents: int) -> "Ranked":
        """Return no entries for each latent."""
        return cls(indices=np.zeros((n_latents, 0), np.int64), values=np.zeros((n_latents, 0)))

    def packed(self) -> Iterator[bytes]:
        """Yield each latent's entries as `schema.pairs` reads them."""
        records = np.empty(self.indices.shape, schema.PAIR)
        records["index"], records["value"] = self.indices, self.values
        for row, kept in zip(records, ~np.isnan(self.values), strict=True):
            yield row[kept].tobytes()


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleTable:
    """All examples, latent after latent, each latent's in the order they are shown."""

    offsets: Int64[np.ndarray, " n_latents_and_one"]
    rows: Int64[np.ndarray, " n_examples"]
    activations: Float[np.ndarray, " n_examples"]
    slots: Int[np.ndarray, " n_examples"]

    @classmethod
    def joined(cls, parts: "Sequence[ExampleTable]") -> "ExampleTable":
        """Return consecutive ranges of latents as one."""
        counts = np.concatenate([np.diff(p.offsets) for p in parts])
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows=np.concatenate([p.rows for p in parts]),
            activations=np.concatenate([p.activations for p in parts]),
            slots=np.concatenate([p.slots for p in parts]),
        )

    def at(self, rows: Int64[np.ndarray, " n_examples"]) -> "ExampleTable":
        """Return the same examples under other addresses."""
        return replace(self, rows=rows)

    def packed(self) -> Iterator[bytes]:
        """Yield each latent's examples as `schema.examples` reads them."""
        records = np.empty(len(self.rows), schema.EXAMPLE)
        records["row"], records["activation"] = self.rows, self.activations
        records["slot"] = self.slots
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield records[start:stop].tobytes()

    def latents(self) -> Int64[np.ndarray, " n_examples"]:
        """Return the latent of each example."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Everything `features.sqlite` says of the latents."""

    statistics: Statistics
    examples: ExampleTable
    example_tokens: Int64[np.ndarray, " n_examples"]
    """Token under each example."""
    top_logits: Ranked
    bottom_logits: Ranked
    neighbours: Ranked
    neurons: Ranked
