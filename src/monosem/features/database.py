"""Reads a feature database: `features.sqlite`, the sparse activations beside it, and its token store.

database = FeatureDatabase.open("runs/features")
database[17]                                   a Feature, which shows itself in a notebook
for example in database.examples(17, "top"):   where it fired most, one example a context
    database.window(example).pieces            the text around it, exactly as in its document
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.core import artifact
from monosem.core.config import Json
from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ConfigError,
    UnknownNameError,
    unknown_name,
)
from monosem.core.whereabouts import candidates
from monosem.dictionaries.baselines import Neurons
from monosem.features import schema
from monosem.features.feature import Example, Feature, Kind, Status, Unit, Window
from monosem.features.sparse import FOLDER, SparseActivations
from monosem.metrics.firing import Firing
from monosem.text.tokens import TokenStore

__all__ = ["KIND", "Example", "Feature", "FeatureDatabase", "Kind", "Status", "Window"]

KIND = "feature database"
SORTS = (
    "index",
    "density",
    "n_fired",
    "max_activation",
    "mean_activation",
    "variance",
    "skew",
    "kurtosis",
)
N_WINDOWS = 8
"""Examples that `database[index]` brings along."""

_COLUMNS = (
    "f.latent, status, n_fired, density, max_activation, mean_activation, variance, skew, kurtosis, "
    "histogram, top_logits, bottom_logits, neighbours, neurons"
)


class FeatureDatabase:
    """The evidence on every latent of one dictionary, or on every neuron of one site."""

    def __init__(self, found: artifact.Artifact, store: TokenStore) -> None:
        """Use `FeatureDatabase.open`."""
        self.path, self.hash = found.path, found.hash
        self.config: Json = found.config
        self.metrics: Json = found.summary
        self.provenance: Json = found.provenance
        self.store = store
        self.n_latents = int(found.config["n_latents"])
        self.site = str(found.config["site"])
        self.target = str(found.config["target"])
        self.dictionary_name = str(found.config["dictionary_name"])
        self.activations = SparseActivations(
            found.path / FOLDER, n_latents=self.n_latents, context=store.context
        )
        self._connection = _connect(found.path / schema.SQLITE_NAME)
        self._texts = {t: text for t, text in self._rows("SELECT token, text FROM vocabulary")}

    @classmethod
    def open(cls, path: Path | str, *, tokens: Path | str | None = None) -> "FeatureDatabase":
        """Open the database at `path`, and the token store it was built from.

        The store is looked for where it lay, from there and from the database; `tokens` says where
        it lies now. Another one than recorded is refused (`ConfigError`).
        """
        found = artifact.read(Path(path), KIND)
        return cls(found, _open_store(found, tokens))

    @property
    def unit(self) -> Unit:
        """What a row of it is called: a feature of a dictionary, or a neuron."""
        return "Neuron" if self.dictionary_name == Neurons.architecture else "Feature"

    @property
    def sites(self) -> str:
        """The site it reads, with the one it makes after an arrow where that is another."""
        return self.site if self.target == self.site else f"{self.site} → {self.target}"

    def __len__(self) -> int:
        return self.n_latents

    def __getitem__(self, index: int) -> Feature:
        """Return one feature together with its strongest examples and the text around them."""
        examples = self.examples(index, "top")[:N_WINDOWS]
        windows = tuple((example, self.window(example)) for example in examples)
        return self._features("WHERE f.latent = ?", [index], windows=windows)[0]

    def __repr__(self) -> str:
        return (
            f"<FeatureDatabase {self.dictionary_name}: {self.n_latents:,} latents at {self.sites}>"
        )

    def feature(self, index: int) -> Feature:
        """Return one feature, without examples."""
        self._check(index)
        return self._features("WHERE f.latent = ?", [index])[0]

    def examples(self, index: int, kind: Kind | None = None) -> list[Example]:
        """Return the examples of one feature: top ones, then by interval from 0 to 10, then random."""
        self._check(index)
        (packed,) = self._rows("SELECT examples FROM features WHERE latent = ?", [index])[0]
        found = schema.examples(index, packed)
        return [e for e in found if kind in (None, e.kind)]

    def window(self, example: Example, before: int = 12, after: int = 8) -> Window:
        """Return up to `before` and `after` tokens around an example, within its context."""
        context, position = divmod(example.row, self.store.context)
        start, stop = max(position - before, 0), min(position + after + 1, self.store.context)
        row_start = example.row - position + start
        activations = self.activations.of_latent(example.latent, row_start, stop - start)
        return Window(
            pieces=self.store.pieces(context, start, stop),
            activations=activations.tolist(),
            focus=position - start,
            row_start=row_start,
            document=self.store.document(example.row),
        )

    def list(
        self,
        sort: str = "density",
        *,
        descending: bool = True,
        status: Status | None = None,
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> "list[Feature]":
        """Return features in order; ties and undefined values by index.

        `search` keeps those that promote, or fire most on, a token that begins with it (case and
        surrounding spaces of the token put aside).
        """
        if sort not in SORTS:
            raise unknown_name("order of features", sort, SORTS)
        column = "f.latent" if sort == "index" else sort
        where, values = _conditions(status, search)
        direction = "DESC" if descending else "ASC"
        tail = f"{where} ORDER BY {column} {direction} NULLS LAST, f.latent LIMIT ? OFFSET ?"
        return self._features(tail, [*values, limit, offset])

    def count(self, *, status: Status | None = None, search: str = "") -> int:
        """Return how many features `list` would go through."""
        where, values = _conditions(status, search)
        return int(self._rows(f"SELECT COUNT(*) FROM features f {where}", values)[0][0])

    def firing(self) -> Firing:
        """Return how often each latent fired, as an evaluation counts it (`firing=` there)."""
        rows = self._rows("SELECT n_fired FROM features ORDER BY latent")
        return Firing(
            n_fired=torch.tensor([n for (n,) in rows], dtype=torch.int64),
            n_tokens={self.config["features"]["split"]: self.metrics["n_tokens"]},
            matmul=self.metrics["matmul"],
        )

    def close(self) -> None:
        """Close the SQLite file."""
        self._connection.close()

    def _check(self, index: int) -> None:
        if not 0 <= index < self.n_latents:
            raise UnknownNameError(
                f"There is no feature {index}; `{self.path}` has 0 to {self.n_latents - 1}."
            )

    def _features(
        self,
        tail: str,
        values: Sequence[Any],
        windows: tuple[tuple[Example, Window], ...] = (),
    ) -> "list[Feature]":
        query = (
            f"SELECT {_COLUMNS}, l.text AS label FROM features f "
            f"LEFT JOIN labels l ON l.rowid = f.latent {tail}"
        )
        return [self._feature(row, windows) for row in self._rows(query, values)]

    def _feature(self, row: sqlite3.Row, windows: tuple[tuple[Example, Window], ...]) -> Feature:
        counts = np.frombuffer(row["histogram"], schema.COUNT).astype(np.int64)
        moments = {
            name: float("nan") if row[name] is None else row[name]
            for name in ("mean_activation", "variance", "skew", "kurtosis")
        }
        return Feature(
            index=row["latent"],
            unit=self.unit,
            status=row["status"],
            label=row["label"] or "",
            density=row["density"],
            n_fired=row["n_fired"],
            max_activation=row["max_activation"],
            **moments,
            histogram=counts,
            histogram_edges=np.linspace(0.0, row["max_activation"], len(counts) + 1),
            top_logits=self._logits(row["top_logits"]),
            bottom_logits=self._logits(row["bottom_logits"]),
            neighbours=schema.pairs(row["neighbours"]),
            neurons=schema.pairs(row["neurons"]),
            windows=windows,
        )

    def _logits(self, packed: bytes) -> "list[tuple[int, str, float]]":
        return [(token, self._texts[token], effect) for token, effect in schema.pairs(packed)]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> "list[sqlite3.Row]":
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise ArtifactCorruptError(
                f"`{self.path / schema.SQLITE_NAME}` cannot be read ({error}). Build it again."
            ) from error


def _conditions(status: Status | None, search: str) -> tuple[str, list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    if status is not None:
        conditions.append("status = ?")
        values.append(status)
    if search:
        low = schema.search_key(search)
        conditions.append(
            "f.latent IN (SELECT latent FROM token_index JOIN vocabulary USING (token) "
            "WHERE key >= ? AND key < ?)"
        )
        values += [low, low + "\U0010ffff"]
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _connect(path: Path) -> sqlite3.Connection:
    # Immutable: nobody writes to a finished artifact, so no lock is needed on any file system.
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise ArtifactCorruptError(
            f"`{path}` cannot be opened ({error}). Build it again."
        ) from error
    connection.row_factory = sqlite3.Row
    return connection


def _open_store(found: artifact.Artifact, tokens: Path | str | None) -> TokenStore:
    built_from = str(found.config["tokens"]["hash"])
    store = TokenStore.open(_store_path(found) if tokens is None else Path(tokens))
    if store.hash != built_from:
        raise ConfigError(
            f"The token store `{store.path}` has hash {store.hash}, but `{found.path}` was built from "
            f"{built_from}: its examples would show other text. Pass the folder of that store "
            "as `tokens`, or build the features again."
        )
    return store


def _store_path(found: artifact.Artifact) -> Path:
    places = candidates(found.summary.get("tokens_at", {}), found.path)
    for place in places:
        if place.is_dir():
            return place
    looked = " nor at ".join(f"`{p}`" for p in places)
    where = f"is not at {looked}" if places else "lies where it does not record"
    raise ArtifactMissingError(
        f"The token store of `{found.path}` {where}. Pass where it lies now as `tokens`."
    )
