"""Writes `features.sqlite` from arrays: one row a latent, then the search index."""

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monosem.features import schema
from monosem.features.tables import Evidence


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
    s, m = evidence.statistics, evidence.statistics.moments
    # SQLite stores a NaN as NULL
    columns = (s.n_fired, s.density, m.max_activation, m.mean, m.variance, m.skew, m.kurtosis)
    numbers = [column.tolist() for column in columns]
    histogram = m.histogram.astype(schema.COUNT)
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
