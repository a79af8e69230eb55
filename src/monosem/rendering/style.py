"""The one stylesheet of pages (light, dark, print) and the small one of notebook cards.

Pages carry it inline, named by its hash in their Content-Security-Policy; therefore no element has
a `style` attribute anywhere, and widths that depend on data are SVG attributes.
"""

from importlib.resources import files

from monosem.rendering.colour import LEVELS, ramp

PAPER_LIGHT, INK_LIGHT, FULL_LIGHT = "#ffffff", "#1b1b1a", "#f39a4b"
PAPER_DARK, INK_DARK, FULL_DARK = "#141413", "#e9e6e0", "#9c4e10"

_ACCENT = "226, 120, 30"


def _steps(paper: str, full: str) -> str:
    return "".join(f"--h{i}:{c};" for i, c in enumerate(ramp(paper, full), start=1))


def _sheet() -> str:
    static = files("monosem.rendering").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = _steps(PAPER_LIGHT, FULL_LIGHT), _steps(PAPER_DARK, FULL_DARK)
    levels = "".join(f".h{i}{{background:var(--h{i})}}" for i in range(1, LEVELS + 1))
    night = f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}{night}{static}{levels}"


PAGE = _sheet()
"""The stylesheet of reports and of the explorer."""

NOTEBOOK = (
    ".monosem{max-width:62em;padding:.7em 1em;border:1px solid rgba(128,128,128,.35);"
    "border-radius:6px;font:13px/1.5 system-ui,sans-serif}"
    ".monosem .title{font-weight:600;margin-bottom:.35em}"
    ".monosem dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1.2em;margin:0}"
    ".monosem dt{opacity:.65;font-weight:400}"
    ".monosem dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}"
    ".monosem svg.hist{max-width:34em;width:100%;display:block;margin-top:.6em}"
    f".monosem .bar{{fill:rgb({_ACCENT})}}"
    ".monosem .ctx{font:12px/1.7 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;"
    "display:block;overflow-wrap:anywhere}"
    ".monosem bdi{white-space:pre-wrap;border-radius:2px}"
    ".monosem bdi.f{text-decoration:underline;text-underline-offset:3px}"
    ".monosem bdi i,.monosem .ctx i{font-style:normal;opacity:.5}"
    ".monosem bdi.e::before{content:'⋯'}"
    + "".join(
        f".monosem .h{i}{{background:rgba({_ACCENT},{0.06 + 0.5 * i / LEVELS:.3f})}}"
        for i in range(1, LEVELS + 1)
    )
)
"""The stylesheet inside a card; every rule begins with `.monosem`, so that a notebook stays as it is."""
