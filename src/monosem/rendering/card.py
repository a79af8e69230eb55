"""The small panel an object shows of itself in a notebook (`_repr_html_`), light or dark.

A notebook's theme is its own affair and does not follow the system's, so a card takes every colour
from the text around it, and one translucent accent that reads on black and on white.
"""

from collections.abc import Sequence

from markupsafe import Markup

from monosem.rendering.style import NOTEBOOK
from monosem.rendering.visible import printable


def card(title: str, rows: Sequence[tuple[str, str]], svg: Markup | None = None) -> Markup:
    """Return a titled list of names and values, with a drawing or other `Markup` below.

    A value that is `Markup` stays as it is; any other text is escaped.
    """
    items = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(
            printable(name), value if isinstance(value, Markup) else printable(value)
        )
        for name, value in rows
    )
    return Markup(
        '<div class="monosem"><style>{}</style><div class="title">{}</div><dl>{}</dl>{}</div>'
    ).format(Markup(NOTEBOOK), printable(title), items, svg or Markup(""))
