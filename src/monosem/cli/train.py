"""`monosem train`: train dictionaries on live activations of a model.

Every knob of every architecture is an option under its own name (`--k`, `--l1`); it is set in each
chosen dictionary that has it, and refused if none has. A recipe sets the defaults of a call: what
is given beside it stands.
"""

import ast
import dataclasses
import inspect
import json
import shlex
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

import tyro

from monosem.core.errors import ArtifactMissingError, ConfigError, unknown_name
from monosem.dictionaries.base import DictionaryConfig, architectures
from monosem.models.language_model import LanguageModel
from monosem.rendering.table import text as text_table
from monosem.runtime.trackers import PROJECT, TrackerName, trackers
from monosem.text.tokens import TokensConfig, TokenStore
from monosem.training.optim import OptimConfig
from monosem.training.recipes import RECIPES, Recipe, recipe
from monosem.training.trainer import TrainConfig, TrainingRun, train

TOKENS = Path("runs/tokens")
_RECIPE = (
    f"Take model, site, dictionaries, length and schedule from a recipe ({', '.join(RECIPES)}); "
    "options given beside it override it."
)


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What is read, for how long, and how it is learnt."""

    site: str = "blocks.0.mlp.hook_post"
    """Where activations are read."""
    target: str = ""
    """Where the activations to reconstruct are, for a transcoder; empty: at `site`."""
    n_tokens: int = 2_000_000
    """Ordinary tokens to train on."""
    batch_size: int = 2048
    """Tokens a step."""
    buffer_tokens: int = 2**18
    """Tokens that are captured at once and shuffled together."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    matmul: Literal["auto", "fp32", "onednn", "bf16"] = "auto"
    """Arithmetic of matrix products; auto asks the machine."""


@dataclass(frozen=True, kw_only=True)
class TrackArguments:
    """Who is sent the run log as it is written; it changes nothing in the run."""

    track: tuple[TrackerName, ...] = ()
    """Trackers that are sent the run log, such as `wandb tensorboard`; one that fails stops nothing."""
    track_project: str = PROJECT
    """Project of the run at wandb and trackio."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train one or several sparse dictionaries on one stream of live activations."""

    recipe: Annotated[str, tyro.conf.arg(help=_RECIPE)] = ""
    dictionaries: tuple[str, ...] = ("topk",)
    """Architectures to train side by side, such as `topk relu`."""
    n_latents: int = 4096
    """Latents of each dictionary."""
    model: str = "1L-a"
    """An embedded model, a folder, or a name on the hub."""
    tokens: Path | None = None
    """Token store to read, its train split; left out, runs/tokens, which must hold a recipe's text."""
    run: Annotated[RunArguments, tyro.conf.arg(name="")] = field(default_factory=RunArguments)
    out: Path = Path("runs/train")
    """Folder to write."""
    tracking: Annotated[TrackArguments, tyro.conf.arg(name="")] = field(
        default_factory=TrackArguments
    )
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of the order of the activations and of the initial weights."""
    fresh: bool = False
    """Start anew, even where a finished or interrupted run lies."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: list[str]) -> int:
    """Parse, train, print what came out."""
    given, knobs = parsed(arguments)
    config = configuration(given, knobs)
    followed = trackers(given.tracking.track, given.tracking.track_project)
    store = _store(given)
    model = LanguageModel.load(given.model, device=given.device)
    run = train(config, model, store, given.out, fresh=given.fresh, trackers=followed)
    if given.json:
        print(json.dumps({"out": str(run.path), **run.summary}, indent=2))
    else:
        print(_table(run))
    return 0


def parsed(arguments: list[str]) -> tuple[Arguments, dict[str, Any]]:
    """Return the arguments, on top of the recipe that they name, and the knobs that were given."""
    kind = _all_arguments()
    given = cast(Any, tyro.cli(kind, prog="monosem train", args=arguments))
    if given.recipe:
        default = kind(**_of_recipe(given.recipe, recipe(given.recipe)))
        given = cast(Any, tyro.cli(kind, prog="monosem train", args=arguments, default=default))
    knobs = {f.name: getattr(given.knobs, f.name) for f in dataclasses.fields(given.knobs)}
    return given, {name: value for name, value in knobs.items() if value is not None}


def configuration(given: Arguments, knobs: dict[str, Any]) -> TrainConfig:
    """Return the run that is asked for; what has no option is as in the recipe."""
    named = recipe(given.recipe).train if given.recipe else None
    dictionaries = configurations(given, knobs, () if named is None else named.dictionaries)
    own = {f.name: getattr(given.run, f.name) for f in dataclasses.fields(given.run)}
    own |= {"dictionaries": dictionaries, "seed": given.seed}
    return TrainConfig(**own) if named is None else dataclasses.replace(named, **own)


