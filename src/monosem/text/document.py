"""A document, a corpus of documents, and which split a document falls into.

The split hashes a document's *name*, never its content: SHA-256, so that it is the same in every
Python, on every machine, and in every order of reading. Names may carry a suffix after `#`
(`stdlib/json/decoder.py#docstrings`): documents that share what stands before the `#` are made of
the same text, so only that stem is hashed and they fall on the same side.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")
STEM_END = "#"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text with its name, where it came from, and the licence it came under."""

    name: str
    text: str
    source: str
    licence: str


@runtime_checkable
class Corpus(Protocol):
    """Documents in a stable order."""

    @property
    def name(self) -> str:
        """What the corpus is called in tables."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the same order each time."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the documents may have changed."""
        ...

    def size(self) -> int:
        """Return about how many bytes of text there are, for the progress bar; 0 if not known."""
        ...


def split_of(document_name: str, heldout_share: float) -> Split:
    """Return the split of a document: a hash of its name, up to the first `#`.

    >>> split_of("stdlib/json/decoder.py", 0.1) == split_of(
    ...     "stdlib/json/decoder.py#docstrings", 0.1
    ... )
    True
    >>> split_of("anything", 0.0), split_of("anything", 1.0)
    ('train', 'heldout')
    """
    stem = document_name.partition(STEM_END)[0]
    digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "heldout" if place < heldout_share else "train"
