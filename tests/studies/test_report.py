"""Studies: the page of a report says first what stands beside the paper's numbers."""

from pathlib import Path

from monosem.studies import report
from monosem.studies.report import MANY, Figure, Item


def test_of_many_items_those_of_the_paper_are_seen_and_all_are_behind_a_click(
    tmp_path: Path,
) -> None:
    items = [Item(item=f"number {i}", here=float(i), how="f") for i in range(MANY)]
    theirs = Item(item="beside", here=1.5, how="f", paper=2.0, paper_certainty="read in the paper")
    figure = Figure(name="many", title="t", text="", items=(*items, theirs))
    page = report.write([figure], tmp_path, title="t", lead="").read_text("utf-8")
    before, behind = page.split("<details>")
    assert "beside" in before and "number 3" not in before
    assert f"All {MANY + 1} numbers" in behind and "number 3" in behind and "beside" in behind
    few = Figure(name="few", title="t", text="", items=(*items[:3], theirs))
    assert "<details>" not in report.write([few], tmp_path, title="t", lead="").read_text("utf-8")


def test_where_numbers_come_from_is_said_once_only_where_it_is_so_of_all(tmp_path: Path) -> None:
    def page(*hows: str) -> str:
        items = tuple(Item(item=f"number {i}", here=1, how=how) for i, how in enumerate(hows))
        figure = Figure(name="some", title="t", text="", items=items)
        return report.write([figure], tmp_path, title="t", lead="").read_text("utf-8")

    assert "from f; g" in page("f; g", "f; g") and ">how<" not in page("f; g", "f; g")
    mixed = page("f; g", "—")  # what is missing comes from nowhere
    assert "from f; g" not in mixed and mixed.count("f; g") == 1 and ">how<" in mixed


def test_what_stands_in_backticks_is_code_unless_one_is_left_over(tmp_path: Path) -> None:
    def page(text: str) -> str:
        figure = Figure(name="some", title="t", text=text)
        return report.write([figure], tmp_path, title="t", lead="").read_text("utf-8")

    assert "of <code>1L-a</code> here" in page("of `1L-a` here")
    assert "<code>" not in page("one ` alone").split("<section")[1]


def test_what_a_study_lacks_stands_beside_what_the_paper_has() -> None:
    (item,) = report.missing({"scores": ("0.74", "they come later")}).items
    assert (item.paper, item.here, item.how) == ("0.74", "missing: they come later", "—")