def configurations(
    given: Arguments, knobs: dict[str, Any], of_recipe: tuple[DictionaryConfig, ...] = ()
) -> tuple[DictionaryConfig, ...]:
    """Return one configuration for each named architecture, with the knobs that were given."""
    known = {name: kind for name, kind in architectures().items() if kind.trainable}
    set_before = {config.architecture: config for config in reversed(of_recipe)}
    configs: list[DictionaryConfig] = []
    for name in given.dictionaries:
        if name not in known:
            raise unknown_name("architecture", name, known)
        base = set_before.get(name) or known[name].config_type()
        own = {knob: value for knob, value in knobs.items() if hasattr(base, knob)}
        own |= {"n_latents": given.n_latents, "seed": given.seed}
        configs.append(dataclasses.replace(base, **own))
    for name in knobs:
        if not any(hasattr(config, name) for config in configs):
            option = name.replace("_", "-")
            raise ConfigError(
                f"No `{option}` in {', '.join(given.dictionaries)}. Leave `--{option}` out."
            )
    return tuple(configs)


def _of_recipe(name: str, chosen: Recipe) -> dict[str, Any]:
    """Return the arguments that a recipe sets."""
    run, first = chosen.train, chosen.train.dictionaries[0]
    own = {f.name: getattr(run, f.name) for f in dataclasses.fields(RunArguments)}
    return {
        "recipe": name,
        "dictionaries": tuple(config.architecture for config in run.dictionaries),
        "n_latents": first.n_latents,
        "model": chosen.model,
        "run": RunArguments(**own),
        "seed": run.seed,
    }


def _store(given: Arguments) -> TokenStore:
    """Return the store that was named, or the usual one; the usual one must hold a recipe's text."""
    if given.tokens is not None or not given.recipe:
        return TokenStore.open(given.tokens or TOKENS)
    wanted = recipe(given.recipe).tokens
    make = f"`{_command(wanted)}`"
    try:
        store = TokenStore.open(TOKENS)
    except ArtifactMissingError as error:
        raise ArtifactMissingError(
            f"There is no token store at `{TOKENS}`. Make the recipe's: {make}, or name another with "
            "`--tokens`."
        ) from error
    if store.config != wanted:
        raise ConfigError(
            f"`{TOKENS}` does not hold the text of the recipe `{given.recipe}`. To read it all the "
            f"same, name it: `--tokens {TOKENS}`; the recipe's is made by {make} into another folder."
        )
    return store


def _command(config: TokensConfig) -> str:
    """Return the command that makes the token store of `config`."""
    words = ["monosem", "tokens"]
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value != f.default:
            values = cast(tuple[Any, ...], value if isinstance(value, tuple) else (value,))
            words += [f"--{f.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def _all_arguments() -> type:
    """Return `Arguments` with one more option for each knob of an architecture."""
    knobs = dataclasses.make_dataclass(
        "Knobs",
        [
            (name, Annotated[hint | None, tyro.conf.arg(help=text)], field(default=None))
            for name, (hint, text) in _knobs().items()
        ],
        frozen=True,
        kw_only=True,
    )
    knobs.__doc__ = (
        "Knobs of the architectures; left out, each has the value that stands beside it."
    )
    extra = ("knobs", Annotated[knobs, tyro.conf.arg(name="")], field(default_factory=knobs))
    return dataclasses.make_dataclass(
        "AllArguments", [extra], bases=(Arguments,), frozen=True, kw_only=True
    )


def _knobs() -> dict[str, tuple[Any, str]]:
    """Return name, type and help of every knob that is an architecture's own."""
    common = {f.name for f in dataclasses.fields(DictionaryConfig)}
    hints: dict[str, Any] = {}
    said: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, kind in architectures().items():
        if not kind.trainable:
            continue
        own, texts = get_type_hints(kind.config_type), _texts(kind.config_type)
        for knob in dataclasses.fields(kind.config_type):
            if knob.name in common:
                continue
            hints[knob.name] = own[knob.name]
            same = (texts.get(knob.name, ""), str(knob.default))
            said.setdefault(knob.name, {}).setdefault(same, []).append(name)
    return {knob: (hints[knob], _help(said[knob])) for knob in hints}


def _help(said: dict[tuple[str, str], list[str]]) -> str:
    """Return what architectures say of one knob, each text once, with who has which default."""
    defaults: dict[str, list[str]] = {}
    for (text, default), names in said.items():
        defaults.setdefault(text, []).append(f"{', '.join(names)}: {default}")
    return " ".join(f"{text} ({'; '.join(own)})" for text, own in defaults.items())


def _texts(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, inherited ones included."""
    texts: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(part):
            continue
        tree = cast(
            ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cast(type, part)))).body[0]
        )
        for above, below in zip(tree.body, tree.body[1:], strict=False):
            if not isinstance(above, ast.AnnAssign) or not isinstance(above.target, ast.Name):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[above.target.id] = " ".join(str(below.value.value).split())
    return texts


def _table(run: TrainingRun) -> str:
    rows: list[list[str]] = []
    for name in run.names:
        last = run.summary["dictionaries"][name]
        values = [f"{last['loss']:.4f}", f"{last['l0']:.1f}", f"{last['fvu']:.4f}"]
        rows.append([name, *values, f"{last['n_dead']:,}", str(run.folder(name))])
    head = ["dictionary", "loss", "l0", "fvu", "dead", "folder"]
    epochs, seconds = run.summary["epochs"], run.summary["seconds"]
    note = f"{run.summary['n_tokens']:,} tokens ({epochs:.2f} epochs) in {seconds:.0f} s"
    return f"{text_table(head, rows)}\n{note}, last batch of training above."
