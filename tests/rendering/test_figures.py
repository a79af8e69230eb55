"""Rendering: heat maps and lines draw what they are given, escaped, and refuse what does not fit."""

import re
from xml.etree import ElementTree

import pytest

from monosem.rendering import heatmap, lines


def test_a_heat_map_has_a_cell_a_value_its_first_row_at_the_bottom() -> None:
    values = [[0.0, 1.0, 2.0], [3.0, 4.0, float("nan")]]
    drawn = heatmap.svg(
        heatmap.shades(values),
        [[f"<{v}>" for v in row] for row in values],
        title='a "map"',
        x_label="x",
        y_label="y",
        x_ticks=["1", "2", "3"],
        y_ticks=["low", "high"],
        legend=heatmap.scale(0.0, 4.0),
    )
    cells = [e for e in ElementTree.fromstring(drawn).iter("rect") if e.find("title") is not None]
    assert len(cells) == 6
    first, last = cells[0], cells[-1]
    assert first.find("title").text == "<0.0>"  # pyright: ignore[reportOptionalMemberAccess]
    assert float(first.get("y") or 0) > float(last.get("y") or 0)
    assert last.get("fill") == heatmap.NOTHING
    assert "&#34;map&#34;" in drawn


def test_a_grid_whose_rows_differ_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        heatmap.svg(
            [["#fff"]], [["a", "b"]], title="", x_label="", y_label="", x_ticks=["1"], y_ticks=["1"]
        )


def test_lines_lie_where_their_values_say_on_a_logarithmic_axis() -> None:
    drawn = lines.svg(
        {
            "a<b": [(1.0, 0.0), (10.0, 1.0), (100.0, 2.0)],
            "other": [(0.0, 1.0), (10.0, float("nan"))],
        },
        title="t",
        x=lines.Axis(label="x", log=True),
        y=lines.Axis(label="y", marks=(0.5,)),
    )
    tree = ElementTree.fromstring(drawn)
    points = [e for e in tree.iter("circle") if e.find("title") is not None]
    # Zero has no logarithm and NaN no place: the other series has no point left.
    assert len(points) == 3
    x = [float(p.get("cx") or 0) for p in points]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert float(points[0].get("cy") or 0) > float(points[2].get("cy") or 0)
    assert "a&lt;b" in drawn and len(re.findall('class="mark"', drawn)) == 1


def test_lines_without_a_point_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        lines.svg({"a": []}, title="", x=lines.Axis(label=""), y=lines.Axis(label=""))


def test_ticks_of_a_short_logarithmic_axis_are_ones_twos_and_fives() -> None:
    drawn = lines.svg(
        {"a": [(3.8, 40.0), (31.0, 1500.0)]},
        title="t",
        x=lines.Axis(label="x", log=True),
        y=lines.Axis(label="y", log=True),
    )
    tree = ElementTree.fromstring(drawn)
    ticks = [e.text for e in tree.iter("text") if e.get("class") == "tick"]
    assert ticks == ["5", "10", "20", "50", "100", "200", "500", "1000"]


def test_large_ticks_are_thousands_and_millions() -> None:
    drawn = lines.svg(
        {"a": [(5000.0, 1.0), (3e6, 2.0)]},
        title="t",
        x=lines.Axis(label="x", log=True),
        y=lines.Axis(label="y"),
    )
    tree = ElementTree.fromstring(drawn)
    ticks = [e.text for e in tree.iter("text") if e.get("text-anchor") == "middle"]
    assert ticks[:3] == ["10k", "100k", "1M"]
