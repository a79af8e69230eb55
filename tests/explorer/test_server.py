import html
import re

import pytest
from fastapi.testclient import TestClient

from monosem.core.errors import ConfigError
from monosem.explorer.pages import PAGE_SIZE
from monosem.explorer.server import HEADERS, create_app


@pytest.fixture(scope="module")
def client(databases, metrics) -> TestClient:
    return TestClient(create_app(databases, metrics), base_url="http://127.0.0.1:8017")


def test_every_page_answers_with_a_strict_policy(client) -> None:
    for path in ("/", "/topk/", "/topk/0", "/topk/119", "/neurons/", "/neurons/7", "/nowhere/"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8017", "127.0.0.1.evil.example", ""]
)
def test_another_host_name_is_refused(client, host) -> None:
    response = client.get("/topk/0", headers={"Host": host})
    assert response.status_code == 400
    assert "Feature" not in response.text
    assert HEADERS.items() <= {k.title(): v for k, v in response.headers.items()}.items()


@pytest.mark.parametrize("host", ["localhost:8017", "127.0.0.1", "127.0.0.1:9"])
def test_the_machine_s_own_names_are_served(client, host) -> None:
    assert client.get("/topk/0", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/topk/120", 404),
        ("/topk/-1", 404),
        ("/topk/x", 400),
        ("/missing/", 404),
        ("/missing/3", 404),
        ("/topk/?sort=DROP", 400),
        ("/topk/?status=odd", 400),
        ("/topk/?page=-1", 400),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/topk/../../etc/passwd", 400),
    ],
)
def test_what_is_not_there_or_not_understood_is_said_on_a_page(client, path, code) -> None:
    response = client.get(path)
    assert response.status_code == code
    assert "text/html" in response.headers["content-type"]
    assert "Monosem" in response.text


def link(response, relation: str) -> str:
    """Return where a link of the page leads, empty where there is none."""
    found = re.search(rf'<a rel="{relation}" href="([^"]*)"', response.text)
    other = re.search(rf'<a href="([^"]*)"[^>]* rel="{relation}"', response.text)
    return html.unescape((found or other)[1]) if found or other else ""


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", {"sort": "density"}),
        (
            "?sort=max_activation&descending=false&status=alive",
            {"sort": "max_activation", "descending": False, "status": "alive"},
        ),
        ("?search=%7B%7B7&sort=index", {"search": "{{7", "sort": "index"}),
    ],
)
def test_next_and_previous_follow_the_list_that_a_feature_was_opened_from(
    client, databases, query, order
) -> None:
    wanted = [f.index for f in databases["topk"].list(**order, limit=120)]
    rows = re.findall(r'<tr><td><a href="([^"]*)"', client.get(f"/topk/{query}").text)
    address, walked, back = html.unescape(rows[0]), [], ""
    while address:
        page = client.get(address)
        assert link(page, "prev") == back
        back, address = address, link(page, "next")
        walked.append(int(re.match(r"/topk/(\d+)", back)[1]))
    assert walked == wanted
    last = len(wanted) - 1
    listed = client.get(link(page, "up")).text
    assert html.escape(back) in listed, "the way back leads to another page of the list"
    assert f"page={last // PAGE_SIZE}" in link(page, "up") or last < PAGE_SIZE


def test_without_a_list_or_with_one_that_has_changed_the_way_goes_by_index(client) -> None:
    for address in ("/topk/7", "/topk/7?sort=density&at=500", "/topk/7?sort=index&at=8"):
        page = client.get(address)
        assert (link(page, "prev"), link(page, "next")) == ("/topk/6", "/topk/8")
        assert link(page, "up") == "/topk/"
    assert link(client.get("/topk/0"), "prev") == link(client.get("/topk/119"), "next") == ""
    assert client.get("/topk/7?at=-1").status_code == 400


def test_nothing_can_be_written(client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/topk/0").status_code == 405


def test_a_random_feature_is_one_of_this_dictionary(client) -> None:
    response = client.get("/topk/random", follow_redirects=False)
    assert response.status_code == 307
    assert 0 <= int(response.headers["location"].removeprefix("/topk/")) < 120


def test_a_hostile_name_of_a_dictionary_is_quoted(databases) -> None:
    app = create_app({'a"><script>/b': databases["neurons"]})
    client = TestClient(app, base_url="http://localhost")
    front = client.get("/").text
    assert "a&#34;&gt;&lt;script&gt;/b" in front
    assert "%22%3E%3Cscript%3E" in front


def test_an_explorer_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a feature database"):
        create_app({})
