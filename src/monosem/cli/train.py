"""`monosem train`: train dictionaries on live activations of a model.

Every knob of every architecture is an option under its own name (`--k`, `--l1`); it is set in each
chosen dictionary that has it, and refused if none has. Lists are multiplied: every combination is a
dictionary, and all are trained on one stream in one pass. A recipe sets the defaults of a call:
what is given beside it stands.
"""

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_origin, get_type_hints

import tyro

from monosem.activations.pair import ModelPair, of_two_models
from monosem.activations.store import ActivationStore
from monosem.cli.knobs import no_knob, option, with_knobs
from monosem.cli.tables import plan_table, run_table
from monosem.core.errors import ArtifactMissingError, ConfigError, unknown_name
from monosem.dictionaries.base import DictionaryConfig, architectures
from monosem.dictionaries.wiring import Wiring
from monosem.models.language_model import LanguageModel
from monosem.models.patterns import matching_sites
from monosem.runtime.device import resolve
from monosem.runtime.distributed import World, device_of, joined
from monosem.runtime.trackers import PROJECT, TrackerName, trackers
from monosem.text.tokens import TokensConfig, TokenStore
from monosem.training.objectives import ObjectiveConfig, ObjectiveKind
from monosem.training.optim import OptimConfig
from monosem.training.plan import plan
from monosem.training.recipes import RECIPES, Recipe, recipe
from monosem.training.sharing import Parallel
from monosem.training.sweep import crossed
from monosem.training.trainer import TrainConfig, train, train_suite

TOKENS = Path("runs/tokens")
_RECIPE = (
    f"Take model, site, dictionaries, length and schedule from a recipe ({', '.join(RECIPES)}); "
    "options given beside it override it."
)


