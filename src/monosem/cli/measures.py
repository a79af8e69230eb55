"""`monosem evaluate --measures`: measures of dictionaries by name, beside the neuron basis and baselines."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from monosem.cli.evaluate import open_dictionaries, open_model, open_store
from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.metrics.evaluate import EvaluateConfig
from monosem.metrics.perturbation import WARNING
from monosem.metrics.record import write_survey
from monosem.metrics.stream import Place, site_of, target_of
from monosem.metrics.subject import NAMES, SurveyConfig
from monosem.metrics.survey import Other, as_json, survey
from monosem.models.language_model import LanguageModel
from monosem.rendering import table
from monosem.text.tokens import TokenStore

MOST_NAMED = 3
"""Numbers that are named beside the reason why they are not there."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Take measures of dictionaries by name, beside the neuron basis."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A training run (all its dictionaries are measured), or one dictionary, in any known format."""
    run: Annotated[SurveyConfig, tyro.conf.arg(name="")] = field(default_factory=SurveyConfig)
    """Which measures, and on how much text."""
    against: Path | None = None
    """Another dictionary, for `mmcs` and `universality`: of the same language model, or of one that reads the
    same tokens."""
    model: str = ""
    """Language model; left out, the one the dictionaries were trained on."""
    tokens: Path | None = None
    """Token store; left out, the one they were trained on is looked for where it lay, and near."""
    site: str = ""
    """Site, for a dictionary that does not record its own."""
    baselines: tuple[str, ...] = ()
    """Baselines measured beside the dictionaries: random, pca, pca-first, pca-one, ica,
    ica-one, nmf, classical, lasso."""
    neurons: bool = True
    """Measure the neuron basis beside the dictionaries."""
    out: Path | None = None
    """Folder to keep the results in, as an artifact."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Measure anew, even where the results lie already."""
    json: bool = False
    """Print the results as JSON."""


def show(arguments: list[str]) -> int:
    """Parse, measure, print a table for each measure."""
    given = tyro.cli(Arguments, prog="monosem evaluate --measures", args=arguments)
    if not given.run.measures:
        raise ConfigError(f"`--measures` names none. There are {', '.join(NAMES)}.")
    dictionaries = open_dictionaries(given.folder)
    store = open_store(given.tokens, dictionaries, given.folder)
    model = open_model(given.model, dictionaries, given.device)
    other: Other | None = None
    if given.against is not None:
        found = open_dictionaries(given.against)
        theirs = model if given.model else open_model("", found, given.device)
        other = _other(found, given.against, theirs, store, given.site)
    beside = EvaluateConfig(baselines=given.baselines, seed=given.run.seed)
    results = _results(given, dictionaries, model, store, other, beside)
    print(json.dumps(results, indent=2) if given.json else report(results))
    return 0


def report(results: Json) -> str:
    """Return a table for each measure: a row for each of its numbers, of each dictionary."""
    names = list(next(iter(results.values())))
    parts: list[str] = []
    for name in names:
        rows = [
            [dictionary, what, *_cells(measure)]
            for dictionary, measured in results.items()
            for what, measure in measured[name].items()
        ]
        head = [name, "of", "value", "95 %", "chance"]
        shown = [[what, dictionary, *rest] for dictionary, what, *rest in rows]
        note = f"{NAMES[name]}."
        lines = [note[:1].upper() + note[1:], table.text(head, shown)]
        parts.append("\n".join([*lines, *_reasons(results, name)]))
    if "perturbation" in names:
        parts.append(f"Of TPP: {WARNING}.")
    return "\n\n".join(parts)


def _results(
    given: Arguments,
    dictionaries: dict[str, Dictionary[Any]],
    model: LanguageModel,
    store: TokenStore,
    other: Other | None,
    beside: EvaluateConfig,
) -> Json:
    site = given.site or None
    if given.out is not None:
        return write_survey(
            dictionaries,
            model,
            store,
            given.out,
            given.run,
            site=site,
            other=other,
            beside=beside,
            neurons=given.neurons,
            fresh=given.fresh,
        )
    found = survey(
        dictionaries,
        model,
        store,
        given.run,
        site=site,
        other=other,
        beside=beside,
        neurons=given.neurons,
    )
    return as_json(found)


def _other(
    found: dict[str, Dictionary[Any]],
    folder: Path,
    model: LanguageModel,
    store: TokenStore,
    site: str,
) -> Other:
    if len(found) != 1:
        raise ConfigError(
            f"`--against {folder}` holds {len(found)} dictionaries: {', '.join(found)}. Name one of them by "
            f"its own folder, such as `{folder / next(iter(found))}`."
        )
    place = Place(model, store, site_of(found, site or None), target_of(found))
    return Other(next(iter(found.values())), place)


def _cells(measure: Json) -> list[str]:
    value = measure["value"]
    if value is None:
        return ["n/a", "", ""]
    low, null = measure.get("low"), measure.get("null")
    around = "" if low is None else f"{low:.3g} to {measure['high']:.3g}"
    return [f"{value:.3g}", around, "" if null is None else f"{null:.3g}"]


def _reasons(results: Json, name: str) -> list[str]:
    """Return each reason why something is not applicable, once, with what it is of."""
    reasons: dict[str, list[str]] = {}
    for dictionary, measured in results.items():
        for what, measure in measured[name].items():
            if measure.get("void"):
                reasons.setdefault(measure["void"], []).append(f"{what} of {dictionary}")
    said: list[str] = []
    for reason, of in reasons.items():
        more = f" and {len(of) - MOST_NAMED} more" if len(of) > MOST_NAMED else ""
        said.append(f"{', '.join(of[:MOST_NAMED])}{more}: {reason}.")
    return said
