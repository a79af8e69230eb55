"""Labels: what supervised measures need to know of tokens, made of the text itself.

first letters   of tokens that are words or begin one; case and the space before put aside
kinds           of this token and of the one before: word, number, sign, space, other letters, special
token; and whether it begins with a space. The rest of a character is of its kind.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int64

from monosem.metrics.sample import Text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KINDS = ("word", "number", "sign", "space", "other", "special")


def first_letters(
    text: Text,
) -> tuple[Bool[np.ndarray, " tokens"], dict[str, Bool[np.ndarray, " tokens"]]]:
    """Return which ordinary tokens are alphabetic, and for each letter which of them begin with it."""
    words = [piece.strip().lower() for piece in _ordinary(text)]
    alphabetic = np.array([bool(w) and all(c in LETTERS for c in w) for w in words], bool)
    first = np.array([w[:1] if a else "" for w, a in zip(words, alphabetic, strict=True)], str)
    return alphabetic, {letter: first == letter for letter in LETTERS}


def kinds(text: Text) -> dict[str, Int64[np.ndarray, " tokens"]]:
    """Return the kind of each ordinary token and of the token before it, as numbers of `KINDS`.

    And whether it begins with a space, as 0 or 1.
    """
    pairs = zip(text.pieces, text.ordinary, strict=True)
    whole = np.array([_row(pieces, ordinary) for pieces, ordinary in pairs], np.int64)
    before = np.concatenate([np.full((len(whole), 1), KINDS.index("special")), whole[:, :-1]], 1)
    spaced = np.array([[piece[:1].isspace() for piece in row] for row in text.pieces], np.int64)
    found = {"kind of token": whole, "kind of token before": before, "space in front": spaced}
    return {name: text.at(values) for name, values in found.items()}


def frequent(
    attributes: Mapping[str, Int64[np.ndarray, " tokens"]], fewest: int
) -> Bool[np.ndarray, " tokens"]:
    """Return the tokens that are, in every attribute, of a class with at least `fewest` of these tokens."""
    kept = np.ones(len(next(iter(attributes.values()))), bool)
    while True:
        each = [
            np.bincount(c[kept], minlength=int(c.max()) + 1)[c] >= fewest
            for c in attributes.values()
        ]
        fewer = kept & np.logical_and.reduce(each)
        if fewer.sum() == kept.sum():
            return kept
        kept = fewer


def _row(pieces: Sequence[str], ordinary: Bool[np.ndarray, " context"]) -> list[int]:
    found: list[int] = []
    for piece, chosen in zip(pieces, ordinary, strict=True):
        if piece:
            found.append(_kind(piece))
        else:  # the rest of a character, or a special token
            rest = bool(chosen) and bool(found)
            found.append(found[-1] if rest else KINDS.index("special"))
    return found


def _kind(piece: str) -> int:
    letters = piece.strip()
    if not letters:
        return KINDS.index("space")
    if letters.isdigit():
        return KINDS.index("number")
    if letters.isascii() and letters.replace("_", "a").isalpha():
        return KINDS.index("word")
    if not any(c.isalnum() for c in letters):
        return KINDS.index("sign")
    return KINDS.index("other")


def _ordinary(text: Text) -> list[str]:
    return [
        piece
        for row, chosen in zip(text.pieces, text.ordinary, strict=True)
        for piece, ordinary in zip(row, chosen, strict=True)
        if ordinary
    ]
