import pytest

from monosem.rendering.scatter import frontier, svg

POINTS = {
    "a": (4.0, 0.4),
    "b": (8.0, 0.3),
    "c": (16.0, 0.35),
    "<d>": (16.5, 0.351),
    "e": (32.0, 0.1),
}


def test_a_frontier_holds_what_no_other_beats() -> None:
    assert frontier(POINTS) == ["a", "b", "e"]
    assert frontier(POINTS, higher=True) == ["a"]
    assert frontier({"a": (4.0, 0.4), "b": (4.0, 0.3)}) == ["b"]


def test_each_point_is_drawn_where_it_is_and_named_apart_from_its_neighbours(read) -> None:
    seen = read(svg(POINTS, title="<t>", x_label="L0", y_label="FVU"))
    assert seen.tags.count("circle") == 5
    places = {
        n: [float(v) for t, m, v in seen.attributes if t == "circle" and m == n]
        for n in ("cx", "cy")
    }
    x, y = places["cx"], places["cy"]
    assert x == sorted(x)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)  # logarithmic
    assert y[0] < y[2] < y[1] < y[4]  # less is lower down
    assert ("svg", "aria-label", "<t>") in seen.attributes
    assert "<d>" in seen.text
    assert [v for t, m, v in seen.attributes if t == "circle" and m == "class"] == ["bar"] * 3


def test_labels_of_points_that_meet_do_not_cover_one_another(read) -> None:
    same = {f"topk-k{i}": (16.0, 0.3 + i / 1e4) for i in range(5)}
    seen = read(svg(same, title="t", x_label="L0", y_label="FVU"))
    tags = [(t, m, v) for t, m, v in seen.attributes if t == "text" and m == "y"]
    lowest = sorted(float(v) for _, _, v in tags[-5:])
    assert all(b - a > 11 for a, b in zip(lowest, lowest[1:], strict=False))


def test_a_scatter_of_nothing_or_of_no_sparsity_is_refused() -> None:
    for points in ({}, {"a": (0.0, 1.0)}):
        with pytest.raises(ValueError, match="above 0"):
            svg(points, title="t", x_label="x", y_label="y")
