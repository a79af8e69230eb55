import re

import numpy as np
import pytest

from monosem.rendering import style
from monosem.rendering.colour import LEVELS, contrast, oklab, ramp
from monosem.rendering.feature import ExampleGroup, ExampleView, FeatureView, notebook, panel
from monosem.rendering.histogram import svg
from monosem.rendering.page import POLICY, SCRIPT, page
from monosem.rendering.table import html, text
from monosem.rendering.template import render


@pytest.mark.parametrize(
    ("paper", "ink", "full"),
    [
        (style.PAPER_LIGHT, style.INK_LIGHT, style.FULL_LIGHT),
        (style.PAPER_DARK, style.INK_DARK, style.FULL_DARK),
    ],
)
def test_the_ramp_is_perceptually_even_and_text_on_it_is_readable(paper, ink, full) -> None:
    colours = ramp(paper, full)
    assert len(colours) == LEVELS
    steps = np.diff([oklab(c) for c in colours], axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    assert lengths.max() / lengths.min() < 1.25  # eight bits a channel leave a little
    assert min(contrast(ink, c) for c in colours) >= 4.5
    visible = np.linalg.norm(np.array(oklab(colours[0])) - np.array(oklab(paper)))
    assert visible > 0.015


def test_each_bar_of_a_histogram_has_its_place_height_and_value(read) -> None:
    drawing = svg([0, 10, 5], [0.0, 1.0, 2.0, 3.0], title="<h>", log=False, marks=[1.5])
    seen = read(drawing)
    assert seen.tags.count("rect") == 2
    heights = [float(v) for t, n, v in seen.attributes if t == "rect" and n == "height" and v]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert "1 – 2: 10" in seen.text
    assert ("svg", "aria-label", "<h>") in seen.attributes
    assert seen.tags.count("line") >= 2


def test_a_logarithmic_histogram_shows_single_counts_beside_millions(read) -> None:
    seen = read(svg([1, 1_000_000], [0.0, 0.5, 1.0], title="t", log=True))
    heights = [float(v) for t, n, v in seen.attributes if t == "rect" and n == "height" and v]
    assert heights[0] > 3
    assert heights[1] > heights[0]


def test_a_histogram_of_nothing_is_drawn_and_wrong_edges_are_refused(read) -> None:
    assert "rect" not in read(svg([0, 0], [0.0, 0.0, 0.0], title="t", log=True)).tags
    with pytest.raises(ValueError, match="need 3 edges"):
        svg([1, 2], [0.0, 1.0], title="t", log=False)


def test_powers_of_ten_are_written_as_such(read) -> None:
    seen = read(svg([1, 2, 3], [-3.0, -2.0, -1.0, 0.0], title="t", log=False, powers=True))
    assert "10⁻³" in seen.text
    assert "10⁰" in seen.text


def test_a_terminal_table_is_aligned_even_with_wide_characters_and_controls() -> None:
    lines = text(["name", "value"], [["日本", "1.0"], ["a\x1bb", "10.5"]]).splitlines()
    assert lines[1:3] == ["────  ─────", "日本    1.0"]
    assert "\x1b" not in lines[3]
    assert lines[3] == "a␛b    10.5"


def test_a_table_explains_its_columns_on_hover_and_below(read) -> None:
    seen = read(html(["name", "l0"], [["a", "1.5"]], notes={"l0": "how many"}))
    assert ("abbr", "title", "how many") in seen.attributes
    assert seen.text.count("how many") == 1
    assert seen.tags.count("dd") == 1
    with pytest.raises(ValueError, match="cells"):
        html(["a"], [["1", "2"]])


def test_a_page_asks_for_nothing_and_its_policy_names_its_own_style_and_script(read) -> None:
    found = page("<title>", render("monosem.explorer", "message.html", title="t", message="<b>"))
    seen = read(found)
    loads = [(t, n, v) for t, n, v in seen.attributes if n in ("src", "href") and t != "a"]
    assert [v[:5] for _, _, v in loads if v] == ["data:"]
    assert "unsafe" not in POLICY
    assert POLICY.count("sha256-") == 2
    assert "default-src 'none'" in POLICY
    assert "http" not in style.PAGE
    assert not re.search(r"url\(|@import", style.PAGE)
    assert "innerHTML" not in SCRIPT
    assert not [a for a in seen.attributes if a[1] == "style" or a[1].startswith("on")]


def view(pieces: list[str], **changes: object) -> FeatureView:
    example = ExampleView(
        pieces=pieces,
        activations=[2.0] * len(pieces),
        focus=0,
        activation=2.0,
        row_start=5,
        document=pieces[0],
    )
    values: dict = {
        "index": 7,
        "status": "alive",
        "density": 0.01,
        "n_fired": 12,
        "max_activation": 2.0,
        "moments": [("mean", 1.0)],
        "counts": [3, 1],
        "edges": [0.0, 1.0, 2.0],
        "promoted": [(p, 1.0) for p in pieces],
        "suppressed": [(p, -1.0) for p in pieces],
        "neighbours": [(3, 0.5)],
        "neurons": [(9, -0.4)],
        "label": pieces[0],
        "groups": [ExampleGroup(title="Strongest", note="n", examples=[example])],
    }
    return FeatureView(**{**values, **changes})


def test_a_panel_of_hostile_tokens_holds_no_foreign_tag_or_attribute(read, hostile) -> None:
    for found in (
        panel(view(hostile), link=lambda i: f"/f/{i}", n_tokens=99),
        notebook(view(hostile)),
    ):
        seen = read(found)
        assert not set(seen.tags) & {"script", "img", "iframe", "object", "link"}
        assert not [a for a in seen.attributes if a[1].startswith("on") or a[1] == "style"]
        assert seen.tags.count("svg") < 2 * len(hostile) + 6
        assert "onload=alert(1)" in seen.text
        found.encode("utf-8")


def test_a_dead_feature_has_a_panel_that_says_so(read) -> None:
    dead = view(["a"], status="dead", n_fired=0, max_activation=0.0, density=0.0, groups=[])
    text_ = read(panel(dead, link=lambda _: "")).text
    assert "It never fired." in text_
    assert "dead" in text_
    assert "on no token" in text_
    notebook(dead)


def test_a_panel_links_its_neighbours_where_they_have_a_page(read) -> None:
    assert 'href="/f/3"' in panel(view(["a"]), link=lambda i: f"/f/{i}")
    assert "href" not in panel(view(["a"]), link=lambda _: "")
