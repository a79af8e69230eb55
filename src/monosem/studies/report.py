"""What a study says: figures, each with items that stand beside the paper's own numbers.

A figure is kept as one JSON file as soon as it is done, so that a study goes on where it was stopped;
all together are one page, `report.html`, and one list, `report.json`.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from monosem.core.artifact import write_json
from monosem.core.errors import ConfigError
from monosem.rendering import table
from monosem.rendering.page import page
from monosem.rendering.template import number
from monosem.rendering.visible import printable

REPORT, PAGE = "report.json", "report.html"
MANY = 24
"""Items of a figure above which those without a number of the paper's are folded away on the page."""
Certainty = Literal["read in its code", "read in the paper", "from memory", "second hand", "—"]
Value = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One number, or one word, of a figure."""

    item: str
    """What it is."""
    here: Value
    """What was measured here."""
    how: str
    """The function, and the command, that it comes from."""
    unit: str = ""
    paper: Value = None
    """What the paper has; None: nothing to set beside."""
    paper_certainty: Certainty = "—"
    """How sure we are of that."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: drawings, a paragraph, items."""

    name: str
    title: str
    text: str
    """What is seen, and what this scale cannot show."""
    drawings: tuple[str, ...] = ()
    """SVG, escaped by those who drew it."""
    captions: tuple[str, ...] = ()
    """One a drawing."""
    items: tuple[Item, ...] = ()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """What went in: settings by name."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a figure is made, and what it hangs on."""

    make: Callable[[], Figure]
    key: str
    """A hash of sizes, seeds, models, text: a figure that was kept under another key is made anew."""


def run_stages(
    stages: Mapping[str, Stage],
    out: Path,
    *,
    fresh: bool = False,
    done: Callable[[], object] | None = None,
) -> list[Figure]:
    """Return the figures of `stages`, each made unless `out` has it from the same key.

    Each is written as soon as it is made, and `done` is called then: to write the page so far.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"`{out}` is a file. Name a folder for the study.")
    out.mkdir(parents=True, exist_ok=True)
    found: list[Figure] = []
    for name, stage in stages.items():
        place = out / f"{name}.figure.json"
        figure = None if fresh else _read(place, stage.key)
        if figure is None:
            figure = stage.make()
            write_json(place, {"key": stage.key, "figure": dataclasses.asdict(figure)})
        found.append(figure)
        if done is not None:
            done()
    return found


def kept(stages: Mapping[str, Stage], out: Path, others: Sequence[str] = ()) -> list[Figure]:
    """Return the figures of `stages` that `out` has, in their order; those of another key are left out.

    `others` are names of figures that are shown as they were kept: what they hang on is not known now.
    """
    read = [_read(out / f"{name}.figure.json", stage.key) for name, stage in stages.items()]
    read += [_read(out / f"{name}.figure.json", None) for name in others if name not in stages]
    return [figure for figure in read if figure is not None]


def write(figures: Sequence[Figure], out: Path, *, title: str, lead: str) -> Path:
    """Write `report.json` and `report.html` of `figures` into `out` and return the page's path."""
    write_json(out / REPORT, [item_json(i) for figure in figures for i in figure.items])
    body = Markup('<h1>{}</h1><p class="lead">{}</p>').format(printable(title), printable(lead))
    body += Markup("").join(_section(figure) for figure in figures)
    temporary = out / f".{PAGE}"
    temporary.write_text(str(page(title, body)), encoding="utf-8")
    return temporary.replace(out / PAGE)


def make(
    stages: Mapping[str, Stage],
    figures: Sequence[str],
    out: Path,
    *,
    title: str,
    lead: str,
    fresh: bool = False,
) -> list[Figure]:
    """Return `figures` of `stages` (none named: all), and write the page of those `out` has after each."""

    def done() -> None:
        write(kept(stages, out), out, title=title, lead=lead)

    wanted = {name: stages[name] for name in figures or stages}
    return run_stages(wanted, out, fresh=fresh, done=done)


