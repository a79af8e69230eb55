"""`monosem evaluate`: measure the dictionaries of a training run, or one dictionary, on held-out text."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from monosem.cli import abilities
from monosem.core import artifact
from monosem.core.artifact import CONFIG_NAME
from monosem.core.config import Json
from monosem.core.errors import ArtifactKindError, ArtifactMissingError, ConfigError
from monosem.dictionaries.base import Dictionary, load
from monosem.dictionaries.formats.loading import is_foreign
from monosem.dictionaries.formats.loading import load as load_any
from monosem.dictionaries.saving import KIND as DICTIONARY
from monosem.metrics.evaluate import EvaluateConfig
from monosem.metrics.record import KIND, evaluation, write_evaluation
from monosem.models.language_model import LanguageModel
from monosem.rendering import table
from monosem.text.store import KIND as TOKENS
from monosem.text.tokens import TokenStore
from monosem.training.run import KIND as RUN
from monosem.training.run import TrainingRun, tokens_at
from monosem.training.suite import KIND as SUITE
from monosem.training.suite import Suite

PLACES = (Path("runs"), Path("runs/demo"))
"""Where token stores usually lie, besides beside the run."""

MOST_COLUMNS = 4
"""Dictionaries, neuron bases included, that stand beside one another; more stand below one another."""

ROWS: tuple[tuple[str, str, str], ...] = (
    ("latents", "n_latents", "count"),
    ("l0", "l0", "number"),
    ("fvu", "fvu", "number"),
    ("fvu, special tokens", "fvu_special", "number"),
    ("fvu, 99th percentile", "fvu_p99", "number"),
    ("cosine", "cosine", "number"),
    ("norm ratio", "l2_ratio", "number"),
    ("reconstruction bias", "relative_reconstruction_bias", "number"),
    ("delta CE, nats", "delta_ce", "number"),
    ("loss recovered (zero)", "loss_recovered_zero", "number"),
    ("loss recovered (mean)", "loss_recovered_mean", "number"),
    ("dead", "n_dead", "count"),
    ("ultralow", "n_ultralow", "count"),
    ("frequent (> 1 %)", "n_frequent", "count"),
)
SHORT = {
    "fvu_special": "fvu, special",
    "fvu_p99": "fvu, p99",
    "relative_reconstruction_bias": "bias",
    "delta_ce": "delta CE",
    "loss_recovered_zero": "recovered (zero)",
    "loss_recovered_mean": "recovered (mean)",
    "n_frequent": "frequent",
}
"""Shorter words for columns."""
SECOND = "delta_ce"
"""Where the table of many dictionaries goes on in a second one."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure dictionaries on held-out text, beside the neuron basis."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A training run (all its dictionaries are measured), a suite, or one dictionary, in any known format
    or by its name on the hub."""
    model: str = ""
    """Language model; left out, the one the dictionaries were trained on."""
    tokens: Path | None = None
    """Token store; left out, the one they were trained on is looked for where it lay, and near."""
    site: str = ""
    """Site, for a dictionary that does not record its own."""
    run: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    """Settings of the evaluation."""
    neurons: bool = True
    """Measure the neuron basis beside the dictionaries."""
    abilities: bool = False
    """Measure what language models can do instead: `monosem evaluate --abilities MODEL …`, with options of
    its own, `--help` among them."""
    measures: tuple[str, ...] = ()
    """Take these measures instead: `monosem evaluate FOLDER --measures geometry polysemanticity …`, with
    options of their own, `--help` among them."""
    language_model: bool = True
    """Measure the language model beside n-gram models."""
    out: Path | None = None
    """Folder to keep the results in, as an artifact."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Measure anew, even where the results lie already."""
    json: bool = False
    """Print the results as JSON."""


def main(arguments: list[str]) -> int:
    """Parse, measure, print the table."""
    if "--abilities" in arguments:  # of language models: no dictionary, and options of its own
        return abilities.show([a for a in arguments if a != "--abilities"])
    if "--measures" in arguments:
        from monosem.cli import measures  # which imports this module

        return measures.show(arguments)
    given = tyro.cli(Arguments, prog="monosem evaluate", args=arguments)
    if artifact.peek(given.folder)[0] == SUITE:
        return _suite(given)
    if given.out is not None:
        artifact.check_target(given.out, KIND)
    dictionaries = open_dictionaries(given.folder)
    store = open_store(given.tokens, dictionaries, given.folder)
    model = open_model(given.model, dictionaries, given.device)
    results = _results(given, dictionaries, model, store)
    if given.json:
        print(json.dumps(results, indent=2))
    else:
        print(report(results))
    return 0


