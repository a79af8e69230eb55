"""Packs encoded documents into contexts on disk: two streams, train and heldout, then one store.

A context is BOS (where the tokenizer has one) and then the next `context - 1` tokens of its split's
stream; a separator stands after every document. What does not fill a last context is dropped, and
the stored text ends where the stored tokens end, so a token's piece always ends where the next
token of its document begins, or where its document's text ends.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monosem.core.errors import CorpusError
from monosem.text.document import SPLITS, Split
from monosem.text.encoding import Encoded
from monosem.text.tokenizer import TokenPolicy

TOKENS, STARTS, TEXT, DOCUMENTS = "tokens.npy", "starts.npy", "text.bin", "documents.parquet"
LONGEST_DOCUMENT = 2**32 - 1
COPY_BYTES = 2**24
_COLUMNS = ("name", "source", "licence", "corpus", "first_row", "text_start", "n_bytes")


class Packer:
    """One split's stream, written into `folder` as it grows."""

    def __init__(
        self, folder: Path, split: Split, context: int, policy: TokenPolicy, dtype: np.dtype[Any]
    ) -> None:
        """Open the stream's files in `folder`."""
        self._context, self._policy, self._dtype = context, policy, dtype
        self._files = {n: folder / f".{split}.{n}" for n in (TOKENS, STARTS, TEXT)}
        self._open: dict[str, BinaryIO] = {n: p.open("wb") for n, p in self._files.items()}
        self._ids = np.empty(0, dtype=np.int64)
        self._starts = np.empty(0, dtype=np.int64)
        self._n_source = 0  # tokens of the stream that were written, BOS not counted
        self._n_text = 0
        self._first: list[int] = []  # of each document: its first place in the stream
        self.documents: list[dict[str, Any]] = []
        self.n_contexts = 0

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens stored so far, BOS included."""
        return self.n_contexts * self._context

    def add(self, encoded: Encoded) -> None:
        """Append one document and its separator; write the contexts that are full."""
        if len(encoded.text) > LONGEST_DOCUMENT:
            raise CorpusError(f"`{encoded.document.name}` is longer than 4 GiB. Split it.")
        ids, starts = encoded.ids, encoded.starts
        if len(ids) == 0:
            return
        if self._policy.separator is not None:
            ids = np.append(ids, self._policy.separator)
            starts = np.append(starts, len(encoded.text))
        self._first.append(self._n_source + len(self._ids))
        self.documents.append(_row(encoded, self._n_text))
        self._open[TEXT].write(encoded.text)
        self._n_text += len(encoded.text)
        self._ids = np.concatenate([self._ids, ids])
        self._starts = np.concatenate([self._starts, starts])
        self._flush()

    def close(self) -> None:
        """Close the stream's files."""
        for file in self._open.values():
            file.close()

    def finish(self, limit: int) -> None:
        """End the stream; keep at most `limit` contexts and cut the text to what they show."""
        self.close()
        self.n_contexts = min(self.n_contexts, limit)
        n_kept = self.n_contexts * self._usable
        kept = [i for i, first in enumerate(self._first) if first < n_kept]
        self.documents = [self.documents[i] for i in kept]
        for row, i in zip(self.documents, kept, strict=True):
            row["first_row"] = self._row_of(self._first[i])
        n_stream = self._n_source + len(self._ids)
        end_of_last = [*self._first, n_stream][kept[-1] + 1] if kept else n_kept
        if n_kept < end_of_last:
            self.documents[-1]["n_bytes"] = self._start_at(n_kept)
        self._n_text = sum(row["n_bytes"] for row in self.documents)

    def append_to(self, target: dict[str, BinaryIO], first: int, text: int) -> int:
        """Copy the stream to `target`, after `first` contexts and `text` bytes; return its bytes."""
        sizes = {
            TOKENS: self.n_tokens * self._dtype.itemsize,
            STARTS: self.n_tokens * 4,
            TEXT: self._n_text,
        }
        for name, path in self._files.items():
            _copy(path, target[name], sizes[name])
            path.unlink()
        for row in self.documents:
            row["first_row"] += first * self._context
            row["text_start"] += text
        return self._n_text

    @property
    def _bos(self) -> int:
        return 0 if self._policy.bos is None else 1

    @property
    def _usable(self) -> int:
        return self._context - self._bos

    def _row_of(self, place: int) -> int:
        context, position = divmod(place, self._usable)
        return context * self._context + (position + self._bos if position else 0)

    def _start_at(self, place: int) -> int:
        if place >= self._n_source:
            return int(self._starts[place - self._n_source])
        row = self._row_of(place)
        return int(np.fromfile(self._files[STARTS], dtype=np.uint32, count=1, offset=row * 4)[0])

    def _flush(self) -> None:
        n = len(self._ids) // self._usable
        if n == 0:
            return
        used = n * self._usable
        ids, starts = (a[:used].reshape(n, -1) for a in (self._ids, self._starts))
        if self._policy.bos is not None:
            ids = np.concatenate([np.full((n, 1), self._policy.bos), ids], axis=1)
            starts = np.concatenate([starts[:, :1], starts], axis=1)
        self._open[TOKENS].write(ids.astype(self._dtype).tobytes())
        self._open[STARTS].write(starts.astype(np.uint32).tobytes())
        self._ids, self._starts = self._ids[used:], self._starts[used:]
        self._n_source += used
        self.n_contexts += n


def write_store(
    folder: Path, packers: dict[Split, Packer], context: int, dtype: np.dtype[Any]
) -> None:
    """Write the finished streams as one store into `folder`: train first, then heldout."""
    n_contexts = sum(p.n_contexts for p in packers.values())
    target: dict[str, BinaryIO] = {n: (folder / n).open("wb") for n in (TOKENS, STARTS, TEXT)}
    try:
        for name, kind in ((TOKENS, dtype), (STARTS, np.dtype(np.uint32))):
            _npy_header(target[name], kind, (n_contexts, context))
        first = text = 0
        for split in SPLITS:
            text += packers[split].append_to(target, first, text)
            first += packers[split].n_contexts
    finally:
        for file in target.values():
            file.close()
    rows = [row | {"split": split} for split in SPLITS for row in packers[split].documents]
    columns = {name: [row[name] for row in rows] for name in (*_COLUMNS, "split")}
    pq.write_table(pa.table(columns), folder / DOCUMENTS, compression="zstd")


def _row(encoded: Encoded, text_start: int) -> dict[str, Any]:
    document = encoded.document
    return {
        "name": document.name,
        "source": document.source,
        "licence": document.licence,
        "corpus": encoded.corpus,
        "first_row": 0,
        "text_start": text_start,
        "n_bytes": len(encoded.text),
    }


def _npy_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _copy(path: Path, target: BinaryIO, size: int) -> None:
    with path.open("rb") as source:
        while size > 0:
            block = source.read(min(COPY_BYTES, size))
            target.write(block)
            size -= len(block)
