"""The tables of `features.sqlite`, and how lists are packed into a row of it.

    features      one row a latent; lists lie in it as packed little-endian records
    vocabulary    text of every token that some feature promotes, suppresses or fires most on;
                  `key` is the text as a search sees it: trimmed and case-folded
    token_index   (token, latent): the token is among those the latent promotes, or under one of its
                  top examples
    labels        FTS5, rowid is the latent: one short label each
    explanations  FTS5: any number a latent, with who wrote it and its score

An example is 13 bytes: its text lies in the token store, the activations around it beside this file.
"""

import sqlite3

import numpy as np

from monosem.features.feature import Example, Kind
from monosem.rendering.feature import N_INTERVALS

SQLITE_NAME = "features.sqlite"
N_BINS = 50

TABLES = """
CREATE TABLE features (
    latent INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    n_fired INTEGER NOT NULL,
    density REAL NOT NULL,
    max_activation REAL NOT NULL,
    mean_activation REAL,
    variance REAL,
    skew REAL,
    kurtosis REAL,
    histogram BLOB NOT NULL,
    examples BLOB NOT NULL,
    top_logits BLOB NOT NULL,
    bottom_logits BLOB NOT NULL,
    neighbours BLOB NOT NULL,
    neurons BLOB NOT NULL
);
CREATE TABLE vocabulary (token INTEGER PRIMARY KEY, text TEXT NOT NULL, key TEXT NOT NULL);
CREATE TABLE token_index (
    token INTEGER NOT NULL, latent INTEGER NOT NULL, PRIMARY KEY (token, latent)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE labels USING fts5(text);
CREATE VIRTUAL TABLE explanations USING fts5(
    text, latent UNINDEXED, explainer UNINDEXED, score UNINDEXED
);
"""

INDICES = """
CREATE INDEX features_density ON features (density);
CREATE INDEX features_max ON features (max_activation);
CREATE INDEX vocabulary_key ON vocabulary (key);
"""

PAIR = np.dtype([("index", "<i4"), ("value", "<f4")])
EXAMPLE = np.dtype([("row", "<i8"), ("activation", "<f4"), ("slot", "i1")])
COUNT = np.dtype("<u4")

TOP, RANDOM = -1, -2
"""Slots of `EXAMPLE` for examples that are not of an interval; 0 to 10 are the intervals."""


def pairs(packed: bytes) -> list[tuple[int, float]]:
    """Return the (index, value) pairs of a packed list."""
    found = np.frombuffer(packed, PAIR)
    return list(zip(found["index"].tolist(), found["value"].tolist(), strict=True))


def examples(latent: int, packed: bytes) -> list[Example]:
    """Return the examples of a latent: the strongest, then by interval, then random ones."""
    found = np.frombuffer(packed, EXAMPLE)
    columns = (found[name].tolist() for name in ("row", "activation", "slot"))
    return [
        Example(
            latent=latent,
            row=row,
            activation=activation,
            kind=_kind(slot),
            interval=slot if 0 <= slot < N_INTERVALS else -1,
        )
        for row, activation, slot in zip(*columns, strict=True)
    ]


def search_key(text: str) -> str:
    """Return a token's text as a search sees it; a token of nothing but whitespace stays itself.

    >>> search_key(" The"), search_key("\\n ")
    ('the', '\\n ')
    """
    return text.strip().casefold() or text


def create(connection: sqlite3.Connection) -> None:
    """Make the empty tables, without indices: those come after the rows."""
    connection.executescript(TABLES)


def _kind(slot: int) -> Kind:
    if slot == TOP:
        return "top"
    return "random" if slot == RANDOM else "interval"
