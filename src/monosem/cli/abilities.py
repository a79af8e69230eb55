"""`monosem evaluate --abilities`: what language models can do, on cases that no training text holds."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from monosem.metrics.abilities import Measured, abilities
from monosem.models.language_model import LanguageModel
from monosem.models.loading import embedded_names
from monosem.rendering import table
from monosem.text.genres.corpus import GENRES, genres_of


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure what language models can do: one table for them all."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Language models: of the package, folders (checkpoints too), or names on the hub; none named: all of
    the package."""
    genres: tuple[str, ...] = ()
    """Only these abilities, by name, or Python files that define a `GENRE` of your own."""
    n: int = 400
    """Cases of each ability."""
    seed: int = 0
    """Seed of the cases."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print the results as JSON."""


def show(arguments: list[str]) -> int:
    """Parse, measure, print one table."""
    given = tyro.cli(Arguments, prog="monosem evaluate --abilities", args=arguments)
    genres = genres_of(given.genres) if given.genres else GENRES
    found: dict[str, dict[str, Measured]] = {}
    for name in given.models or embedded_names():
        model = LanguageModel.load(name, device=given.device)
        found[name] = abilities(model, genres, n=given.n, seed=given.seed)
    if given.json:
        print(json.dumps(as_json(found), indent=2))
    elif len(found) == 1:
        print(one(next(iter(found.values()))))
    else:
        print(several(found))
    return 0


def as_json(found: dict[str, dict[str, Measured]]) -> dict[str, dict[str, object]]:
    """Return all that was measured, with verdicts, by model and ability."""
    return {
        model: {
            name: {**dataclasses.asdict(m), "holds": m.holds, "verdict": m.verdict}
            for name, m in measured.items()
        }
        for model, measured in found.items()
    }


def one(measured: dict[str, Measured]) -> str:
    """Return the table of one model, a row an ability."""
    head = ["ability", "score", "95 %", "bar", "without it", "cases", "has it"]
    return table.text(head, [[name, *_row(m)] for name, m in measured.items()])


def several(found: dict[str, dict[str, Measured]]) -> str:
    """Return one table of many models, a column a model; what is below its bar is in brackets."""
    names = [Path(model).name if "/" in model else model for model in found]
    names = list(found) if len(set(names)) < len(names) else names
    first = next(iter(found.values()))
    rows = [
        [
            ability,
            f"{m.bar:.2f}",
            f"{m.chance:.2f}",
            *(_cell(measured[ability]) for measured in found.values()),
        ]
        for ability, m in first.items()
    ]
    note = (
        "In brackets: below the bar, not applicable: the model lacks it. —: too few cases.\n"
        "Chance: what guessing between the answer and the wrong ones wins."
    )
    return f"{table.text(['ability', 'bar', 'chance', *names], rows)}\n\n{note}"


def _row(m: Measured) -> list[str]:
    without = f"{m.chance:.2f}" if m.control is None else f"{m.control:.2f} (shuffled)"
    if m.share is None:
        return ["—", "", f"{m.bar:.2f}", without, f"{m.n}", m.verdict]
    span = f"{m.low:.3f} to {m.high:.3f}"
    return [f"{m.share:.3f}", span, f"{m.bar:.2f}", without, f"{m.n}", m.verdict]


def _cell(m: Measured) -> str:
    if m.share is None:
        return "—"
    return f"{m.share:.3f}" if m.holds else f"({m.share:.3f})"
