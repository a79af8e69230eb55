"""`monosem toy`: toy models of superposition, figure by figure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from monosem.core.errors import ConfigError

if TYPE_CHECKING:
    from monosem.dictionaries.base import Dictionary
    from monosem.studies.report import Stage
    from monosem.text.store import TokenStore

HELP = "toy models of superposition, figure by figure"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train toy models of superposition and draw what they show, beside the papers."""

    figures: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """phase, plateaus, pairs, budget, one-hot, mmcs; worlds and undertraining, which need a model. Left
    out: all that can be drawn."""
    scale: str = "small"
    """tiny (a minute), small (a quarter of an hour on one core) or paper (the papers' sizes)."""
    out: Path = Path("runs/toy")
    """Folder of the report and of its figures; those that are there already are not made again."""
    seed: int = 0
    """Seed of everything."""
    device: str = "auto"
    """Where models of `worlds` and `undertraining` run: auto, cpu, cuda or mps."""
    dictionary: tuple[Path, ...] = ()
    """For `worlds`: folders of trained dictionaries, of one model."""
    checkpoints: Path | None = None
    """For `undertraining`: the folder of checkpoints that `monosem pretrain --keep-checkpoints` kept."""
    model: str = ""
    """For `worlds`: the dictionaries' model."""
    tokens: Path | None = None
    """For both: a token store that the model reads."""
    site: str = "blocks.0.hook_resid_post"
    """For `undertraining`: where dictionaries are trained."""
    n_tokens: tuple[int, ...] = (50_000, 200_000, 800_000)
    """For `undertraining`: lengths of training; `worlds` reads the first."""
    fresh: bool = False
    """Make every figure anew; dictionaries of `undertraining` only where they are refused (damaged, or
    stopped on another machine)."""
    json: bool = False
    """Print the items as JSON."""


def main(arguments: list[str]) -> int:
    """Make the figures, print their items and where the report lies."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem toy", description=HELP)
    # Imported here for start-up time.
    from monosem.studies import report
    from monosem.studies.toy_models.study import toy_models

    found = toy_models(
        given.out,
        figures=given.figures,
        scale=given.scale,
        seed=given.seed,
        more=_with_models(given),
        fresh=given.fresh,
    )
    if given.json:
        items = [report.item_json(item) for figure in found for item in figure.items]
        print(json.dumps(items, indent=2))
    else:
        print(report.text(found))
        print(f"\n{given.out / report.PAGE}")
    return 0


def _with_models(given: Arguments) -> Mapping[str, Any]:
    """Return the figures that the given dictionaries or checkpoints allow."""
    for name, needs in (("worlds", given.dictionary), ("undertraining", given.checkpoints)):
        if name in given.figures and not needs:
            option = (
                "--dictionary FOLDER …, --model" if name == "worlds" else "--checkpoints FOLDER"
            )
            raise ConfigError(f"`{name}` needs `{option}` and `--tokens STORE`.")
    if not given.dictionary and given.checkpoints is None:
        return {}
    if given.tokens is None:
        raise ConfigError("Give the token store that the model reads: `--tokens STORE`.")
    if given.dictionary and not given.model:
        raise ConfigError("Name the model of the dictionaries: `--model NAME`.")
    from monosem.text.store import TokenStore  # here for start-up time

    store = TokenStore.open(given.tokens)
    more: dict[str, Any] = {}
    if given.dictionary:
        more["worlds"] = _worlds(given, store)
    if given.checkpoints is not None:
        more["undertraining"] = _undertraining(given, given.checkpoints, store)
    return more


def _worlds(given: Arguments, store: "TokenStore") -> "Stage":
    # Imported here for start-up time: they bring transformers.
    from monosem.core.config import content_hash
    from monosem.dictionaries.formats.loading import load
    from monosem.models.language_model import load_model
    from monosem.studies.report import Stage
    from monosem.studies.toy_models.study import VERSION
    from monosem.studies.toy_models.worlds import worlds

    names = {folder.name: folder for folder in given.dictionary}
    if len(names) < len(given.dictionary):
        names = {str(folder): folder for folder in given.dictionary}
    loaded = {name: load(folder) for name, folder in names.items()}
    model = load_model(given.model, device=given.device)
    hashes = [_content(dictionary) for dictionary in loaded.values()]
    asked = [given.n_tokens[0], given.seed]
    return Stage(
        make=partial(worlds, loaded, model, store, *asked),
        key=content_hash([VERSION, hashes, model.hash, store.hash, *asked]),
    )


def _undertraining(given: Arguments, checkpoints: Path, store: "TokenStore") -> "Stage":
    # Imported here for start-up time: they bring transformers.
    from monosem.core.config import content_hash
    from monosem.models.language_model import load_model
    from monosem.studies.report import Stage
    from monosem.studies.toy_models.study import VERSION
    from monosem.studies.toy_models.undertraining import undertraining

    folders = _steps(checkpoints)
    models = {s: load_model(str(path), device=given.device) for s, path in folders.items()}
    hashes = {str(step): model.hash for step, model in models.items()}
    asked = [given.site, list(given.n_tokens), given.seed]
    key = content_hash([VERSION, hashes, store.hash, *asked])
    out = given.out / f"undertraining-{key[:8]}"
    make = partial(
        undertraining,
        *(models, store, given.site, given.n_tokens, out),
        seed=given.seed,
        fresh=given.fresh,
    )
    return Stage(make=make, key=key)


def _content(dictionary: "Dictionary[Any]") -> str:
    """Return a hash of the weights of a dictionary, of whatever format."""
    digest = hashlib.sha256()
    for name, weight in sorted(dictionary.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _steps(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in `folder`, `step-N` each, by their step."""
    found = {
        int(path.name.removeprefix("step-")): path
        for path in sorted(folder.glob("step-*"))
        if path.name.removeprefix("step-").isdigit()
    }
    if not found:
        raise ConfigError(
            f"`{folder}` has no `step-…` folders. Name the `checkpoints` of a model that was trained with "
            "`monosem pretrain --keep-checkpoints N`."
        )
    return found