def _suite(given: Arguments) -> int:
    """Measure every site of a suite; results of each lie in a folder of its name."""
    sites = list(Suite.open(given.folder))
    for site in sites if given.out is not None else ():
        artifact.check_target(cast(Path, given.out) / site, KIND)
    results: Json = {}
    model: LanguageModel | None = None
    for site in sites:
        folder = given.folder / site
        out = None if given.out is None else given.out / site
        dictionaries = open_dictionaries(folder)
        store = open_store(given.tokens, dictionaries, folder)
        model = model or open_model(given.model, dictionaries, given.device)
        own = dataclasses.replace(given, folder=folder, out=out)
        results[site] = _results(own, dictionaries, model, store)
        if not given.json:
            sys.stderr.write(f"{site}: measured.\n")
    print(json.dumps({"sites": results}, indent=2) if given.json else suite_report(results))
    return 0


def suite_report(results: Json) -> str:
    """Return the evaluations of a suite as one table, a row for each dictionary of each site."""
    rows = {
        f"{site}/{name}": measures
        for site, found in results.items()
        for name, measures in cast(dict[str, Json], found["dictionaries"]).items()
    }
    last = cast(Json, next(reversed(results.values())))
    parts = [_tables_below(rows)]
    for found in results.values():
        own = cast(dict[str, Json], found["dictionaries"])
        parts.append(_notes(own, next(iter(own.values()))))
    return "\n\n".join([*parts, *_losses(last)])


def open_dictionaries(folder: Path) -> dict[str, Dictionary[Any]]:
    """Return the dictionaries of a training run or suite, or the one at `folder`, by name."""
    if folder.parts[:1] == ("hf:",):  # a path has no two slashes together, an address has
        return {folder.name: load_any("hf://" + "/".join(folder.parts[1:]))}
    kind, _ = artifact.peek(folder)
    if kind == RUN:
        run = TrainingRun.open(folder)
        return {name: run[name] for name in run}
    if kind == DICTIONARY:
        return {folder.resolve().name: load(folder)}
    if kind == SUITE:
        suite = Suite.open(folder)
        return {
            f"{site}/{name}": run[name] for site in suite for run in [suite[site]] for name in run
        }
    if kind:
        raise ArtifactKindError(
            f"`{folder}` holds a {kind}. Pass the folder of a {RUN} or of a {DICTIONARY}."
        )
    if is_foreign(folder):
        return {folder.name: load_any(folder)}
    if (folder / CONFIG_NAME).is_file():
        artifact.read(folder, DICTIONARY)  # damaged, or another program's: it says which
    raise ArtifactMissingError(
        f"There is no {RUN} or {DICTIONARY} at `{folder}`. Make one with `monosem train`."
    )


def open_model(name: str, dictionaries: dict[str, Dictionary[Any]], device: str) -> LanguageModel:
    """Return the model `name`, or the one the dictionaries record; that one must be unchanged."""
    if name:
        return LanguageModel.load(name, device=device)
    recorded = next((d.origin.model for d in dictionaries.values() if d.origin.model), "")
    known, _, expected = recorded.rpartition(" ") if " " in recorded else (recorded, "", "")
    if " + " in known:
        raise ConfigError(
            f"The dictionary is of two language models, `{known}`; measures and features are of one. "
            "Look at its `site_shares()` and `rows_by_site()`."
        )
    if not known:
        raise ConfigError("The dictionary does not record its language model. Pass `--model`.")
    model = LanguageModel.load(known, device=device)
    if expected and model.hash != expected:
        raise ConfigError(
            f"`{known}` has changed since the dictionary was trained (hash {model.hash}, not "
            f"{expected}). Pass the right one with `--model`, or this one if you mean it."
        )
    return model


def open_store(
    path: Path | None, dictionaries: dict[str, Dictionary[Any]], folder: Path
) -> TokenStore:
    """Return the token store at `path`, or the one the dictionaries were trained on."""
    if path is not None:
        return TokenStore.open(path)
    wanted = next((d.origin.tokens for d in dictionaries.values() if d.origin.tokens), "")
    for candidate in _near(folder):
        if wanted and artifact.peek(candidate) == (TOKENS, wanted):
            return TokenStore.open(candidate)
    raise ConfigError(
        f"The token store that `{folder}` was trained on ({wanted or 'not recorded'}) lies neither "
        "where it lay then, nor beside it, nor in `runs/`. Pass `--tokens`."
    )


