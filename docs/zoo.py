"""Draws docs/induction.svg from the log of `2L-attn-only`: `python docs/zoo.py`."""

import json
from pathlib import Path

from monosem.models.loading import EMBEDDED
from monosem.rendering import lines
from monosem.text.genres.corpus import GENRES

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
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" color="#6f6c66" ', 1)


if __name__ == "__main__":
    FIGURE.write_text(figure() + "\n", encoding="utf-8")
