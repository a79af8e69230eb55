"""Reads one local file as texts: plain text in parts, records one by one.

A long plain text (`PLAIN`: certificates and sequences are such) is read in parts of about 16,384
characters that end with a line, each a document of its own: a split that hashes names could not divide
a one-file corpus otherwise.
Characters stay as they are, line ends included.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import zstandard

from monosem.core.errors import CorpusError, suggestion

PART = 16_384
CHECKED_BYTES = 2**16
CSV_BLOCK_BYTES = 2**26
UNSTATED = "unstated"
PLAIN = (".txt", ".md", ".xml", ".pem", ".fasta")
"""Suffixes of files that are read as they stand."""
BY_NAME = (".xml", ".pem", ".fasta")
"""Those that are read where a file is named, and not where a folder is: it may hold keys, or layouts."""


@dataclass(frozen=True)
class Text:
    """One text of a file: what to add to the file's name, the text, its licence where one is given."""

    suffix: str
    text: str
    licence: str = UNSTATED


Reader = Callable[[Path, str], Iterator[Text]]


def read_texts(path: Path, text_field: str) -> Iterator[Text]:
    """Yield the texts of one file; its suffix must be one of `READERS`."""
    return READERS[suffix_of(path)](path, text_field)


def suffix_of(path: Path) -> str:
    """Return the suffix that decides how a file is read, `.jsonl.gz` as one.

    >>> suffix_of(Path("a.b/c.JSONL.gz")), suffix_of(Path("notes.v2.txt"))
    ('.jsonl.gz', '.txt')
    """
    last = path.suffix.lower()
    both = "".join(path.suffixes[-2:]).lower()
    return both if both in READERS else last


def check(path: Path, text_field: str) -> None:
    """Raise `CorpusError` if the file is binary, or its first record cannot be read."""
    if suffix_of(path) in (*PLAIN, ".py"):
        _check_plain(path)
    else:
        next(read_texts(path, text_field), None)


def _check_plain(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(CHECKED_BYTES)
    if b"\0" in head:
        raise CorpusError(
            f"`{path}` is binary: it holds NUL bytes. Name a text file in UTF-8, or leave it out."
        )
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < CHECKED_BYTES:
            raise _not_utf8(path, error) from error


def _parts(path: Path, text_field: str) -> Iterator[Text]:
    del text_field
    with path.open(encoding="utf-8", newline="") as file:
        part, number = _part(file, path), 0
        following = _part(file, path)
        if not following:
            yield Text("", part)
            return
        while part:
            yield Text(f"/{number:04d}", part)
            part, following, number = following, _part(file, path), number + 1


def _part(file: TextIO, path: Path) -> str:
    try:
        return file.read(PART) + file.readline(PART)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _whole(path: Path, text_field: str) -> Iterator[Text]:
    del text_field
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield Text("", file.read())
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _jsonl(path: Path, text_field: str) -> Iterator[Text]:
    number = -1
    with _opened(path) as file:
        while True:
            number += 1
            try:
                line = file.readline()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, error) from error
            except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
                raise CorpusError(
                    f"`{path}` cannot be decompressed after line {number:,} ({error}): it is damaged "
                    "or not what its suffix says. Fetch it again."
                ) from error
            if not line:
                return
            if line.strip():
                yield _record(path, number, line, text_field)


def _opened(path: Path) -> TextIOWrapper:
    match suffix_of(path):
        case ".jsonl.gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="\n")
        case ".jsonl.zst":
            return zstandard.open(path, "rt", encoding="utf-8", newline="\n")
        case _:
            return path.open(encoding="utf-8", newline="\n")


def _record(path: Path, number: int, line: str, text_field: str) -> Text:
    try:
        record: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"`{path}`, line {number + 1:,}, is not JSON ({error}). One JSON object a line is expected."
        ) from error
    if not isinstance(record, dict):
        raise CorpusError(
            f"`{path}`, line {number + 1:,}, holds a {type(record).__name__}, not a JSON object with a "
            f"field `{text_field}`."
        )
    fields = cast(dict[str, Any], record)
    text = checked_text(fields, text_field, f"`{path}`, line {number + 1:,},")
    licence = fields.get("licence", fields.get("license"))
    return Text(f"/{number:06d}", text, licence if isinstance(licence, str) else UNSTATED)


def checked_text(record: dict[str, Any], text_field: str, place: str) -> str:
    """Return the text of one record; raises `CorpusError` that lists the fields there are."""
    if text_field not in record:
        raise no_such_field(place, text_field, list(record))
    text = record[text_field]
    if not isinstance(text, str):
        raise CorpusError(
            f"{place} has a {type(text).__name__} in the field `{text_field}`, not a text. "
            f"Name the field that holds the text with `text_field`; there are: {_listed(list(record))}."
        )
    return text


def no_such_field(place: str, text_field: str, fields: list[str]) -> CorpusError:
    """Return (not raise) the error for a text field that is not there."""
    return CorpusError(
        f"{place} has no field `{text_field}`.{suggestion(text_field, fields)} "
        f"Name the one that holds the text with `text_field`; there are: {_listed(fields)}."
    )


def _parquet(path: Path, text_field: str) -> Iterator[Text]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_column(path, schema, text_field)
            yield from _rows(file.iter_batches(columns=[text_field], batch_size=4096))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"`{path}` is not a readable Parquet file ({error}).") from error


def _csv(path: Path, text_field: str) -> Iterator[Text]:
    try:
        with _csv_opened(path, pa_csv.ConvertOptions()) as reader:
            if text_field not in reader.schema.names:
                raise no_such_field(f"`{path}`", text_field, reader.schema.names)
        # Only this column, as text: a number far down another one is no error of the text.
        only = pa_csv.ConvertOptions(
            include_columns=[text_field], column_types={text_field: pa.string()}
        )
        with _csv_opened(path, only) as reader:
            yield from _rows(iter(reader))
    except pa.ArrowInvalid as error:
        raise CorpusError(f"`{path}` is not a readable CSV file in UTF-8 ({error}).") from error


def _csv_opened(path: Path, convert: pa_csv.ConvertOptions) -> pa_csv.CSVStreamingReader:
    return pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )


def _check_column(path: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise no_such_field(f"`{path}`", text_field, schema.names)
    kind = schema.field(text_field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise CorpusError(
            f"`{path}` has {kind} in the column `{text_field}`, not text. Name the column that holds "
            f"the text with `text_field`; there are: {_listed(schema.names)}."
        )


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Text]:
    number = 0
    for batch in batches:
        for text in batch.column(0).to_pylist():
            if text is not None:
                yield Text(f"/{number:06d}", text)
            number += 1


def _listed(fields: list[str]) -> str:
    return ", ".join(f"`{f}`" for f in fields) or "none"


def _not_utf8(path: Path, error: UnicodeDecodeError) -> CorpusError:
    return CorpusError(
        f"`{path}` is not text in UTF-8 ({error.reason} at byte {error.start:,}): it is binary, or in "
        "another encoding. Convert it to UTF-8, or leave it out."
    )


READERS: dict[str, Reader] = {
    **dict.fromkeys(PLAIN, _parts),
    ".py": _whole,
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".jsonl.zst": _jsonl,
    ".parquet": _parquet,
    ".csv": _csv,
}
