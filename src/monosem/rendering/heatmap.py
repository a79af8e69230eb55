"""A grid of coloured cells as inline SVG: two quiet axes, a legend, the values on hover.

Colours are given, one a cell: `shades` makes them from numbers, and a phase diagram has its own.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from monosem.rendering.colour import ramp
from monosem.rendering.visible import printable

WIDTH, HEIGHT = 480, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 30.0, 44.0
_MOST_TICKS = 8
STEPS = 64
"""Colours of a ramp."""
_RAMP = ramp("#f7f4ec", "#8f3d06", STEPS, first=0.0)
NOTHING = "#d9d9d6"
"""Colour of a cell without a value."""

Legend = Sequence[tuple[str, str]]


def shades(
    values: Sequence[Sequence[float | int]],
    *,
    low: float | int | None = None,
    high: float | int | None = None,
) -> list[list[str]]:
    """Return a colour for each value, from pale at `low` to dark at `high`; none for what is not finite.

    >>> shades([[0.0, 1.0, float("nan")]])
    [['#f7f4ec', '#8f3d06', '#d9d9d6']]
    """
    known = [v for row in values for v in row if math.isfinite(v)]
    start = low if low is not None else min(known, default=0.0)
    end = high if high is not None else max(known, default=1.0)
    span = end - start if end > start else 1.0

    def colour(value: float | int) -> str:
        if not math.isfinite(value):
            return NOTHING
        share = min(max((value - start) / span, 0.0), 1.0)
        return _RAMP[round(share * (STEPS - 1))]

    return [[colour(v) for v in row] for row in values]


def scale(low: float | int, high: float | int, form: str = "{:.2g}") -> list[tuple[str, str]]:
    """Return the legend of `shades`: five colours and what they stand for."""
    shares = [i / 4 for i in range(5)]
    return [(_RAMP[round(s * (STEPS - 1))], form.format(low + s * (high - low))) for s in shares]


def svg(
    colours: Sequence[Sequence[str]],
    said: Sequence[Sequence[str]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str],
    y_ticks: Sequence[str],
    legend: Legend = (),
) -> Markup:
    """Return the grid, its first row at the bottom; `said` is what a cell says on hover."""
    n_rows, n_columns = len(y_ticks), len(x_ticks)
    shape = {len(row) for row in [*colours, *said]}
    if len(colours) != n_rows or len(said) != n_rows or shape != {n_columns}:
        raise ValueError(
            f"{n_rows} and {n_columns} ticks need as many rows and columns, got {len(colours)} and "
            f"{len(said)} rows of {sorted(shape)}."
        )
    width = (WIDTH - _LEFT - _RIGHT) / n_columns
    height = (HEIGHT - _TOP - _BOTTOM) / n_rows
    cells = Markup("").join(
        _cell(_LEFT + c * width, HEIGHT - _BOTTOM - (r + 1) * height, width, height, fill, words)
        for r, (fills, texts) in enumerate(zip(colours, said, strict=True))
        for c, (fill, words) in enumerate(zip(fills, texts, strict=True))
    )
    return Markup(
        '<svg class="hist" viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="11" font-family="system-ui, sans-serif" shape-rendering="crispEdges">{}{}{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        printable(title),
        cells,
        _axis_x(x_ticks, width, x_label),
        _axis_y(y_ticks, height, y_label),
        _legend(legend),
    )


def _cell(x: float, y: float, width: float, height: float, fill: str, words: str) -> Markup:
    # Half a unit more on each side: no page shows between two cells.
    return Markup(
        '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" fill="{}"><title>{}</title></rect>'
    ).format(x, y, width + 0.5, height + 0.5, fill, printable(words))


def _axis_x(ticks: Sequence[str], width: float, label: str) -> Markup:
    every = max(1, math.ceil(len(ticks) / _MOST_TICKS))
    marks = Markup("").join(
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _LEFT + (c + 0.5) * width, HEIGHT - _BOTTOM + 15, printable(tick)
        )
        for c, tick in enumerate(ticks)
        if c % every == 0
    )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return marks + Markup(
        '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
    ).format(middle, HEIGHT - 8, printable(label))


def _axis_y(ticks: Sequence[str], height: float, label: str) -> Markup:
    every = max(1, math.ceil(len(ticks) / _MOST_TICKS))
    marks = Markup("").join(
        Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            _LEFT - 6, HEIGHT - _BOTTOM - (r + 0.5) * height + 4, printable(tick)
        )
        for r, tick in enumerate(ticks)
        if r % every == 0
    )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    turned = Markup(
        '<text class="label" x="12" y="{0}" text-anchor="middle" transform="rotate(-90 12 {0})">{1}</text>'
    ).format(middle, printable(label))
    return marks + turned


def _legend(legend: Legend) -> Markup:
    drawn, x = Markup(""), float(_LEFT)
    for colour, words in legend:
        drawn += Markup(
            '<rect x="{:.1f}" y="8" width="11" height="11" fill="{}"/>'
            '<text class="label" x="{:.1f}" y="17.5">{}</text>'
        ).format(x, colour, x + 16, printable(words))
        x += 30 + 5.8 * len(words)
    return drawn
