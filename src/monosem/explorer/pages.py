"""The explorer's pages as pure functions of a feature database and what the address asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

from markupsafe import Markup

from monosem.explorer.evidence import evidence, remark
from monosem.explorer.metrics import Metrics, metrics_table
from monosem.explorer.origin import origin_table
from monosem.explorer.summary import Summary
from monosem.explorer.view import feature_view, list_row
from monosem.features.database import FeatureDatabase
from monosem.rendering.feature import panel
from monosem.rendering.page import page
from monosem.rendering.template import render

PAGE_SIZE = 50

Sort = Literal["density", "max_activation", "mean_activation", "kurtosis", "index"]
Status = Literal["", "alive", "ultralow", "dead"]

_SORTS = [
    ("density", "density"),
    ("max_activation", "maximum"),
    ("mean_activation", "mean when active"),
    ("kurtosis", "kurtosis"),
    ("index", "index"),
]
_STATUSES = [("", "any"), ("alive", "alive"), ("ultralow", "ultralow"), ("dead", "dead")]


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a list page shows; its address is nothing but this."""

    search: str = ""
    status: Status = ""
    sort: Sort = "density"
    descending: bool = True
    page: int = 0

    def address(self, base: str, **changes: Any) -> str:
        """Return the address of this list with `changes`."""
        values = asdict(replace(self, **changes))
        values["descending"] = str(values["descending"]).lower()
        return f"{base}?{urlencode({k: v for k, v in values.items() if v not in ('', 0)})}"

    def feature_address(self, base: str, index: int, at: int) -> str:
        """Return the address of the feature that stands at position `at` of the whole list."""
        return f"{self.address(f'{base}{index}', page=0)}&at={at}"


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where one goes on from a feature: back to the list, and to what stands beside it there."""

    up: str
    previous: tuple[str, int] | None = None
    """Address and index of the feature before."""
    next: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the explorer a page stands: all names, which of them is open, and the way on."""

    names: Sequence[str]
    name: str = ""
    way: Way | None = None


def base(name: str) -> str:
    """Return the address of a dictionary's list."""
    return f"/{quote(name, safe='')}/"


def summary_page(
    place: Place, summaries: Sequence[Summary], metrics: Mapping[str, Metrics]
) -> Markup:
    """Return the front page: every dictionary with its density, the metrics, where all comes from."""
    body = render(
        "monosem.explorer",
        "summary.html",
        title="Dictionaries",
        summaries=summaries,
        metrics=metrics_table(metrics) if metrics else None,
        origins=origin_table({s.name: s.origin for s in summaries}),
    )
    return page("Monosem", body, nav=_nav(place))


def list_page(place: Place, database: FeatureDatabase, query: Query) -> Markup:
    """Return one page of the list of features."""
    status = query.status or None
    n_found = database.count(status=status, search=query.search)
    found = database.list(
        sort=query.sort,
        descending=query.descending,
        status=status,
        search=query.search,
        offset=query.page * PAGE_SIZE,
        limit=PAGE_SIZE,
    )
    here = base(place.name)
    first = query.page * PAGE_SIZE
    rows = [
        {**list_row(database, f), "address": query.feature_address(here, f.index, first + i)}
        for i, f in enumerate(found)
    ]
    body = render(
        "monosem.explorer",
        "list.html",
        name=place.name,
        unit=database.unit.lower(),
        site=database.sites,
        n_latents=database.n_latents,
        base=here,
        rows=rows,
        n_found=n_found,
        first=first,
        more=(query.page + 1) * PAGE_SIZE < n_found,
        number=query.page,
        search=query.search,
        status=query.status,
        sort=query.sort,
        descending=query.descending,
        sorts=_SORTS,
        statuses=_STATUSES,
        address=lambda **changes: query.address(here, **changes),
    )
    return page(f"{place.name} · Monosem", body, nav=_nav(place))


def feature_page(
    place: Place,
    database: FeatureDatabase,
    index: int,
    query: Query | None = None,
    at: int | None = None,
) -> Markup:
    """Return the page of one feature; where it was opened from a list, that list's order goes on."""
    feature = database.feature(index)
    view = feature_view(database, feature, remark=remark(feature, evidence(database, feature)))
    here = base(place.name)
    body = panel(view, link=lambda other: f"{here}{other}")
    keys = Markup(
        '<p class="note keys"><kbd>j</kbd> <kbd>k</kbd> next and previous · <kbd>l</kbd> list · '
        "<kbd>r</kbd> random · <kbd>w</kbd> whole lines</p>"
    )
    way = _way_in_list(here, database, index, query, at) if query and at is not None else None
    way = way or _way_by_index(here, database, index)
    title = f"{view.unit} {index} of {place.name} · Monosem"
    return page(title, body + keys, nav=_nav(replace(place, way=way)))


def message_page(place: Place, title: str, message: str) -> Markup:
    """Return a page that says one thing, such as what was not found."""
    body = render("monosem.explorer", "message.html", title=title, message=message)
    return page(title, body, nav=_nav(place))


def _nav(place: Place) -> Markup:
    return render(
        "monosem.explorer",
        "nav.html",
        names=place.names,
        name=place.name,
        way=place.way,
    )


def _way_by_index(here: str, database: FeatureDatabase, index: int) -> Way:
    before, after = index - 1, index + 1
    return Way(
        up=here,
        previous=(f"{here}{before}", before) if before >= 0 else None,
        next=(f"{here}{after}", after) if after < database.n_latents else None,
    )


def _way_in_list(
    here: str, database: FeatureDatabase, index: int, query: Query, at: int
) -> Way | None:
    """Return the way on in the list of `query`; None where the feature does not stand there."""
    start = max(at - 1, 0)
    found = database.list(
        sort=query.sort,
        descending=query.descending,
        status=query.status or None,
        search=query.search,
        offset=start,
        limit=at + 2 - start,
    )
    near = {start + i: feature.index for i, feature in enumerate(found)}
    if near.get(at) != index:
        return None

    def step(position: int) -> tuple[str, int] | None:
        if position not in near:
            return None
        return query.feature_address(here, near[position], position), near[position]

    up = query.address(here, page=at // PAGE_SIZE)
    return Way(up=up, previous=step(at - 1), next=step(at + 1))
