import re

import pytest

from monosem.explorer.report import write_report

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opened_from_disk_with_the_network_cut_shows_everything(
    open_page, databases, metrics, tmp_path, scheme
) -> None:
    out = write_report(databases, metrics, tmp_path / "report.html", chosen=4, random=8)
    watched = open_page(out.as_uri(), offline=True, color_scheme=scheme)
    page = watched.page
    assert page.locator("article.feature").count() >= 12
    assert page.locator("svg.hist:visible").count() > 8
    assert page.locator("main").is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 20, 19)")
    strong = page.locator("bdi.h16").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert strong not in (paper, "rgba(0, 0, 0, 0)")
    page.keyboard.press("j")
    page.wait_for_function("scrollY > 0")
    watched.check()


def test_hovering_a_token_tells_its_text_activation_row_and_document(open_page, address) -> None:
    watched = open_page(f"{address}/topk/0")
    token = watched.page.locator(".ex bdi.f:not(.e)").first
    token.hover()
    tip = watched.page.locator("#tip")
    assert tip.is_visible()
    said = tip.text_content()
    assert said.startswith(token.text_content())
    assert token.get_attribute("data-a") in said
    assert "row " in said
    assert "</script><img" in said  # the document's hostile name, as text
    assert "activation " in said
    watched.check()


def test_the_list_sorts_filters_searches_and_leads_to_a_feature(open_page, address) -> None:
    watched = open_page(f"{address}/topk/")
    page = watched.page

    def column(n: int) -> list[float]:
        cells = page.locator(f".list tbody td:nth-child({n})").all_inner_texts()
        return [float(re.sub(r"[ %,]", "", c)) for c in cells]

    assert column(2) == sorted(column(2), reverse=True)
    page.click("th >> text=Maximum")
    page.wait_for_url("**sort=max_activation&descending=true**")
    assert column(3) == sorted(column(3), reverse=True)
    page.click("th >> text=Maximum ↓")
    page.wait_for_url("**sort=max_activation&descending=false**")
    assert column(3) == sorted(column(3))
    page.select_option("select[name=status]", "dead")
    page.click("button")
    page.wait_for_url("**status=dead**")
    assert set(page.locator(".list td.state").all_inner_texts()) == {"dead"}
    page.goto(f"{address}/topk/")
    page.keyboard.press("/")
    page.keyboard.type("{{7")
    page.keyboard.press("Enter")
    page.wait_for_url("**search=%7B%7B7**")
    assert page.locator(".list tbody tr").count() > 0
    assert page.input_value("input[name=search]") == "{{7"
    page.locator("input[name=search]").blur()
    page.keyboard.press("j")
    page.keyboard.press("j")
    goal = page.locator(".list tr.at a").get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith(goal))
    page.keyboard.press("k")
    page.wait_for_url("**&at=0")
    page.keyboard.press("l")
    page.wait_for_url(re.compile(r"/topk/\?search=%7B%7B7"))
    assert page.locator(".list tbody tr").count() > 0
    watched.check()


def test_keys_walk_from_feature_to_feature_and_back_to_the_list(open_page, address) -> None:
    watched = open_page(f"{address}/topk/0")
    page = watched.page
    page.keyboard.press("j")
    page.wait_for_url("**/topk/1")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/topk/2")
    page.keyboard.press("k")
    page.wait_for_url("**/topk/1")
    page.locator(".near a").first.click()
    page.wait_for_url("**/topk/2")
    page.keyboard.press("l")
    page.wait_for_url("**/topk/")
    page.keyboard.press("r")
    page.wait_for_url(re.compile(r"/topk/\d+$"))
    watched.check()


def test_no_page_scrolls_sideways_on_a_phone_and_a_click_opens_a_line(open_page, address) -> None:
    watched = open_page(f"{address}/", viewport={"width": 360, "height": 740})
    for path in ("/", "/topk/", "/topk/3", "/topk/25"):
        watched.page.goto(f"{address}{path}")
        wide = watched.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, path
    watched.check()
    watched = open_page(f"{address}/topk/0", viewport={"width": 1280, "height": 800})
    line = watched.page.locator(".ex").first
    line.locator(".value").click()
    assert "open" in (line.get_attribute("class") or "")


def test_every_focus_token_of_a_wide_page_begins_at_the_same_place(open_page, address) -> None:
    watched = open_page(f"{address}/topk/1", viewport={"width": 1280, "height": 800})
    places = watched.page.locator(".ex bdi.f").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().left)"
    )
    assert len(places) > 20
    assert max(places) - min(places) < 1
    watched.check()


def test_a_page_can_be_printed_with_every_example_on_it(open_page, databases, tmp_path) -> None:
    out = write_report(databases, {}, tmp_path / "report.html", chosen=2, random=2)
    watched = open_page(out.as_uri(), offline=True)
    watched.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert watched.page.locator("details:not([open])").count() == 0
    assert len(watched.page.pdf()) > 50_000
    watched.check()
