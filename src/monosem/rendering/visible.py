"""The visible form of a token: what a reader sees for whitespace, controls and hidden characters.

A token may hold anything: a NUL, a right-to-left override, half a surrogate pair, ten thousand
letters. `segments` turns it into harmless, printable text, telling letters from the glyphs that
stand for something else; `visible` is the same as one string. Nothing here escapes HTML.

    newline ↵ · tab ⇥ · other controls ␀ … ␡ · hidden or reordering characters ⟨U+202E⟩
    spaces  ␣ only where they matter: in a token of nothing but spaces, and in runs of two or more
"""

import unicodedata

LIMIT = 96
"""Characters of a token that are shown; the rest is counted."""

_JOINERS = {"\u200c", "\u200d"}
_DOTTED_CIRCLE = "\u25cc"


def segments(piece: str, *, edges: bool = False) -> list[tuple[str, bool]]:
    """Return `(text, is_glyph)` runs of the visible form; glyphs stand for what cannot be seen.

    With `edges`, a space at either end counts as one that matters (in lists of single tokens).
    """
    shown, rest = piece[:LIMIT], len(piece) - LIMIT
    out: list[tuple[str, bool]] = []
    if shown and unicodedata.category(shown[0]).startswith("M"):
        out.append((_DOTTED_CIRCLE, True))
    position = 0
    while position < len(shown):
        character = shown[position]
        run = 1
        if character == " ":
            while position + run < len(shown) and shown[position + run] == " ":
                run += 1
            matters = (
                run > 1
                or run == len(piece)
                or (edges and (position == 0 or position + run == len(piece)))
            )
            _append(out, _spaces(run) if matters else " ", matters)
        else:
            glyph = _glyph(character)
            _append(out, glyph or character, glyph is not None)
        position += run
    if rest > 0:
        _append(out, f"…⟨{rest:,} more characters⟩", True)
    return out


def visible(piece: str, *, edges: bool = False) -> str:
    """Return the visible form of `piece` as one printable string.

    >>> visible(" the"), visible(" the", edges=True), visible("  "), visible("a\\n\\tb")
    (' the', '␣the', '␣␣', 'a↵⇥b')
    """
    return "".join(text for text, _ in segments(piece, edges=edges))


def printable(text: str) -> str:
    """Return `text` with controls, hidden characters and lone surrogates replaced; spaces stay.

    For names, labels and prose that stand beside tokens.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_glyph(character) or character for character in text)


def _spaces(run: int) -> str:
    return "␣" * run if run <= 4 else f"␣×{run}"


def _glyph(character: str) -> str | None:
    code = ord(character)
    if character == "\n":
        return "↵"
    if character == "\t":
        return "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    if code < 0x7F:
        return None
    if code == 0x7F:
        return "␡"
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")
    if (hidden and character not in _JOINERS) or code & 0xFFFE == 0xFFFE:
        return f"⟨U+{code:04X}⟩"
    return None


def _append(out: list[tuple[str, bool]], text: str, is_glyph: bool) -> None:
    if out and out[-1][1] == is_glyph:
        out[-1] = (out[-1][0] + text, is_glyph)
    else:
        out.append((text, is_glyph))
