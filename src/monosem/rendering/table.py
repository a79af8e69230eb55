"""Tables: aligned text for a terminal, and HTML with what each column means."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from monosem.rendering.visible import printable

_NUMBER = re.compile(r"[-+−]?[\d,.]+(e[-+]?\d+)?\s?[%×]?|—|n/a|void")


def text(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as aligned lines; columns of numbers are flush right.

    >>> print(text(["name", "l0"], [["topk", "16.0"], ["neurons", "9.5"]]))
    name       l0
    ───────  ────
    topk     16.0
    neurons   9.5
    """
    cells = [[printable(c) for c in row] for row in [headers, *rows]]
    _check(headers, rows)
    widths = [max(_width(row[c]) for row in cells) for c in range(len(headers))]
    right = _numeric(headers, rows)
    lines = [_line(row, widths, right) for row in cells]
    lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(lines)


def html(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | Markup]],
    *,
    notes: Mapping[str, str] | None = None,
    caption: str = "",
) -> Markup:
    """Return the table as HTML; `notes[header]` explains a column on hover and in footnotes."""
    _check(headers, rows)
    notes = notes or {}
    right = _numeric(headers, rows)
    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_kind(r), _header(h, notes))
        for h, r in zip(headers, right, strict=True)
    )
    body = Markup("").join(Markup("<tr>{}</tr>").format(_row(row, right)) for row in rows)
    title = Markup("<caption>{}</caption>").format(printable(caption)) if caption else Markup("")
    footnotes = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(h, notes[h]) for h in headers if h in notes
    )
    below = Markup('<dl class="notes">{}</dl>').format(footnotes) if footnotes else Markup("")
    return Markup(
        '<div class="scroll"><table class="table">{}<thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>{}"
    ).format(title, head, body, below)


def _header(name: str, notes: Mapping[str, str]) -> Markup:
    if name in notes:
        return Markup('<abbr title="{}">{}</abbr>').format(printable(notes[name]), printable(name))
    return Markup("{}").format(printable(name))


def _row(row: Sequence[str | Markup], right: Sequence[bool]) -> Markup:
    cells = [
        Markup("<td{}>{}</td>").format(_kind(r), c if isinstance(c, Markup) else printable(c))
        for c, r in zip(row, right, strict=True)
    ]
    return Markup("").join(cells)


def _kind(right: bool) -> Markup:
    return Markup(' class="n"') if right else Markup("")


def _check(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"A row has {len(row)} cells, the header {len(headers)}: {row!r}.")


def _numeric(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    return [
        any(not isinstance(row[c], Markup) for row in rows)
        and all(isinstance(row[c], Markup) or _NUMBER.fullmatch(row[c]) for row in rows)
        for c in range(len(headers))
    ]


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        " " * (w - _width(c)) + c if r else c + " " * (w - _width(c))
        for c, w, r in zip(row, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _width(cell: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in cell
    )
