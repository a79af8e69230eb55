"""Sparse activations on disk: compressed sparse rows over the tokens that were looked at.

    contexts.bin   int64 [n_contexts]              contexts looked at, ascending
    offsets.bin    int64 [n_contexts · context + 1] entries of place p: offsets[p] to offsets[p + 1]
    latents.bin    uint16, or int32 for more than 65,536 latents [n_entries]
    values.bin     float16 [n_entries], always above zero

A place is a token among those looked at; a row (context · tokens a context + position) its address
in the token store. A token that is not ordinary has its place and no entries.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float16, Int32, Int64, UInt16

from monosem.core.errors import ArtifactCorruptError, ConfigError

FOLDER = "activations"
VALUE = np.dtype("<f2")
OFFSET = np.dtype("<i8")
OFFSETS_AT_ONCE = 2**20
SMALLEST, LARGEST = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)

LatentIds = UInt16[np.ndarray, " entries"] | Int32[np.ndarray, " entries"]


def latent_dtype(n_latents: int) -> np.dtype[Any]:
    """Return the narrowest of the two types that can number `n_latents` latents."""
    return np.dtype("<u2") if n_latents <= 1 << 16 else np.dtype("<i4")


@dataclass(frozen=True, eq=False)
class Block:
    """The entries of consecutive places, place after place."""

    counts: Int64[np.ndarray, " places"]
    """Entries of each place."""
    latents: LatentIds
    values: Float16[np.ndarray, " entries"]


class SparseWriter:
    """Appends blocks to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and open its files."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._files = {
            n: (folder / f"{n}.bin").open("wb") for n in ("offsets", "latents", "values")
        }
        self._write("offsets", np.zeros(1, OFFSET))
        self.n_entries = 0

    def append(self, block: Block) -> None:
        """Write the next places."""
        offsets = self.n_entries + np.cumsum(block.counts, dtype=OFFSET)
        self._write("offsets", offsets)
        self._write("latents", block.latents)
        self._write("values", block.values)
        self.n_entries += len(block.values)

    def extend(self, folder: Path) -> None:
        """Append what another writer left in `folder`, whose places follow."""
        offsets = mapped(folder / "offsets.bin", OFFSET)
        for start in range(1, len(offsets), OFFSETS_AT_ONCE):
            self._write("offsets", self.n_entries + offsets[start : start + OFFSETS_AT_ONCE])
        for name in ("latents", "values"):
            append_file(self._files[name], folder / f"{name}.bin")
        self.n_entries += int(offsets[-1])

    def close(self, contexts: Int64[np.ndarray, " n_contexts"]) -> None:
        """Write which contexts the places belong to, and close the files."""
        (self._folder / "contexts.bin").write_bytes(contexts.astype(OFFSET).tobytes())
        self.__exit__(None, None, None)

    def __enter__(self) -> "SparseWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, name: str, array: np.ndarray) -> None:
        file: BinaryIO = self._files[name]
        file.write(np.ascontiguousarray(array).data)


class SparseActivations:
    """The files of `SparseWriter`, memory-mapped."""

    def __init__(self, folder: Path, *, n_latents: int, context: int) -> None:
        """Open `folder`; `ArtifactCorruptError` if its files do not fit together."""
        self.n_latents, self.context = n_latents, context
        self.contexts = mapped(folder / "contexts.bin", OFFSET)
        self.offsets = mapped(folder / "offsets.bin", OFFSET)
        self.latents = mapped(folder / "latents.bin", latent_dtype(n_latents))
        self.values = mapped(folder / "values.bin", VALUE)
        n_places = len(self.contexts) * context
        if (
            len(self.offsets) != n_places + 1
            or len(self.latents) != len(self.values)
            or int(self.offsets[-1]) != len(self.values)
        ):
            raise ArtifactCorruptError(
                f"The activations in `{folder}` do not fit together: {len(self.offsets):,} offsets for "
                f"{n_places:,} tokens, {len(self.latents):,} latents, {len(self.values):,} values. "
                "Build the feature database again."
            )

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        arrays = (self.contexts, self.offsets, self.latents, self.values)
        return sum(a.nbytes for a in arrays)

    def place(self, row: int) -> int:
        """Return the place of a token, `ConfigError` if its context was not looked at."""
        context, position = divmod(row, self.context)
        found = int(np.searchsorted(self.contexts, context))
        if found == len(self.contexts) or self.contexts[found] != context:
            raise ConfigError(
                f"Row {row} is in context {context}, which this feature database did not look at. "
                "Ask for a row of one of its examples, or build it from more tokens."
            )
        return found * self.context + position

    def rows(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the addresses in the token store of `places`."""
        return self.contexts[places // self.context] * self.context + places % self.context

    def active(self, row: int) -> tuple[Int64[np.ndarray, " active"], Float[np.ndarray, " active"]]:
        """Return the latents that fired on one token, and their activations."""
        place = self.place(row)
        start, stop = self.offsets[place], self.offsets[place + 1]
        return self.latents[start:stop].astype(np.int64), self.values[start:stop].astype(np.float32)

    def of_latent(self, latent: int, row: int, n_rows: int) -> Float[np.ndarray, " n_rows"]:
        """Return the activations of one latent on `n_rows` tokens of one context, from `row` on."""
        place = self.place(row)
        offsets = np.asarray(self.offsets[place : place + n_rows + 1])
        inside = slice(int(offsets[0]), int(offsets[-1]))
        hits = np.flatnonzero(self.latents[inside] == latent)
        found = np.zeros(n_rows, np.float32)
        found[np.searchsorted(offsets[1:] - offsets[0], hits, side="right")] = self.values[inside][
            hits
        ]
        return found


def append_file(file: BinaryIO, path: Path) -> None:
    """Append the bytes of the file at `path` to `file`."""
    with path.open("rb") as source:
        shutil.copyfileobj(source, file, 2**20)


def mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a file of plain numbers as a read-only array; `ArtifactCorruptError` if it is not one."""
    if not path.is_file() or path.stat().st_size % dtype.itemsize:
        raise ArtifactCorruptError(
            f"`{path}` is missing or truncated. Build the feature database again."
        )
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
