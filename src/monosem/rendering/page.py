"""The shell of every page: one file with its style and script inside, and a policy that allows no more.

The Content-Security-Policy names style and script by their SHA-256, so that even markup which
slipped through could neither run nor load anything; the same policy stands in the file itself, for
a report opened from a disk, and in the explorer's HTTP headers.
"""

import base64
import hashlib
from importlib.resources import files

from markupsafe import Markup

from monosem.rendering.style import PAGE
from monosem.rendering.visible import printable

SCRIPT = files("monosem.rendering").joinpath("page.js").read_text(encoding="utf-8")

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%23e2781e'/%3E"
    "%3Cpath d='M3 12V9m3.3 3V4m3.4 8V7M13 12v-2' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash(PAGE)}'; script-src 'sha256-{_hash(SCRIPT)}'; "
    "img-src data:; form-action 'self'; base-uri 'none'"
)
"""What a page may do, in the page itself; a server adds `frame-ancestors`, which a page cannot say."""


def page(title: str, body: Markup, *, nav: Markup | None = None) -> Markup:
    """Return a whole HTML document around `body`, which must be escaped already."""
    return Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        '<title>{}</title>\n<link rel="icon" href="{}">\n<style>{}</style>\n</head>\n<body>\n'
        '<header class="bar"><nav>{}</nav></header>\n<main>\n{}\n</main>\n'
        '<div id="tip" role="tooltip" hidden></div>\n<script>{}</script>\n</body>\n</html>\n'
    ).format(
        POLICY,
        printable(title),
        Markup(_ICON),
        Markup(PAGE),
        nav if nav is not None else Markup('<span class="mark">Monosem</span>'),
        body,
        Markup(SCRIPT),
    )