def report(results: Json) -> str:
    """Return the tables of an evaluation, with a line on what was read and what is void."""
    dictionaries = cast(dict[str, Json], results["dictionaries"])
    first = next(iter(dictionaries.values()))
    parts = [_table(dictionaries), _notes(dictionaries, first), *_losses(results)]
    return "\n\n".join(parts)


def _losses(results: Json) -> list[str]:
    """Return the table of the language model beside n-gram models, if they were measured."""
    if not results["language_model"]:
        return []
    losses = cast(dict[str, float], results["language_model"])
    names = {"loss": "this model"}
    rows = [[names.get(k, f"Kneser–Ney {k}"), f"{v:.3f}"] for k, v in losses.items()]
    return [table.text(["held-out loss", "nats a token"], rows)]


def _results(
    given: Arguments,
    dictionaries: dict[str, Dictionary[Any]],
    model: LanguageModel,
    store: TokenStore,
) -> Json:
    site = given.site or None
    if given.out is None:
        return evaluation(
            dictionaries,
            model,
            store,
            given.run,
            site=site,
            neurons=given.neurons,
            language_model=given.language_model,
        )
    there = (given.out / CONFIG_NAME).is_file() and not given.fresh
    results = write_evaluation(
        dictionaries,
        model,
        store,
        given.out,
        given.run,
        site=site,
        neurons=given.neurons,
        language_model=given.language_model,
        fresh=given.fresh,
    )
    if there:  # another evaluation there would have been refused
        sys.stderr.write(f"`{given.out}` is already there; used again.\n")
    return results


def _table(dictionaries: dict[str, Json]) -> str:
    if len(dictionaries) > MOST_COLUMNS:
        return _tables_below(dictionaries)
    rows = [
        [title, *(_cell(m, key, kind) for m in dictionaries.values())]
        for title, key, kind in _shown(dictionaries)
    ]
    return table.text(["", *dictionaries], rows)


def _shown(dictionaries: dict[str, Json]) -> list[tuple[str, str, str]]:
    return [row for row in ROWS if any(row[1] in m for m in dictionaries.values())]


def _tables_below(dictionaries: dict[str, Json]) -> str:
    shown = _shown(dictionaries)
    cut = next((i for i, row in enumerate(shown) if row[1] == SECOND), len(shown))
    return "\n\n".join(_below(dictionaries, part) for part in (shown[:cut], shown[cut:]) if part)


def _below(dictionaries: dict[str, Json], shown: Sequence[tuple[str, str, str]]) -> str:
    """Return a table with a row for each dictionary."""
    head = ["dictionary", *(SHORT.get(key, title) for title, key, _ in shown)]
    rows = [
        [name, *(_cell(m, key, kind) for _, key, kind in shown)] for name, m in dictionaries.items()
    ]
    return table.text(head, rows)


def _cell(measures: Json, key: str, kind: str) -> str:
    if key not in measures:
        return "—"
    value = measures[key]
    if value is None:
        return "void"
    return f"{value:,}" if kind == "count" else f"{value:.4f}"


def _notes(dictionaries: dict[str, Json], first: Json) -> str:
    shares = " + ".join(f"{n:,} {split}" for split, n in first["density_tokens"].items())
    lines = [
        f"Site {_where(first)}; reconstructions stand at ordinary positions only.",
        f"Losses on {first['n_loss_tokens']:,} held-out tokens: {first['loss']:.4f} nats; zeroing the "
        f"site costs {first['gap_zero']:.4f}, its mean {first['gap_mean']:.4f}.",
        f"Firings on {first['n_density_tokens']:,} tokens ({shares}); ultralow is under "
        f"{first['ultralow_below']:.1e}.",
    ]
    if first.get("target") or ", " in first["site"]:
        lines.append(
            "The neuron basis is no measure of several sites, or of a transcoder: left out."
        )
    for name, measures in dictionaries.items():
        by_site: dict[str, float] = measures.get("fvu_by_site", {})
        if by_site:
            lines.append(f"{name}: fvu " + ", ".join(f"{v:.4f} at {s}" for s, v in by_site.items()))
        reasons: dict[str, str] = measures.get("void", {})
        lines += [f"{name}: {key} is void, {reason}." for key, reason in reasons.items()]
    return "\n".join(lines)


def _where(measures: Json) -> str:
    target = measures.get("target", "")
    return f"{measures['site']} → {target}" if target else measures["site"]


def _near(folder: Path) -> Iterator[Path]:
    """Yield where the run had its store, the folders beside it, those in the usual places."""
    yield from tokens_at(folder)
    here = folder.resolve()
    places: Sequence[Path] = (here.parent, here.parent.parent, *PLACES)
    for place in places:
        yield from sorted(p for p in place.glob("*") if p.is_dir())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
