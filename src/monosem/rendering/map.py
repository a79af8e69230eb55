"""Maps as inline SVG: dots of several sorts without axes, since only who is near whom says anything."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from monosem.rendering.lines import COLOURS, Number
from monosem.rendering.visible import printable

WIDTH, HEIGHT = 720, 540
_MARGIN, _TOP = 10.0, 30.0

Dot = tuple[Number, Number, str]
"""Where it lies, and what it says on hover."""


def svg(sorts: Mapping[str, Sequence[Dot]], *, title: str) -> Markup:
    """Return the drawing of `sorts`, later ones above earlier ones; one unit is as long across as up.

    Dots that are not finite are left out.
    """
    shown = {name: [d for d in dots if _finite(d)] for name, dots in sorts.items()}
    everyone = [dot for dots in shown.values() for dot in dots]
    if not everyone:
        raise ValueError("A map needs at least one finite dot.")
    frame = _Frame(everyone)
    radius = min(max(70 / math.sqrt(len(everyone)), 1.4), 4.0)
    drawn = Markup("").join(
        Markup('<g fill="{}" fill-opacity=".72">{}</g>').format(
            COLOURS[i % len(COLOURS)], Markup("").join(frame.dot(dot, radius) for dot in dots)
        )
        for i, dots in enumerate(shown.values())
    )
    return Markup(
        '<svg class="hist" viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="11" font-family="system-ui, sans-serif">{}{}</svg>'
    ).format(WIDTH, HEIGHT, printable(title), drawn, _legend(list(shown)))


class _Frame:
    """Where places of the map lie on the page."""

    def __init__(self, dots: Sequence[Dot]) -> None:
        xs, ys = [d[0] for d in dots], [d[1] for d in dots]
        wide, high = WIDTH - 2 * _MARGIN, HEIGHT - _TOP - _MARGIN
        across, up = max(xs) - min(xs), max(ys) - min(ys)
        self.scale = min(wide / across if across else math.inf, high / up if up else math.inf)
        self.scale = self.scale if math.isfinite(self.scale) else 1.0
        self.left = _MARGIN + (wide - across * self.scale) / 2 - min(xs) * self.scale
        self.base = HEIGHT - _MARGIN - (high - up * self.scale) / 2 + min(ys) * self.scale

    def dot(self, dot: Dot, radius: float) -> Markup:
        x, y, said = dot
        return Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>'
        ).format(self.left + x * self.scale, self.base - y * self.scale, radius, printable(said))


def _finite(dot: Dot) -> bool:
    return math.isfinite(dot[0]) and math.isfinite(dot[1])


def _legend(names: Sequence[str]) -> Markup:
    x, made = _MARGIN, Markup("")
    for i, name in enumerate(names):
        made += Markup(
            '<circle cx="{:.0f}" cy="12" r="4" fill="{}"/><text x="{:.0f}" y="16">{}</text>'
        ).format(x + 4, COLOURS[i % len(COLOURS)], x + 12, printable(name))
        x += 12 + 6.4 * len(name) + 18
    return made
