"""`monosem train`: train dictionaries on live activations of a model.

Every knob of every architecture is an option under its own name (`--k`, `--l1`); it is set in each
chosen dictionary that has it, and refused if none has.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

import tyro

from monosem.core.errors import ConfigError, unknown_name
from monosem.dictionaries.base import DictionaryConfig, architectures
from monosem.models.language_model import LanguageModel
from monosem.rendering.table import text as text_table
from monosem.text.tokens import TokenStore
from monosem.training.optim import OptimConfig
from monosem.training.trainer import TrainConfig, TrainingRun, train


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train one or several sparse dictionaries on one stream of live activations."""

    dictionaries: tuple[str, ...] = ("topk",)
    """Architectures to train side by side, such as `topk relu`."""
    model: str = "1L-a"
    """An embedded model, a folder, or a name on the hub."""
    tokens: Path = Path("runs/tokens")
    """Token store to read; its train split is used."""
    site: str = "blocks.0.mlp.hook_post"
    """Where activations are read."""
    target: str = ""
    """Where the activations to reconstruct are, for a transcoder; empty: at `site`."""
    out: Path = Path("runs/train")
    """Folder to write."""
    n_latents: int = 4096
    """Latents of each dictionary."""
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
    given = cast(Any, tyro.cli(_all_arguments(), prog="monosem train", args=arguments))
    config = TrainConfig(
        site=given.site,
        target=given.target,
        dictionaries=configurations(given),
        n_tokens=given.n_tokens,
        batch_size=given.batch_size,
        buffer_tokens=given.buffer_tokens,
        optim=given.optim,
        matmul=given.matmul,
        seed=given.seed,
    )
    store = TokenStore.open(given.tokens)
    model = LanguageModel.load(given.model, device=given.device)
    run = train(config, model, store, given.out, fresh=given.fresh)
    if given.json:
        print(json.dumps({"out": str(run.path), **run.summary}, indent=2))
    else:
        print(_table(run))
    return 0


def configurations(given: Arguments) -> tuple[DictionaryConfig, ...]:
    """Return one configuration for each named architecture, with the knobs that were given."""
    known = {name: kind for name, kind in architectures().items() if kind.trainable}
    knobs = {name: getattr(given, name) for name in _knobs()}
    set_knobs = {name: value for name, value in knobs.items() if value is not None}
    configs: list[DictionaryConfig] = []
    for name in given.dictionaries:
        if name not in known:
            raise unknown_name("architecture", name, known)
        kind = known[name].config_type
        own = {
            k: v for k, v in set_knobs.items() if k in {f.name for f in dataclasses.fields(kind)}
        }
        configs.append(kind(n_latents=given.n_latents, seed=given.seed, **own))
    for name in set_knobs:
        if not any(hasattr(config, name) for config in configs):
            option = name.replace("_", "-")
            raise ConfigError(
                f"No `{option}` in {', '.join(given.dictionaries)}. Leave `--{option}` out."
            )
    return tuple(configs)


def _all_arguments() -> type:
    """Return `Arguments` with one more option for each knob of an architecture."""
    extra = [
        (name, Annotated[hint | None, tyro.conf.arg(help=text)], field(default=None))
        for name, (hint, text) in _knobs().items()
    ]
    return dataclasses.make_dataclass(
        "AllArguments", extra, bases=(Arguments,), frozen=True, kw_only=True
    )


def _knobs() -> dict[str, tuple[Any, str]]:
    """Return name, type and help of every knob that is an architecture's own."""
    common = {f.name for f in dataclasses.fields(DictionaryConfig)}
    knobs: dict[str, tuple[Any, str]] = {}
    for name, kind in architectures().items():
        if not kind.trainable:
            continue
        hints, texts = get_type_hints(kind.config_type), _texts(kind.config_type)
        for knob in dataclasses.fields(kind.config_type):
            if knob.name in common:
                continue
            text = f"{texts.get(knob.name, '')} ({name}: {knob.default})"
            before = knobs.get(knob.name)
            knobs[knob.name] = (hints[knob.name], f"{before[1]} {text}" if before else text)
    return knobs


def _texts(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass."""
    body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    texts: dict[str, str] = {}
    for above, below in zip(body, body[1:], strict=False):
        if not isinstance(above, ast.AnnAssign) or not isinstance(above.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[above.target.id] = str(below.value.value)
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
