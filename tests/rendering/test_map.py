import re

import pytest

from monosem.rendering.map import HEIGHT, WIDTH, svg


def places(drawing):
    found = re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)" r="[\d.]+"><title>', drawing)
    return [(float(x), float(y)) for x, y in found]


def test_one_unit_is_as_long_across_as_up_and_everything_is_inside():
    drawn = svg({"a": [(0, 0, "o"), (4, 0, "right")], "b": [(0, 1, "up")]}, title="three")
    o, right, up = places(drawn)
    assert right[0] - o[0] == pytest.approx(4 * (o[1] - up[1]), rel=0.01)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in (o, right, up))
    assert right[1] == o[1] and up[0] == o[0]


def test_one_dot_alone_is_drawn_inside():
    ((x, y),) = places(svg({"a": [(1e9, -1e9, "far")]}, title="one"))
    assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_what_dots_say_is_escaped_and_what_is_not_finite_left_out():
    drawn = svg({"<b>": [(0, 0, "<script>"), (float("nan"), 0, "none")]}, title='"')
    assert "<script>" not in drawn and "&lt;script&gt;" in drawn and "&lt;b&gt;" in drawn
    assert len(places(drawn)) == 1
    with pytest.raises(ValueError, match="at least one finite dot"):
        svg({"a": [(float("inf"), 0, "none")]}, title="none")


def test_sorts_have_colours_of_their_own():
    drawn = svg({"a": [(0, 0, "a")], "b": [(1, 1, "b")]}, title="two")
    first, second = re.findall(r'<g fill="(#\w+)"', drawn)
    assert first != second
    assert drawn.count(first) == 2  # its dots, and its place in the legend