@dataclass(frozen=True, kw_only=True)
class OptimArguments(OptimConfig):
    """Optimiser and schedule; the learning rate is `--lr`."""

    lr: tyro.conf.Suppress[float] = OptimConfig.lr
    lrs: tyro.conf.Suppress[tuple[float, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What is read, for how long, and how it is learnt."""

    site: tuple[str, ...] = ("blocks.0.mlp.hook_post",)
    """Where activations are read; several sites are read together, by a crosscoder as a rule."""
    target: tuple[str, ...] = ()
    """Where the activations to reconstruct are, for a transcoder; left out, at `site`."""
    wiring: Literal["auto", "sae", "transcoder", "crosscoder", "clt"] = "auto"
    """`clt`: latents of the n-th site write the n-th target and all that follow; auto: sae, crosscoder
    or transcoder, by how many sites there are and whether there is a target."""
    skip: bool = False
    """Add a learnt linear map of the input to what a transcoder writes."""
    second_model: str = ""
    """Another model of the same tokenizer; names of its sites begin with `second:`."""
    n_tokens: int = 2_000_000
    """Ordinary tokens to train on."""
    batch_size: int = 2048
    """Tokens a step."""
    buffer_tokens: int = 2**18
    """Tokens that are captured at once and shuffled together."""
    optim: OptimArguments = field(default_factory=OptimArguments)
    """Optimiser and schedule."""
    matmul: Literal["auto", "fp32", "onednn", "bf16", "int8"] = "auto"
    """Arithmetic of matrix products; auto asks the machine."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveArguments:
    """What the loss has besides each dictionary's own terms."""

    objective: ObjectiveKind = "reconstruction"
    """`kl` or `ce` add that of the model's predictions with the reconstruction in place."""
    objective_weight: float = 1.0
    """What that term is multiplied by."""
    objective_start_share: float = 0.0
    """Share of the run after which it begins."""
    keep_reconstruction: bool = True
    """Whether the dictionary's own `mse` stays beside it."""


@dataclass(frozen=True, kw_only=True)
class TrackArguments:
    """Who is sent the run log as it is written; it changes nothing in the run."""

    track: tuple[TrackerName, ...] = ()
    """Trackers that are sent the run log, such as `wandb tensorboard`; one that fails stops nothing."""
    track_project: str = PROJECT
    """Project of the run at wandb and trackio."""


@dataclass(frozen=True, kw_only=True)
class SourceArguments:
    """Where activations come from, and where they go."""

    model: str = "1L-a"
    """An embedded model, a folder, or a name on the hub."""
    tokens: Path | None = None
    """Token store to read, its train split; left out, runs/tokens, which must hold a recipe's text."""
    activations: Path | None = None
    """Activations that `monosem capture` kept, to read instead of running the model."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dictionary_device: str = ""
    """Where dictionaries are, if not where the model is; activations are then made ahead."""


@dataclass(frozen=True, kw_only=True)
class AxisArguments:
    """What is trained: every combination of these, and of the knobs below, in one pass."""

    architecture: tuple[str, ...] = ("topk",)
    """Architectures, such as `topk relu`."""
    n_latents: tuple[int, ...] = (4096,)
    """Numbers of latents."""
    lr: tuple[float, ...] = (OptimConfig.lr,)
    """Peak learning rates of a dictionary with 2^14 latents of a site at least 512 wide; one with n has
    lr / sqrt(n / 2^14), and at a site d < 512 wide sqrt(512 / d) times as much."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the initial weights; the first is also that of the order of the activations."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train one or several sparse dictionaries on one stream of live activations."""

    recipe: Annotated[str, tyro.conf.arg(help=_RECIPE)] = ""
    axes: Annotated[AxisArguments, tyro.conf.arg(name="")] = field(default_factory=AxisArguments)
    sites: tuple[str, ...] = ()
    """Train the same at every one of these sites instead of `site`, in one pass of the model; names or
    patterns, such as 'blocks.*.hook_{resid_post,mlp_out}'."""
    source: Annotated[SourceArguments, tyro.conf.arg(name="")] = field(
        default_factory=SourceArguments
    )
    run: Annotated[RunArguments, tyro.conf.arg(name="")] = field(default_factory=RunArguments)
    objective: Annotated[ObjectiveArguments, tyro.conf.arg(name="")] = field(
        default_factory=ObjectiveArguments
    )
    out: Path = Path("runs/train")
    """Folder to write."""
    parallel: Parallel = "auto"
    """What several ranks, begun by `torchrun`, share out: rows of each batch (`data`), `latents`, or the
    dictionaries of a `sweep`; auto: dictionaries where there are enough, latents where they are many."""
    tracking: Annotated[TrackArguments, tyro.conf.arg(name="")] = field(
        default_factory=TrackArguments
    )
    fresh: bool = False
    """Start anew, even where a finished or interrupted run lies."""
    plan: bool = False
    """Say what the run would need of memory, disk, operations and time, and start nothing."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: list[str]) -> int:
    """Parse, train, print what came out; each rank that `torchrun` started does so, the first one prints."""
    with joined() as world:
        given, knobs = parsed(arguments)
        config = configuration(given, knobs)
        followed = trackers(given.tracking.track, given.tracking.track_project)
        store = _store(given)
        device = device_of(world, given.source.device)
        model = LanguageModel.load(given.source.model, device=device)
        if given.run.second_model:
            model = ModelPair(model, LanguageModel.load(given.run.second_model, device=device))
        where = _where(given, world)
        if given.plan:
            print(world.by_first(lambda: _planned(given, config, model, store, where)))
            return 0
        ranks: dict[str, Any] = {"world": world, "parallel": given.parallel}
        options: dict[str, Any] = {"fresh": given.fresh, "trackers": followed, **ranks, **where}
        if given.sites:
            sites = matching_sites(model, given.sites)
            made = train_suite(config, sites, model, store, given.out, **options)
            folders = {
                f"{site}/{name}": made.path / site / name for site in made for name in config.names
            }
        else:
            if len(config.names) > 1:
                sys.stderr.write(f"{len(config.names)} dictionaries: {', '.join(config.names)}\n")
            made = train(config, model, store, given.out, **options)
            folders = {name: made.folder(name) for name in made}
        summary = {"out": str(made.path), **made.summary}
        print(json.dumps(summary, indent=2) if given.json else run_table(folders, made.summary))
    return 0


def _where(given: Arguments, world: World) -> dict[str, Any]:
    """Return where activations are read, and where dictionaries are, as `train` takes it."""
    kept, name = given.source.activations, given.source.dictionary_device
    return {
        "activations": ActivationStore.open(kept) if kept else None,
        "device": str(resolve(device_of(world, name))) if name else None,
    }


def _planned(
    given: Arguments,
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    where: dict[str, Any],
) -> str:
    sites = matching_sites(model, given.sites) if given.sites else ()
    found = plan(config, model, store, sites=sites, out=given.out, **where)
    return json.dumps(found.to_json(), indent=2) if given.json else plan_table(found)


def parsed(arguments: list[str]) -> tuple[Arguments, dict[str, Any]]:
    """Return the arguments, on top of the recipe that they name, and the knobs that were given."""
    kind = with_knobs(Arguments)
    given = cast(Any, tyro.cli(kind, prog="monosem train", args=arguments))
    if given.recipe:
        default = kind(**_of_recipe(given.recipe, recipe(given.recipe)))
        given = cast(Any, tyro.cli(kind, prog="monosem train", args=arguments, default=default))
    knobs = {f.name: getattr(given.knobs, f.name) for f in dataclasses.fields(given.knobs)}
    return given, {name: value for name, value in knobs.items() if value is not None}


def configuration(given: Arguments, knobs: dict[str, Any]) -> TrainConfig:
    """Return the run that is asked for; what has no option is as in the recipe."""
    named = recipe(given.recipe).train if given.recipe else None
    once = configurations(given.axes, knobs, () if named is None else named.dictionaries)
    rates = list(given.axes.lr)
    crossed((), {"lr": rates})  # refuses the same one twice
    own = {f.name: getattr(given.run, f.name) for f in dataclasses.fields(given.run)}
    kind, skip = own.pop("wiring"), own.pop("skip")
    del own["second_model"]  # the sites say that they are its
    _check_models(given)
    if kind == "sae" and (given.run.target or len(given.run.site) > 1):
        raise ConfigError(
            "An sae reads one site and writes it. Leave `--target` and further sites out, or `--wiring`."
        )
    made = ("transcoder" if skip else "sae") if kind == "auto" else kind
    wiring = Wiring(kind=made, skip=skip)
    wired = [dataclasses.replace(config, wiring=wiring) for config in once]
    own["dictionaries"] = tuple(config for config in wired for _ in rates)
    own["site"], own["target"] = ", ".join(given.run.site), ", ".join(given.run.target)
    lrs = tuple(rate for _ in once for rate in rates) if len(rates) > 1 else ()
    own["optim"] = _optim(given.run.optim, rates[0], lrs)
    own["seed"] = given.axes.seed[0]
    own["objective"] = _objective(given.objective)
    return TrainConfig(**own) if named is None else dataclasses.replace(named, **own)


def configurations(
    axes: AxisArguments, knobs: dict[str, Any], of_recipe: tuple[DictionaryConfig, ...] = ()
) -> tuple[DictionaryConfig, ...]:
    """Return each named architecture with every combination of the values that were given."""
    for f in dataclasses.fields(axes):
        if not getattr(axes, f.name):
            raise ConfigError(
                f"`--{option(f.name)}` is empty. Give at least one value, or leave it out."
            )
    known = {name: kind for name, kind in architectures().items() if kind.trainable}
    set_before = {config.architecture: config for config in reversed(of_recipe)}
    for name in axes.architecture:
        if name not in known:
            raise unknown_name("architecture", name, known)
    kinds = dict.fromkeys(axes.architecture)
    if len(kinds) < len(axes.architecture):
        raise ConfigError("`architecture` names one twice: nothing is trained twice. Name it once.")
    bases = tuple(set_before.get(name) or known[name].config_type() for name in kinds)
    for name in knobs:
        if not any(hasattr(base, name) for base in bases):
            raise no_knob(name, bases)
    lists = {name: _values(bases, name, value) for name, value in knobs.items()}
    return crossed(bases, {**lists, "n_latents": axes.n_latents, "seed": axes.seed})


def _values(bases: tuple[DictionaryConfig, ...], name: str, given: Any) -> tuple[Any, ...]:
    """Return the values of a knob that were given: one where the knob is itself a list."""
    kind = next(type(base) for base in bases if hasattr(base, name))
    return (given,) if get_origin(get_type_hints(kind)[name]) is tuple else given


def _check_models(given: Arguments) -> None:
    """Raise `ConfigError` unless there is a second model where one is read, and only there."""
    of_second = of_two_models(", ".join((*given.run.site, *given.run.target, *given.sites)))
    if of_second and not given.run.second_model:
        raise ConfigError("A site begins with `second:`. Name its model: `--second-model`.")
    if given.run.second_model and not of_second:
        raise ConfigError(
            f"No site is of the second model `{given.run.second_model}`. Name one: `--site "
            f"{given.run.site[0]} second:{given.run.site[0]}`."
        )


def _optim(given: OptimArguments, lr: float, lrs: tuple[float, ...]) -> OptimConfig:
    own: dict[str, Any] = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    own |= {"lr": lr, "lrs": lrs}
    return OptimConfig(**own)


def _objective(given: ObjectiveArguments) -> ObjectiveConfig:
    return ObjectiveConfig(
        kind=given.objective,
        weight=given.objective_weight,
        start_share=given.objective_start_share,
        keep_reconstruction=given.keep_reconstruction,
    )


def _of_recipe(name: str, chosen: Recipe) -> dict[str, Any]:
    """Return the arguments that a recipe sets."""
    run, first = chosen.train, chosen.train.dictionaries[0]
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    shared = [f.name for f in dataclasses.fields(RunArguments) if f.name in fields]
    own: dict[str, Any] = {name: getattr(run, name) for name in shared}
    own |= {"site": run.sites, "target": run.targets}
    optim: dict[str, Any] = {
        f.name: getattr(run.optim, f.name) for f in dataclasses.fields(OptimConfig)
    }
    own["optim"] = OptimArguments(**optim)
    return {
        "recipe": name,
        "axes": AxisArguments(
            architecture=tuple(config.architecture for config in run.dictionaries),
            n_latents=(first.n_latents,),
            lr=(run.optim.lr,),
            seed=(run.seed,),
        ),
        "source": SourceArguments(model=chosen.model),
        "run": RunArguments(**own),
    }


def _store(given: Arguments) -> TokenStore:
    """Return the store that was named, or the usual one; the usual one must hold a recipe's text."""
    if given.source.tokens is not None or not given.recipe:
        return TokenStore.open(given.source.tokens or TOKENS)
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
