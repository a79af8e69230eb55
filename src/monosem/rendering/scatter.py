"""Points by name as inline SVG, those that no other beats on both axes joined: a Pareto frontier.

It is drawn with the classes and colours of the histogram, so it is at home wherever that is.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from monosem.rendering.histogram import nice
from monosem.rendering.visible import printable

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 130, 14, 40
_LINE = 12
"""Height of a label, by which labels keep apart."""

Point = tuple[float, float]


def frontier(points: Mapping[str, Point], *, higher: bool = False) -> list[str]:
    """Return the names no other point beats, by x: none has less x and a better y (lower, or `higher`).

    >>> frontier({"a": (16, 0.3), "b": (32, 0.2), "c": (32, 0.4)})
    ['a', 'b']
    """
    sign = -1.0 if higher else 1.0
    kept: list[str] = []
    best = math.inf
    for name, (_, y) in sorted(points.items(), key=lambda item: (item[1][0], sign * item[1][1])):
        if sign * y < best:
            kept.append(name)
            best = sign * y
    return kept


def svg(
    points: Mapping[str, Point], *, title: str, x_label: str, y_label: str, higher: bool = False
) -> Markup:
    """Return `points` with a logarithmic x axis, named, the frontier filled and joined by a line."""
    if not points or any(x <= 0 for x, _ in points.values()):
        raise ValueError("A scatter needs points, and each x above 0.")
    axes = _Axes(list(points.values()))
    best = frontier(points, higher=higher)
    line = " ".join(f"{axes.x(points[n][0]):.1f},{axes.y(points[n][1]):.1f}" for n in best)
    dots = Markup("").join(
        _dot(name, point, axes, y_label, filled=name in best) for name, point in points.items()
    )
    return Markup(
        '<svg class="hist" viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="11" font-family="system-ui, sans-serif">{}<polyline class="axis" points="{}" '
        'fill="none" stroke="currentColor" stroke-opacity=".5"/>{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        printable(title),
        axes.drawn(x_label, y_label),
        line,
        dots,
        _names(points, axes),
    )


class _Axes:
    """Where values lie: x by its logarithm, y as it is, both with a little room around."""

    def __init__(self, points: Sequence[Point]) -> None:
        logs, ys = [math.log10(x) for x, _ in points], [y for _, y in points]
        self.left, self.right = _widened(min(logs), max(logs), 0.1)
        self.low, self.high = _widened(min(ys), max(ys), 0.02)

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.left) / (self.right - self.left)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def drawn(self, x_label: str, y_label: str) -> Markup:
        base = HEIGHT - _BOTTOM
        powers = [2.0**p for p in range(-10, 24) if self.left <= math.log10(2.0**p) <= self.right]
        powers = powers[:: max(1, math.ceil(len(powers) / 8))]
        below = Markup("").join(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>').format(
                self.x(power), base + 15, power
            )
            for power in powers
        )
        beside = Markup("").join(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" stroke="currentColor" '
                'stroke-opacity=".1"/><text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
            ).format(
                _LEFT, WIDTH - _RIGHT, self.y(t), self.y(t), _LEFT - 6, self.y(t) + 4, round(t, 9)
            )
            for t in nice(self.low, self.high, 4)
        )
        texts = Markup(
            '<text x="{}" y="{}" text-anchor="middle">{}</text><text x="4" y="{}">{}</text>'
        ).format(
            (_LEFT + WIDTH - _RIGHT) / 2,
            HEIGHT - 6,
            printable(x_label),
            _TOP - 3,
            printable(y_label),
        )
        return below + beside + texts


def _dot(name: str, point: Point, axes: _Axes, y_label: str, *, filled: bool) -> Markup:
    kind = Markup('class="bar"') if filled else Markup('fill="none" stroke="currentColor"')
    return Markup(
        '<circle cx="{:.1f}" cy="{:.1f}" r="4" {}><title>{}: L0 {:.3g}, {} {:.3g}</title></circle>'
    ).format(
        axes.x(point[0]),
        axes.y(point[1]),
        kind,
        printable(name),
        point[0],
        printable(y_label),
        point[1],
    )


def _names(points: Mapping[str, Point], axes: _Axes) -> Markup:
    """Return the names beside their points, moved down where they would cover one another."""
    placed: list[tuple[float, float, str]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: axes.y(item[1][1])):
        at_x, at_y = axes.x(x) + 8, axes.y(y) + 4
        near = [v for u, v, other in placed if abs(u - at_x) < 6 * max(len(other), len(name))]
        while any(abs(at_y - v) < _LINE for v in near):
            at_y += _LINE - min(_LINE - 1, min(abs(at_y - v) for v in near))
        placed.append((at_x, at_y, name))
    return Markup("").join(
        Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x, y, printable(name))
        for x, y, name in placed
    )


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    room = max(0.08 * (high - low), least)
    return low - room, high + room
