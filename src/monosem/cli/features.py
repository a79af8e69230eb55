"""`monosem features`: build the feature database of a dictionary, or of the neurons of a site."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from monosem.cli.evaluate import open_dictionaries, open_model, open_store
from monosem.core import artifact
from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import KIND, FeatureDatabase
from monosem.models.language_model import LanguageModel
from monosem.rendering import table
from monosem.runtime.distributed import World, device_of, joined
from monosem.text.tokens import TokenStore


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Build the feature database of a dictionary in one pass over the text."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """A dictionary, in any known format or by its name on the hub (left out with --neurons)."""
    neurons: str = ""
    """Describe the neurons of this site instead of a dictionary, such as blocks.0.mlp.hook_post."""
    model: str = ""
    """Language model; left out, the one the dictionary was trained on."""
    tokens: Path | None = None
    """Token store; left out, the one it was trained on is looked for where it lay, and near."""
    site: str = ""
    """Site, for a dictionary that does not record its own."""
    features: tyro.conf.OmitArgPrefixes[FeaturesConfig] = field(default_factory=FeaturesConfig)
    out: Path = Path("runs/features")
    """The folder to write."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Build anew where a database lies already."""
    json: bool = False
    """Print the counts as JSON."""


def main(arguments: list[str]) -> int:
    """Build or reuse the database that `arguments` describe, and print its counts.

    Ranks that `torchrun` started share out the text; the first one prints.
    """
    with joined() as world:
        given = tyro.cli(Arguments, prog="monosem features", args=arguments)
        artifact.check_target(given.out, KIND)
        database = _build(given, world)
        print(json.dumps(counts(database), indent=2) if given.json else shown(database))
    return 0


def counts(database: FeatureDatabase) -> Json:
    """Return what `--json` prints: the database's place and identity, and its counts."""
    return {
        "path": str(database.path),
        "hash": database.hash,
        "dictionary": database.dictionary_name,
        "site": database.site,
        "n_latents": database.n_latents,
        **database.metrics,
    }


def shown(database: FeatureDatabase) -> str:
    """Return the table of counts and sizes, and the command to go on with."""
    m = database.metrics
    rows = [
        ["latents", f"{database.n_latents:,}"],
        ["alive", f"{m['n_alive']:,}"],
        ["ultralow", f"{m['n_ultralow']:,}"],
        ["dead", f"{m['n_dead']:,}"],
        ["ordinary tokens", f"{m['n_tokens']:,}"],
        ["l0", f"{m['l0']:.2f}"],
        ["SQLite, bytes a latent", f"{m['sqlite_bytes_a_latent']:,.0f}"],
        ["activations, bytes a token", f"{m['activation_bytes_a_token']:.1f}"],
        ["token store, bytes a token", f"{m['token_store_bytes_a_token']:.1f}"],
        ["seconds", f"{m['seconds']:.1f}"],
    ]
    heading = f"`{database.dictionary_name}` at {database.site}"
    return f"{table.text([heading, ''], rows)}\n\nNext: monosem explore {database.path}"


def _build(given: Arguments, world: World) -> FeatureDatabase:
    dictionary, model, store = _inputs(given, device_of(world, given.device))
    return build_features(
        dictionary,
        model,
        store,
        given.out,
        given.features,
        site=given.neurons or given.site or None,
        fresh=given.fresh,
        world=world,
    )


def _inputs(given: Arguments, device: str) -> tuple[Dictionary[Any], LanguageModel, TokenStore]:
    if bool(given.folder) == bool(given.neurons):
        raise ConfigError(
            "Pass either the folder of a dictionary or `--neurons SITE`, one of the two."
        )
    if given.folder is None:
        return _neuron_inputs(given, device)
    dictionaries = open_dictionaries(given.folder)
    if len(dictionaries) > 1:
        folders = ", ".join(f"`{given.folder / name}`" for name in dictionaries)
        raise ConfigError(
            f"`{given.folder}` holds {len(dictionaries)} dictionaries; a feature database is of one. "
            f"Pass one of {folders}."
        )
    store = open_store(given.tokens, dictionaries, given.folder)
    model = open_model(given.model, dictionaries, device)
    return next(iter(dictionaries.values())), model, store


def _neuron_inputs(
    given: Arguments, device: str
) -> tuple[Dictionary[Any], LanguageModel, TokenStore]:
    if not given.model or given.tokens is None:
        raise ConfigError("`--neurons` needs `--model` and `--tokens`: neurons record neither.")
    store = TokenStore.open(given.tokens)
    model = LanguageModel.load(given.model, device=device)
    return Neurons.of_width(model.width(given.neurons)), model, store
