"""Texts to token ids, each with the byte offset in the text where its piece begins.

Pieces are cut so that they join to the source whatever the tokenizer does: a token's piece goes
from the furthest end of the tokens before it to its own end. So a character whose bytes are split
over tokens is shown whole at the first of them and the others are empty, and what a tokenizer
drops (trimmed spaces, say) is shown with the token that follows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from monosem.core.errors import CorpusError
from monosem.text.document import Document

BATCH_CHARACTERS = 2**20
BATCH_DOCUMENTS = 512
METASPACE = "▁"


@dataclass(frozen=True)
class Encoded:
    """One document's tokens; `starts` are byte offsets into its UTF-8 text."""

    document: Document
    corpus: int
    text: bytes
    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " tokens"]


def encode(core: Tokenizer, documents: Iterator[Document], corpus: int) -> Iterator[Encoded]:
    """Yield the documents of one corpus encoded, in order; inside, many at a time."""
    for batch in _batches(documents):
        texts = [utf8(document) for document in batch]
        encodings = core.encode_batch([d.text for d in batch], add_special_tokens=False)
        for document, data, encoding in zip(batch, texts, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            marked = len(ids) > 0 and core.id_to_token(int(ids[0])) == METASPACE
            places = piece_starts(encoding.offsets, len(document.text), marked)
            yield Encoded(document, corpus, data, ids, byte_offsets(document.text, data, places))


def utf8(document: Document) -> bytes:
    """Return the document's text in UTF-8; raises `CorpusError` for half a surrogate pair."""
    try:
        return document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The document `{document.name}` holds half a surrogate pair at character {error.start:,}, "
            "which is no text. Repair or remove that document."
        ) from error


def piece_starts(
    offsets: list[tuple[int, int]], n_characters: int, marked: bool
) -> Int[np.ndarray, " tokens"]:
    """Return the character at which each token's piece begins, from the tokenizer's own offsets.

    `marked`: the first token is a word mark, which the tokenizer may have put in by itself; then
    the character it claims belongs to the next token.
    """
    ends = np.fromiter((end for _, end in offsets), dtype=np.int64, count=len(offsets))
    starts = np.zeros(len(ends), dtype=np.int64)
    np.maximum.accumulate(ends[:-1], out=starts[1:])
    if marked and len(offsets) > 1 and offsets[0] == offsets[1]:
        starts[1] = 0
    return np.minimum(starts, n_characters)


def byte_offsets(
    text: str, data: bytes, characters: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Return where in the UTF-8 bytes `data` of `text` each character offset lies."""
    if len(text) == len(data):
        return characters
    raw = np.frombuffer(data, dtype=np.uint8)
    first_bytes = np.flatnonzero((raw & 0xC0) != 0x80)
    return np.append(first_bytes, len(data))[characters]


def _batches(documents: Iterator[Document]) -> Iterator[Sequence[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
