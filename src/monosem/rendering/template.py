"""Jinja templates that cannot forget to escape: autoescape on, undefined names refused.

Every string that is not already `Markup` passes `printable` and then the escape, whatever it is:
a document's name, a label, a site.
"""

import functools
import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monosem.rendering.histogram import svg
from monosem.rendering.tokens import highlight, token
from monosem.rendering.visible import printable


def render(package: str, template: str, /, **values: object) -> Markup:
    """Return `template` of `package` (its folder `templates`), filled in with `values`."""
    return Markup(environment(package).get_template(template).render(**values))


@functools.cache
def environment(package: str) -> Environment:
    """Return the environment that reads the templates of `package`."""
    found = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    found.filters.update(number=number, share=share, one_in=one_in, count=count, signed=signed)
    found.filters.update(token=token)
    drawings: dict[str, Any] = {"highlight": highlight, "histogram": svg, "bar": bar}
    found.globals.update(drawings)
    return found


def number(value: float | int | None) -> str:
    """Return three significant digits; a dash where there is no value.

    >>> number(0.12345), number(1234.5), number(12.0), number(None), number(float("nan"))
    ('0.123', '1,234', '12.0', '—', '—')
    """
    if value is None or not math.isfinite(value):
        return "—"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".").replace("-", "−", 1)


def share(value: float | int | None) -> str:
    """Return a share as a percentage of two significant digits.

    >>> share(0.0013), share(0.5), share(0.0), share(1e-7), share(1.0)
    ('0.13 %', '50 %', '0 %', '0.00001 %', '100 %')
    """
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0 %"
    percent = 100 * value
    digits = max(0, 1 - math.floor(math.log10(abs(percent))))
    shown = f"{percent:,.{digits}f}"
    return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown} %"


def one_in(density: float | int) -> str:
    """Return a density as "one token in n".

    >>> one_in(0.0013), one_in(0.0)
    ('one token in 769', 'on no token')
    """
    return f"one token in {round(1 / density):,}" if density > 0 else "on no token"


def count(value: int) -> str:
    """Return an integer with thousands set apart."""
    return f"{value:,}"


def signed(value: float | int) -> str:
    """Return two decimals with a sign.

    >>> signed(0.5), signed(-1.0)
    ('+0.50', '−1.00')
    """
    return f"{value:+.2f}".replace("-", "−")


def bar(value: float | int, largest: float | int) -> Markup:
    """Return a horizontal bar of `|value| / largest` of its column, as SVG."""
    width = 100 * min(abs(value) / largest, 1.0) if largest > 0 else 0.0
    return Markup(
        '<svg class="rod" aria-hidden="true"><rect width="{:.1f}%" height="100%" '
        'fill="currentColor"/></svg>'
    ).format(width)


def _clean(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value
