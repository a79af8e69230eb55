"""Series of points as inline SVG: lines or dots, linear or logarithmic axes, a legend, values on hover."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from monosem.rendering.histogram import nice, short
from monosem.rendering.visible import printable

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 30.0, 44.0
COLOURS = ("#c2590c", "#2f75b0", "#4b8f3c", "#8d55a8", "#b08a00", "#6f6c66", "#c14d7b", "#2a9d96")
"""Of the series, in turn; readable on white and on black."""

Number = float | int
Point = tuple[Number, Number]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: what it says and how it runs."""

    label: str
    log: bool = False
    low: Number | None = None
    """Where it begins; None: at the smallest value."""
    high: Number | None = None
    """Where it ends; None: at the largest value."""
    marks: tuple[Number, ...] = ()
    """Values that are worth a dashed line."""


def svg(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x: Axis,
    y: Axis,
    dots: bool = False,
) -> Markup:
    """Return the drawing of `series`, each a line through its points, or `dots` alone.

    Points that are not finite, or not positive on a logarithmic axis, are left out.
    """
    shown = {
        name: [p for p in points if _fits(p[0], x) and _fits(p[1], y)]
        for name, points in series.items()
    }
    xs = [p[0] for points in shown.values() for p in points]
    ys = [p[1] for points in shown.values() for p in points]
    if not xs:
        raise ValueError("A drawing of lines needs at least one finite point.")
    across = _Scale(x, xs, _LEFT, WIDTH - _RIGHT)
    up = _Scale(y, ys, HEIGHT - _BOTTOM, _TOP)
    drawn = Markup("").join(
        _series(name, points, COLOURS[i % len(COLOURS)], across, up, dots)
        for i, (name, points) in enumerate(shown.items())
    )
    return Markup(
        '<svg class="hist" viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="11" font-family="system-ui, sans-serif">{}{}{}</svg>'
    ).format(WIDTH, HEIGHT, printable(title), _axes(across, up), drawn, _legend(list(shown), dots))


class _Scale:
    """Where values of an axis lie on the page."""

    def __init__(self, axis: Axis, values: Sequence[Number], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        low = axis.low if axis.low is not None else min([*values, *axis.marks])
        high = axis.high if axis.high is not None else max([*values, *axis.marks])
        self.low, self.high = self._of(low), self._of(high)
        if self.high <= self.low:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def __call__(self, value: Number) -> float:
        share = (self._of(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _of(self, value: Number) -> float:
        return math.log10(value) if self.axis.log else value

    def ticks(self) -> list[tuple[float, str]]:
        if not self.axis.log:
            return [(t, f"{round(t, 9):g}") for t in nice(self.low, self.high, 5)]
        whole = range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)
        powers = [10.0**p for p in whole]
        if len(powers) < 3:  # 1, 2, 5, 10, 20, 50, …
            around = range(math.floor(self.low), math.ceil(self.high) + 1)
            each = [m * 10.0**p for p in around for m in (1, 2, 5)]
            powers = [v for v in each if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9]
        if len(powers) < 3:
            powers = [t for t in nice(10.0**self.low, 10.0**self.high, 4) if t > 0]
        powers = powers[:: max(1, math.ceil(len(powers) / 7))]
        return [(p, _power(p)) for p in powers]


def _power(value: float) -> str:
    if value >= 1e4:
        return short(float(f"{value:.3g}"))
    return f"{float(f'{value:.3g}'):g}" if value >= 1e-3 else f"{value:.0e}"


def _fits(value: Number, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _series(
    name: str, points: Sequence[Point], colour: str, across: _Scale, up: _Scale, dots: bool
) -> Markup:
    places = [(across(p[0]), up(p[1])) for p in points]
    line = Markup("")
    if not dots:
        line = Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.8"/>').format(
            " ".join(f"{a:.1f},{b:.1f}" for a, b in places), colour
        )
    return line + Markup("").join(
        Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"><title>{}: {:.4g}, {:.4g}</title></circle>'
        ).format(a, b, 1.6 if dots else 2.6, colour, printable(name), *point)
        for (a, b), point in zip(places, points, strict=True)
    )


def _axes(across: _Scale, up: _Scale) -> Markup:
    base = HEIGHT - _BOTTOM
    below = Markup("").join(
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            across(value), base + 15, words
        )
        for value, words in across.ticks()
    )
    beside = Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" stroke="currentColor" '
            'stroke-opacity=".1"/><text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(_LEFT, WIDTH - _RIGHT, up(value), up(value), _LEFT - 6, up(value) + 4, words)
        for value, words in up.ticks()
    )
    marks = Markup("").join(
        Markup('<line class="mark" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" {}/>').format(
            _LEFT,
            WIDTH - _RIGHT,
            up(value),
            up(value),
            Markup('stroke="currentColor" stroke-opacity=".25"'),
        )
        for value in up.axis.marks
    )
    middle = (_TOP + base) / 2
    labels = Markup(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}" stroke="currentColor" stroke-opacity=".4"/>'
        '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="label" x="12" y="{}" text-anchor="middle" transform="rotate(-90 12 {})">{}</text>'
    ).format(
        _LEFT,
        WIDTH - _RIGHT,
        base + 0.5,
        base + 0.5,
        (_LEFT + WIDTH - _RIGHT) / 2,
        HEIGHT - 8,
        printable(across.axis.label),
        middle,
        middle,
        printable(up.axis.label),
    )
    return below + beside + marks + labels


def _legend(names: Sequence[str], dots: bool) -> Markup:
    if len(names) < 2:
        return Markup("")
    drawn, x = Markup(""), float(_LEFT)
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        drawn += Markup(
            '<circle cx="{:.1f}" cy="14" r="{}" fill="{}"/><text class="label" x="{:.1f}" y="17.5">{}</text>'
        ).format(x + 4, 2.6 if dots else 4, colour, x + 12, printable(name))
        x += 26 + 5.8 * len(name)
    return drawn
