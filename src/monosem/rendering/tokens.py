"""Tokens as HTML: highlighted by activation, each isolated, nothing of them able to act as markup.

A context is `<span class="ctx">`, each token a `<bdi>` in the order the model read it, with class
`h1`…`h16` for its step of the ramp and its activation in `data-a`. The document and the first
token's row stand once on the context, so that a page of a thousand examples stays small.
"""

import functools
from collections.abc import Sequence

from markupsafe import Markup, escape

from monosem.rendering.colour import level
from monosem.rendering.visible import printable, segments


def highlight(
    pieces: Sequence[str],
    activations: Sequence[float | int],
    *,
    maximum: float | int,
    focus: int | None = None,
    row_start: int | None = None,
    document: str = "",
) -> Markup:
    """Return the tokens as one line of HTML, coloured by activation on a scale up to `maximum`.

    The token at `focus` is set apart, so that a list of contexts can be aligned on it. Hovering
    shows token, activation, `row_start` + position, and `document`.
    """
    if len(pieces) != len(activations):
        raise ValueError(
            f"{len(pieces)} tokens but {len(activations)} activations; there must be one for each."
        )
    spans = [
        _token(piece, float(activation), maximum, index == focus)
        for index, (piece, activation) in enumerate(zip(pieces, activations, strict=True))
    ]
    if focus is None:
        inner = _joined(spans)
    else:
        inner = Markup(
            '<span class="l"><span>{}</span></span>{}<span class="r"><span>{}</span></span>'
        ).format(
            _joined(spans[:focus]),
            _joined(spans[focus : focus + 1]),
            _joined(spans[focus + 1 :]),
        )
    place = Markup(' data-row="{}"').format(row_start) if row_start is not None else Markup("")
    source = Markup(' data-doc="{}"').format(printable(document)) if document else Markup("")
    kind = "ctx kwic" if focus is not None else "ctx"
    return Markup('<span class="{}"{}{}>{}</span>').format(kind, place, source, inner)


def token(piece: str) -> Markup:
    """Return one token on its own, as in a list: leading and trailing spaces made visible."""
    if not piece:
        return Markup('<bdi class="tok"><i>∅</i></bdi>')
    return Markup('<bdi class="tok">{}</bdi>').format(_marked(piece, edges=True))


def _joined(parts: Sequence[Markup]) -> Markup:
    """The parts one after another; quicker than `Markup.join`, which would escape each once more."""
    return Markup("".join(parts))


def _token(piece: str, activation: float, maximum: float | int, focused: bool) -> Markup:
    step = level(activation, maximum)
    names = [f"h{step}"] if step else []
    if focused:
        names.append("f")
    if not piece and step:
        names.append("e")  # the stylesheet draws a mark: part of a character, or a special token
    kind = f' class="{" ".join(names)}"' if names else ""
    value = f' data-a="{activation:.4g}"' if step else ""
    return Markup(f"<bdi{kind}{value}>{_marked(piece)}</bdi>")


@functools.lru_cache(maxsize=1 << 15)  # a page shows few different tokens, many times over
def _marked(piece: str, *, edges: bool = False) -> Markup:
    return _joined(
        [
            Markup("<i>{}</i>").format(text) if glyph else escape(text)
            for text, glyph in segments(piece, edges=edges)
        ]
    )
