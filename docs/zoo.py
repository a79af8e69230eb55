"""Draws docs/induction.svg from the log of `2L-attn-only`, and measures anew the table of abilities of
docs/zoo.md: `python docs/zoo.py`, a minute or two of one core.
"""

import json
from pathlib import Path

from monosem.cli.abilities import several
from monosem.metrics.abilities import abilities
from monosem.models.language_model import LanguageModel
from monosem.models.loading import EMBEDDED, embedded_names
from monosem.rendering import lines
from monosem.text.genres.corpus import GENRES

PAGE = Path(__file__).with_name("zoo.md")
BEFORE = "`monosem evaluate --abilities` shows\n\n```\n"
"""What stands before the table on the page."""
FIGURE = Path(__file__).with_name("induction.svg")
MODEL = "2L-attn-only"
SHOWN = ("induction", "induction-prefix-1", "induction-prefix-2")


def curves(model: str = MODEL) -> dict[str, list[tuple[int, float]]]:
    """Return the abilities of the model's log over the tokens it had read."""
    log = (EMBEDDED / model / "log.jsonl").read_text(encoding="utf-8")
    measured = [line for line in map(json.loads, log.splitlines()) if "abilities" in line]
    return {
        name: [(line["tokens"], line["abilities"][name]) for line in measured] for name in SHOWN
    }


def figure() -> str:
    """Return the drawing as it should be."""
    bars = {g.ability.bar for g in GENRES if g.name in SHOWN and g.ability is not None}
    drawn = lines.svg(
        curves(),
        title=f"Induction of {MODEL} while it learns",
        x=lines.Axis(label="tokens read", log=True),
        y=lines.Axis(label="share of cases won", low=0.0, high=1.0, marks=tuple(sorted(bars))),
    )
    return str(drawn).replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" color="#6f6c66" ', 1
    )


def with_table(page: str) -> str:
    """Return the page with the table of what every model of the package can do, as measured now."""
    if page.count(BEFORE) != 1:
        raise SystemExit(f"{PAGE} has not one place where a table stands after {BEFORE!r}.")
    before, _, rest = page.partition(BEFORE)
    measured = {name: abilities(LanguageModel.load(name)) for name in embedded_names()}
    return f"{before}{BEFORE}{several(measured)}\n```{rest.partition('```')[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    FIGURE.write_text(figure() + "\n", encoding="utf-8")