def missing(lacks: Mapping[str, tuple[str, str]]) -> Figure:
    """Return the figure of what a study has not: by name, what the paper has, and why it is not here."""
    return Figure(
        name="missing",
        title="What is not here",
        text="What the paper shows and this study cannot recompute yet, and why.",
        items=tuple(
            Item(
                item=item,
                here=f"missing: {why}",
                paper=paper,
                paper_certainty="read in the paper",
                how="—",
            )
            for item, (paper, why) in lacks.items()
        ),
    )


def item_json(item: Item) -> dict[str, Value]:
    """Return an item as `report.json` has it."""
    return {
        "item": item.item,
        "paper": item.paper,
        "paper_certainty": item.paper_certainty,
        "here": _finite(item.here),
        "unit": item.unit,
        "how": item.how,
    }


def _finite(value: Value) -> Value:
    """JSON has no NaN: what could not be measured is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(figures: Sequence[Figure]) -> str:
    """Return the items as a table for a terminal."""
    rows = [
        [i.item, _shown(i.here), i.unit, _shown(i.paper), i.paper_certainty]
        for figure in figures
        for i in figure.items
    ]
    return table.text(["item", "here", "unit", "paper", "certainty"], rows)


def _shown(value: Value) -> str:
    if value is None or isinstance(value, str):
        return value or "—"
    return f"{value:,}" if isinstance(value, int) else number(value)


def _section(figure: Figure) -> Markup:
    drawings = Markup("").join(
        Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(
            printable(caption), Markup(drawing)
        )
        for drawing, caption in zip(figure.drawings, figure.captions, strict=True)
    )
    settings = [f"{name} {value}" for name, value in figure.notes.items()]
    if (how := _how_of_all(figure.items)) is not None:
        settings.append(f"from {how}")
    return Markup(
        '<section id="{}"><h2>{}</h2><p>{}</p><div class="small">{}</div>{}<p class="note">{}</p></section>'
    ).format(
        printable(figure.name),
        printable(figure.title),
        _prose(figure.text),
        drawings,
        _items(figure.items),
        printable("; ".join(settings)),
    )


def _items(items: Sequence[Item]) -> Markup:
    """Return the items as a table; of many those that have the paper's, and all behind a click."""
    if len(items) <= MANY:
        return _table(items)
    all_of_them = Markup("<details><summary>All {} numbers</summary>{}</details>")
    return _table([i for i in items if i.paper]) + all_of_them.format(len(items), _table(items))


def _table(items: Sequence[Item]) -> Markup:
    """Return the items as a table, without columns that say nothing, or the same of all."""
    if not items:
        return Markup("")
    columns = {
        "item": [i.item for i in items],
        "here": [_shown(i.here) for i in items],
        "unit": [i.unit for i in items],
        "paper": [_shown(i.paper) for i in items],
        "certainty": [i.paper_certainty for i in items],
        "how": [i.how for i in items],
    }
    said = {
        name: cells
        for name, cells in columns.items()
        if name in ("item", "here") or set(cells) - {"", "—"}
    }
    if _how_of_all(items) is not None:
        said.pop("how")
    return table.html(list(said), [list(row) for row in zip(*said.values(), strict=True)])


def _how_of_all(items: Sequence[Item]) -> str | None:
    """Return where all items come from, if that is one place, which is said once below the table."""
    hows = {i.how for i in items} - {""}
    return hows.pop() if len(hows) == 1 and "—" not in hows else None


def _prose(text: str) -> Markup:
    """Return a paragraph in which what stands in backticks is code."""
    parts = text.split("`") if text.count("`") % 2 == 0 else [text]
    return Markup("").join(
        Markup("<code>{}</code>" if i % 2 else "{}").format(printable(part))
        for i, part in enumerate(parts)
    )


def _read(path: Path, key: str | None) -> Figure | None:
    """The figure kept at `path`, if it is of the same `key`; None takes any."""
    if not path.is_file():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if key is not None and data["key"] != key:
            return None
        raw = data["figure"]
        return Figure(
            name=raw["name"],
            title=raw["title"],
            text=raw["text"],
            drawings=tuple(raw["drawings"]),
            captions=tuple(raw["captions"]),
            items=tuple(Item(**item) for item in raw["items"]),
            notes=raw["notes"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{path}` is no readable figure ({error}). Remove it, or pass `--fresh`."
        ) from error
