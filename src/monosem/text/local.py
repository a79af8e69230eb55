"""A corpus of local files: one file, or a folder with all readable files below it.

Documents are named from the file or folder that was given, not from where it lies, so that the
split is the same on every machine: `books/alice.txt/0003`, `stories.jsonl/000017`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monosem.core.artifact import file_entry
from monosem.core.errors import CorpusError
from monosem.text.document import Document
from monosem.text.readers import BY_NAME, READERS, check, read_texts, suffix_of


@dataclass(frozen=True)
class LocalCorpus:
    """The texts of `files`, which lie at or below `root`."""

    root: Path
    files: tuple[Path, ...]
    text_field: str

    @classmethod
    def open(cls, path: Path, text_field: str) -> "LocalCorpus":
        """Return the corpus at `path`, which exists; every file is checked at its beginning."""
        files = _files(path) if path.is_dir() else [_readable(path)]
        filled = tuple(f for f in files if f.stat().st_size)
        if not filled:
            raise CorpusError(
                f"`{path}` is empty: it holds no text. Name a file or folder with text."
            )
        for file in filled:
            check(file, text_field)
        return cls(path, filled, text_field)

    @property
    def name(self) -> str:
        """Return the name of the file or folder, without where it lies."""
        return self.root.resolve().name

    def documents(self) -> Iterator[Document]:
        """Yield the documents, files by name, and in each file's own order."""
        for file in self.files:
            name = self._name_of(file)
            for found in read_texts(file, self.text_field):
                yield Document(
                    name=name + found.suffix,
                    text=found.text,
                    source=self.name,
                    licence=found.licence,
                )

    def fingerprint(self) -> str:
        """Return a hash of every file's name and content."""
        lines = [f"{self._name_of(f)} {file_entry(f)['sha256']}" for f in self.files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def size(self) -> int:
        """Return the bytes of all files, compressed ones as they lie."""
        return sum(file.stat().st_size for file in self.files)

    def _name_of(self, file: Path) -> str:
        if file == self.root:
            return self.name
        return f"{self.name}/{file.relative_to(self.root).as_posix()}"


def _files(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and suffix_of(path) in READERS
        and suffix_of(path) not in BY_NAME
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise CorpusError(
            f"The folder `{folder}` holds no file that can be read as text. Readable: {_suffixes()}."
        )
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def _readable(path: Path) -> Path:
    if suffix_of(path) not in READERS:
        raise CorpusError(
            f"`{path}` has the suffix `{suffix_of(path)}`, which is not read. Readable: {_suffixes()}. "
            "Rename it if it is one of these, or convert it."
        )
    return path


def _suffixes() -> str:
    return ", ".join(READERS)
