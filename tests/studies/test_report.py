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
