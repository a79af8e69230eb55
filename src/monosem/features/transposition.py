"""From entries ordered by token to entries ordered by latent, for corpora larger than memory.

Each block of tokens is sorted by latent when it comes (`stable_order`) and appended to two scratch
files; how many entries each latent has in each block goes to a third. A range of latents is then
one contiguous slice of every block, and a place computed from the counts puts each entry where it
belongs, without another sort:

    target(block b, latent l, i-th entry) = Σ_{l' < l} n[:, l'] + Σ_{b' < b} n[b', l] + i

So both passes read and write once, in order, and hold one block or one range in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Int64, Integer

from monosem.features.sparse import VALUE, append_file, mapped

COUNT = np.dtype("<u4")
PLACE = np.dtype("<u4")
START = np.dtype("<i8")
DIGIT = 16


@dataclass(frozen=True, eq=False)
class LatentMajor:
    """All entries of the latents `first` to `first + len(offsets) - 1`, each latent's in token order."""

    first: int
    offsets: Int64[np.ndarray, " latents_and_one"]
    places: Int64[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]

    @property
    def n_latents(self) -> int:
        """Number of latents in the range."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Int64[np.ndarray, " latents"]:
        """Entries of each latent."""
        return np.diff(self.offsets)

    def latents(self) -> Int64[np.ndarray, " entries"]:
        """Return the latent of each entry, counted from `first`."""
        return np.repeat(np.arange(self.n_latents), self.counts)


def stable_order(
    keys: Integer[np.ndarray, " entries"], n_keys: int
) -> Int64[np.ndarray, " entries"]:
    """Return the stable order of keys below `n_keys`: a radix sort, 16 bits at a time.

    numpy sorts 16-bit integers by counting them, several times faster than wider ones.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if n_keys <= 1 << DIGIT:
        return order
    high = (keys >> DIGIT).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]


class Transposition:
    """Scratch files of blocks sorted by latent, read back by ranges of latents."""

    def __init__(self, folder: Path, n_latents: int) -> None:
        """Make `folder` and open its files; whoever made it removes it."""
        folder.mkdir(parents=True)
        self._folder, self._n_latents = folder, n_latents
        names = ("starts", "counts", "places", "values")
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in names}
        self.n_fired: Int64[np.ndarray, " n_latents"] = np.zeros(n_latents, np.int64)

    def append(
        self,
        start: int,
        counts: Int64[np.ndarray, " n_latents"],
        places: Integer[np.ndarray, " entries"],
        values: Float16[np.ndarray, " entries"],
    ) -> None:
        """Append a block already sorted by latent; `places` count from place `start` on."""
        self.n_fired += counts
        for name, array, dtype in (
            ("starts", np.array([start]), START),
            ("counts", counts, COUNT),
            ("places", places, PLACE),
            ("values", values, VALUE),
        ):
            self._files[name].write(array.astype(dtype, copy=False).data)

    def extend(self, folder: Path) -> None:
        """Append what another transposition left in `folder`, whose places follow."""
        for counts in mapped(folder / "counts.bin", COUNT).reshape(-1, self._n_latents):
            self.n_fired += counts
        for name, file in self._files.items():
            append_file(file, folder / f"{name}.bin")

    def __enter__(self) -> "Transposition":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what was appended can be read then."""
        for file in self._files.values():
            file.close()

    def ranges(self, n_entries: int) -> Iterator[LatentMajor]:
        """Yield all latents in ranges of about `n_entries` (one latent's entries stay together)."""
        counts = self._mapped("counts", COUNT).reshape(-1, self._n_latents)
        # where each block begins in the files
        sums = [int(row.sum(dtype=np.int64)) for row in counts]
        begins = np.cumsum([0, *sums], dtype=np.int64)[:-1]
        first = 0
        while first < self._n_latents:
            within = np.cumsum(self.n_fired[first:])
            n = max(int(np.searchsorted(within, n_entries, side="right")), 1)
            yield self._range(counts, begins, first, first + n)
            begins = begins + counts[:, first : first + n].sum(axis=1, dtype=np.int64)
            first += n

    def _range(
        self,
        counts: np.ndarray,
        begins: Int64[np.ndarray, " blocks"],
        first: int,
        stop: int,
    ) -> LatentMajor:
        runs = counts[:, first:stop].astype(np.int64)
        n_entries = runs.sum(axis=1)
        slices = [slice(int(b), int(b + n)) for b, n in zip(begins, n_entries, strict=True)]
        return transposed(
            first,
            runs,
            self._mapped("starts", START),
            _gather(self._mapped("places", PLACE), slices),
            _gather(self._mapped("values", VALUE), slices),
        )

    def _mapped(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        return mapped(self._folder / f"{name}.bin", dtype)


def transposed(
    first: int,
    runs: Int64[np.ndarray, "blocks latents"],
    starts: Int64[np.ndarray, " blocks"],
    places: Integer[np.ndarray, " entries"],
    values: Float[np.ndarray, " entries"],
) -> LatentMajor:
    """Return the entries of several blocks, each sorted by latent, sorted by latent as a whole.

    `runs` is how many entries each latent has in each block; `places` count from each block's start.
    """
    per_latent = runs.sum(axis=0)
    offsets = np.concatenate([[0], np.cumsum(per_latent)]).astype(np.int64)
    targets = offsets[:-1] + np.cumsum(runs, axis=0) - runs  # of the first entry of each run
    sources = (np.cumsum(runs) - runs.ravel()).reshape(runs.shape)
    shift = np.repeat((targets - sources).ravel(), runs.ravel())
    target = shift + np.arange(len(shift))
    ordered_places = np.empty(len(target), np.int64)
    ordered_places[target] = np.repeat(starts, runs.sum(axis=1)) + places
    ordered_values = np.empty(len(target), np.float32)
    ordered_values[target] = values
    return LatentMajor(first, offsets, ordered_places, ordered_values)


def _gather(array: np.ndarray, slices: list[slice]) -> np.ndarray:
    return np.concatenate([array[s] for s in slices] or [array[:0]])
