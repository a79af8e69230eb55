"""Generated text as a corpus: `generated`, `generated:pronouns,rolls`, `generated:my_genre.py`, `…@7`.

Document i of seed s is a function of (s, i) alone: twenty paragraphs, each of a genre drawn by
its share; of `generated-lines…` each paragraph is a document of its own. No test template is in
any document, of either split. A test name of indirect objects or pronouns stands in no sentence of
its genre, though elsewhere, or it would have no embedding: in `rolls`, in `lone_gifts` (sentences of
giving with no second name), in the other genre, in introductions.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from monosem.core.errors import CorpusError, unknown_name
from monosem.text.document import Document
from monosem.text.genres import (
    agreement,
    formats,
    indirect_objects,
    lists,
    lone_gifts,
    pronouns,
    repeats,
    rolls,
    tasks,
)
from monosem.text.genres.genre import Genre

NAME = "generated"
LINES = "generated-lines"
LICENCE = "MIT"
GENRES: tuple[Genre, ...] = (
    indirect_objects.GENRE,
    pronouns.GENRE,
    agreement.GENRE,
    repeats.GENRE,
    *repeats.BY_PREFIX,
    lists.GENRE,
    tasks.GENRE,
    rolls.GENRE,
    lone_gifts.GENRE,
    *formats.GENRES,
)
"""Every genre, in the order of tables; their shares are the mixture of `generated`."""
N_DOCUMENTS = 16_000
N_PARAGRAPHS = 20
"""Paragraphs a document: about 2,000 characters, so that the whole is about 30 MB."""


@dataclass(frozen=True)
class GeneratedCorpus:
    """Documents of some genres, by seed."""

    spec: str
    genres: tuple[Genre, ...]
    seed: int
    n_documents: int = N_DOCUMENTS
    n_paragraphs: int = N_PARAGRAPHS

    @classmethod
    def open(cls, spec: str) -> "GeneratedCorpus":
        """Return the corpus of `generated[-lines][:GENRE,…][@SEED]`; a GENRE may be a Python file."""
        what, _, seed = spec.partition("@")
        if seed and not seed.isdecimal():
            raise CorpusError(
                f"`{spec}` has the seed `{seed}`, which is no number. Write `{what}@1`."
            )
        called, _, wanted = what.partition(":")
        genres = genres_of(wanted.split(",")) if wanted else GENRES
        written = tuple(genre for genre in genres if genre.share > 0)
        if not written:
            raise CorpusError(
                f"None of the genres of `{spec}` writes text of its own (their shares are 0). "
                f"Name others, such as `{NAME}:induction`."
            )
        if called == LINES:
            return cls(spec, written, int(seed or 0), N_DOCUMENTS * N_PARAGRAPHS, 1)
        return cls(spec, written, int(seed or 0))

    @property
    def name(self) -> str:
        """Return the specification, which says all."""
        return self.spec

    def documents(self) -> Iterator[Document]:
        """Yield the documents in order."""
        for number in range(self.n_documents):
            name = f"{self._called}/{self.seed}/{number:06d}"
            yield Document(name=name, text=self.text(number), source=self.spec, licence=LICENCE)

    @property
    def _called(self) -> str:
        return LINES if self.n_paragraphs == 1 else NAME

    def text(self, number: int) -> str:
        """Return the text of document `number`."""
        random = Random(f"{self.seed} {number}")  # by SHA-512: the same in every Python
        shares = [genre.share for genre in self.genres]
        drawn = random.choices(self.genres, weights=shares, k=self.n_paragraphs)
        return "\n".join(genre.write(random) for genre in drawn) + "\n"

    def fingerprint(self) -> str:
        """Return a hash of the first documents, of some paragraphs of each genre, and of the shares."""
        random = Random(f"{self.seed}")
        each = (f"{g.name} {g.share} {g.write(random)}" for g in self.genres for _ in range(16))
        text = "\0".join([*(self.text(number) for number in range(16)), *each])
        return hashlib.sha256(f"{self.n_documents}\0{text}".encode()).hexdigest()[:16]

    def size(self) -> int:
        """Return about how many bytes there are, from the first paragraphs."""
        first = 16 * N_PARAGRAPHS // self.n_paragraphs
        return self.n_documents * sum(len(self.text(i)) for i in range(first)) // first


def genres_of(names: Sequence[str]) -> tuple[Genre, ...]:
    """Return genres by name, or the `GENRE` of a Python file; an unknown name lists the nearest."""
    known = {genre.name: genre for genre in GENRES}
    found: list[Genre] = []
    for name in names:
        if name.endswith(".py"):
            found.append(genre_in(Path(name)))
        elif name in known:
            found.append(known[name])
        else:
            raise unknown_name("genre", name, known)
    return tuple(found)


def genre_in(file: Path) -> Genre:
    """Return the `GENRE` that the Python file defines; the file is run."""
    if not file.is_file():
        raise CorpusError(f"There is no file `{file}`. Name a Python file that defines `GENRE`.")
    spec = importlib.util.spec_from_file_location(f"genre_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise CorpusError(f"`{file}` cannot be read as Python. Name a file that defines `GENRE`.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    genre = getattr(module, "GENRE", None)
    if not isinstance(genre, Genre):
        raise CorpusError(
            f"`{file}` defines no `GENRE`, or one that is no `Genre`. Write `GENRE = Genre(name=…, …)`, "
            "as the files of `monosem.text.genres` do."
        )
    return genre
