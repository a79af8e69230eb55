"""Labels: what supervised measures need to know of tokens, made of the text itself.

first letters   of tokens that are words or begin one; case and the space before put aside
kinds           of this token and of the one before: word, number, sign, space, other letters
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int64

from monosem.metrics.sample import Text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KINDS = ("word", "number", "sign", "space", "other")


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
    whole = np.array([[_kind(piece) for piece in row] for row in text.pieces], np.int64)
    before = np.concatenate([np.full((len(whole), 1), KINDS.index("space")), whole[:, :-1]], 1)
    spaced = np.array([[piece[:1].isspace() for piece in row] for row in text.pieces], np.int64)
    found = {"kind of token": whole, "kind of token before": before, "space in front": spaced}
    return {name: text.at(values) for name, values in found.items()}


def frequent(
    attributes: Mapping[str, Int64[np.ndarray, " tokens"]], fewest: int
) -> Bool[np.ndarray, " tokens"]:
    """Return which tokens are, in every attribute, of a class with at least `fewest` tokens."""
    each = [np.bincount(classes)[classes] >= fewest for classes in attributes.values()]
    return np.logical_and.reduce(each)


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
