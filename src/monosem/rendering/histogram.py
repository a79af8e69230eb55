"""A histogram as inline SVG: bars, a quiet axis, marks at given places, values on hover.

Colours come from the page's stylesheet where there is one, else from the text around it, so that
the same drawing works in a report, a notebook and on paper, light or dark.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from monosem.rendering.visible import printable

WIDTH, HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 38

_Scale = Callable[[float], float]


def svg(
    counts: Sequence[float | int],
    edges: Sequence[float | int],
    *,
    title: str,
    log: bool,
    powers: bool = False,
    marks: Sequence[float | int] = (),
    unit: str = "",
) -> Markup:
    """Return the bars of `counts` between `edges`; `log` draws the counts on a logarithmic axis.

    `powers`: the edges are exponents of ten, and the axis says so. `marks` are dashed verticals.
    """
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges, got {len(edges)}.")
    values = [float(c) for c in counts]
    low, high = float(edges[0]), float(edges[-1])
    span = high - low if high > low else 1.0
    top = max([*values, 1.0])

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (math.log10(1 + value) / math.log10(1 + top)) if log else value / top
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    bars = Markup("").join(
        _bar(x(edges[i]), x(edges[i + 1]), y(value), _span(edges[i], edges[i + 1], powers), value)
        for i, value in enumerate(values)
        if value > 0
    )
    lines = Markup("").join(_mark(x(mark)) for mark in marks if low <= mark <= high)
    return Markup(
        '<svg class="hist" viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="11" font-family="system-ui, sans-serif">{}{}{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        printable(title),
        _y_axis(top, log, y),
        bars,
        lines,
        _x_axis(low, high, powers, x, unit or title),
    )


def _bar(left: float, right: float, top: float, span: str, value: float) -> Markup:
    width, height = max(right - left - 1.0, 0.6), max(HEIGHT - _BOTTOM - top, 0.0)
    # Numbers only: nothing here could need an escape.
    return Markup(
        f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"><title>{span}: {value:,.0f}</title></rect>'
    )


def _mark(x: float) -> Markup:
    return Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" {3}/>').format(
        x, _TOP, HEIGHT - _BOTTOM, Markup('stroke="currentColor" stroke-opacity=".25"')
    )


def _span(low: float, high: float, powers: bool) -> str:
    if powers:
        return f"{10.0**low:.2g} – {10.0**high:.2g}"
    return f"{low:.3g} – {high:.3g}"


def _x_axis(low: float, high: float, powers: bool, x: _Scale, label: str) -> Markup:
    ticks = _whole(low, high) if powers else nice(low, high, 6)
    base = HEIGHT - _BOTTOM
    marks = Markup("").join(
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            x(t), base + 14, _power(t) if powers else f"{t:g}"
        )
        for t in ticks
    )
    return Markup(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}" stroke="currentColor" '
        'stroke-opacity=".4"/>{}<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
    ).format(
        _LEFT,
        WIDTH - _RIGHT,
        base + 0.5,
        base + 0.5,
        marks,
        (_LEFT + WIDTH - _RIGHT) / 2,
        HEIGHT - 6,
        printable(label),
    )


def _y_axis(top: float, log: bool, y: _Scale) -> Markup:
    if log:
        ticks = [10.0**p for p in range(int(math.log10(top)) + 1)]
        ticks = ticks[:: max(1, len(ticks) // 3)]
    else:
        ticks = [t for t in nice(0.0, top, 3) if t > 0]
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" stroke="currentColor" '
            'stroke-opacity=".1"/><text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(_LEFT, WIDTH - _RIGHT, y(t), y(t), _LEFT - 6, y(t) + 4, short(t))
        for t in ticks
    )


def nice(low: float, high: float, about: int) -> list[float]:
    """Return about so many round numbers from `low` to `high`, for an axis."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _whole(low: float, high: float) -> list[float]:
    ticks = [float(p) for p in range(math.ceil(low), math.floor(high) + 1)]
    return ticks[:: max(1, math.ceil(len(ticks) / 8))]


def _power(exponent: float) -> str:
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def short(value: float) -> str:
    """Return the number with k, M or G for thousands, millions or milliards."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"
