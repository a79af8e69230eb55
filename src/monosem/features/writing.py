"""Writes `features.sqlite` from arrays: one row a latent, then the search index."""

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from monosem.features import schema
from monosem.metrics.density import ultralow_below


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """How often and how strongly each latent fired."""

    n_tokens: int
    """Ordinary tokens looked at."""
    n_fired: Int64[np.ndarray, " n_latents"]
    max_activation: Float[np.ndarray, " n_latents"]
    mean: Float[np.ndarray, " n_latents"]
    variance: Float[np.ndarray, " n_latents"]
    skew: Float[np.ndarray, " n_latents"]
    kurtosis: Float[np.ndarray, " n_latents"]
    histogram: Int64[np.ndarray, "n_latents bins"]

    def statuses(self) -> list[str]:
        """Return dead, ultralow or alive for each latent, as `monosem.metrics.density` counts them."""
        low = self.n_fired / self.n_tokens < ultralow_below(self.n_tokens)
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


def write(folder: Path, evidence: Evidence, texts: Mapping[int, str]) -> None:
    """Write `features.sqlite` into `folder`; `texts` has every token that the evidence names."""
    connection = sqlite3.connect(folder / schema.SQLITE_NAME, isolation_level=None)
    try:
        # The folder appears whole or not at all, so a journal would protect nothing.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        schema.create(connection)
        connection.execute("BEGIN")
        connection.executemany(_insert("features", 15), _rows(evidence))
        vocabulary = [(t, text, schema.search_key(text)) for t, text in sorted(texts.items())]
        connection.executemany(_insert("vocabulary", 3), vocabulary)
        connection.executemany(_insert("token_index", 2), _token_index(evidence))
        connection.execute("COMMIT")
        connection.executescript(schema.INDICES)
    except sqlite3.OperationalError as error:
        raise _storage_error(error) from error
    finally:
        connection.close()


def named_tokens(evidence: Evidence) -> list[int]:
    """Return every token whose text the database needs, ascending."""
    found = [ranked.indices.ravel() for ranked in (evidence.top_logits, evidence.bottom_logits)]
    return np.unique(np.concatenate([*found, evidence.example_tokens])).tolist()


def _rows(evidence: Evidence) -> Iterator[tuple[Any, ...]]:
    s = evidence.statistics
    # SQLite stores a NaN as NULL
    numbers = [
        a.tolist()
        for a in (s.n_fired, s.n_fired / s.n_tokens, s.max_activation)
        + (s.mean, s.variance, s.skew, s.kurtosis)
    ]
    histogram = s.histogram.astype(schema.COUNT)
    return zip(
        range(len(s.n_fired)),
        s.statuses(),
        *numbers,
        (counts.tobytes() for counts in histogram),
        evidence.examples.packed(),
        evidence.top_logits.packed(),
        evidence.bottom_logits.packed(),
        evidence.neighbours.packed(),
        evidence.neurons.packed(),
        strict=True,
    )


def _token_index(evidence: Evidence) -> list[list[int]]:
    """Return (token, latent) pairs, each once, ascending: promoted tokens, and those under top examples."""
    top = evidence.examples.slots == schema.TOP
    promoted = evidence.top_logits.indices
    tokens = np.concatenate([promoted.ravel(), evidence.example_tokens[top]])
    latents = np.repeat(np.arange(len(promoted)), promoted.shape[1])
    latents = np.concatenate([latents, evidence.examples.latents()[top]])
    return np.unique(np.stack([tokens, latents], axis=1), axis=0).tolist()


def _insert(table: str, n_columns: int) -> str:
    return f"INSERT INTO {table} VALUES ({', '.join('?' * n_columns)})"


def _storage_error(error: sqlite3.OperationalError) -> OSError:
    """Return the full disk as the operating system would have said it, so that `writing` explains it."""
    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return OSError(errno.ENOSPC if full else errno.EIO, str(error))
