"""Which tokens a store uses, and the text of a token that stands by itself, outside any document."""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from monosem.text.tokens import TokenStore

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece vocabularies write a leading space, which decoding one token alone drops."""

_FALLBACK = re.compile("<0x([0-9A-F]{2})>")
"""How they write a byte."""

CONTEXTS_AT_ONCE = 8192


def used_tokens(store: TokenStore) -> Int64[np.ndarray, " used"]:
    """Return every token that occurs in the store, in either split, ascending."""
    n_contexts = store.n_contexts("train") + store.n_contexts("heldout")
    counts = np.zeros(store.vocab_size, np.int64)
    for start in range(0, n_contexts, CONTEXTS_AT_ONCE):
        tokens = store.tokens(slice(start, start + CONTEXTS_AT_ONCE))
        counts += np.bincount(tokens.ravel(), minlength=len(counts))
    return np.flatnonzero(counts)


def tokens_at(store: TokenStore, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the token at each row."""
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), CONTEXTS_AT_ONCE):
        part = slice(start, start + CONTEXTS_AT_ONCE)
        contexts, positions = np.divmod(rows[part], store.context)
        found[part] = store.tokens(contexts)[np.arange(len(contexts)), positions]
    return found


def texts(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[int]) -> dict[int, str]:
    """Return the text of each token; of part of a character, its bytes, such as `<E2 82>`."""
    return {token: text_of(tokenizer, token) for token in tokens}


def text_of(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    """Return the text of one token."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if REPLACEMENT in text:
        return _bytes_of(name)
    if name.startswith(SPACE_MARK) and not text.startswith(" "):
        return f" {text}"
    return text


def _bytes_of(name: str) -> str:
    fallback = _FALLBACK.fullmatch(name)
    if fallback:
        return f"<{fallback[1]}>"
    alphabet = _byte_of_letter()
    if not all(letter in alphabet for letter in name):
        return name  # the vocabulary has a way of its own to write bytes
    return f"<{' '.join(f'{alphabet[letter]:02X}' for letter in name)}>"


@cache
def _byte_of_letter() -> Mapping[str, int]:
    """Return which byte each letter of byte-level vocabularies stands for (Radford et al. 2019).

    Printable bytes stand for themselves; the others, in order, are letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
