"""Hostile tokens, and a reader of HTML that reports tags, attributes and text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "{{7*7}}",
    "{% for x in y %}",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "-->",
    "]]>",
    "&lt;b&gt;&amp;&#x41;",
    "\x00",
    "a\x00b",
    "\u202egnp.exe",
    "\u2066\u2067",
    "\u200b",
    "\ufeff",
    "\u2028\u2029",
    "\ud800",
    "\udfff\ud83d",
    "\ufffd",
    "\ufffe",
    "x" * 10_000,
    "\u0301",
    "e" + "\u0301" * 40,
    "\r\n",
    "\x1b[31m",
    "\x85\x9f",
    "javascript:alert(1)",
    "</style><style>*{display:none}</style>",
    "שלום",
    "مرحبا",
    "👩‍👩‍👧",
    "",
    " ",
    "\t",
    "\n\n",
    "    ",
]


@dataclass
class Read(HTMLParser):
    """What a browser would see: tags in order, every attribute, the text."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str | None]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_decl(self, decl: str) -> None:
        self.others.append(decl)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def __call__(self, html: str) -> "Read":
        found = Read()
        found.feed(html)
        found.close()
        return found


@pytest.fixture(scope="session")
def read() -> Read:
    return Read()


@pytest.fixture(scope="session")
def hostile() -> list[str]:
    return list(HOSTILE)
