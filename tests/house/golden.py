"""The golden run: every default of a configuration, and the numbers of a short pipeline made with them.

    text -> tokens -> language model -> every architecture -> evaluation -> feature databases

`golden.json` holds what came out when somebody last looked. Defaults are compared exactly; numbers
within a tolerance, which another processor's order of summation stays inside. After a change that is
wanted, `python tests/house/golden.py --write` records it anew; without `--write` it shows what differs.
"""

import dataclasses
import functools
import importlib
import json
import pkgutil
import random
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import monosem
from monosem.core.config import to_json
from monosem.dictionaries.base import DictionaryConfig, architectures
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import FeatureDatabase
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.models.language_model import LanguageModel
from monosem.models.small import preset
from monosem.rendering import table
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training.pretrain import PretrainConfig, pretrain
from monosem.training.recipes import RECIPES
from monosem.training.trainer import TrainConfig, TrainingRun, train

GOLDEN = Path(__file__).with_name("golden.json")
COMMAND = "python tests/house/golden.py --write"

ROOMS = ("text", "models", "activations", "dictionaries", "training", "metrics", "features", "cli")
"""Rooms whose configurations are recorded."""
CONSTANTS = ("dictionaries", "training")
"""Rooms whose numeric constants are recorded too: there they are defaults without an option."""

RELATIVE, ABSOLUTE, COUNT = 0.03, 2e-5, 6.0
"""How far a number may be from the golden one: a share of it, or so much; counts of latents, so many.
With processor instructions from SSE4 to AVX-512 these differ by about half of it at most."""
LOOSE = {"delta_ce": 0.6, "l0_penalty": 0.4, "fvu_special": 0.6, "fvu_p99": 0.1}
"""Shares for small differences of large numbers, and for means of a few tokens."""
FLOORS = {"delta_ce": 5e-4}
"""What a number may be off by, however small it is: nats of a loss of five and more."""
N_LATENTS, N_STEPS, BATCH = 256, 60, 256

Flat = dict[str, Any]


def defaults() -> Flat:
    """Return every default by name: of configurations, of recipes, and numeric constants."""
    found: Flat = {}
    for module in _modules():
        room = module.__name__.removeprefix("monosem.")
        for name, value in vars(module).items():
            if _is_configuration(value, module):
                for knob in dataclasses.fields(value):
                    found |= _flat(f"{room}.{name}.{knob.name}", _default(knob))
            elif room.partition(".")[0] in CONSTANTS and name.isupper():
                found |= {f"{room}.{name}": value} if type(value) in (int, float) else {}
    for name, recipe in RECIPES.items():
        found |= _flat(f"recipe.{name}", to_json(recipe()))
    return dict(sorted(found.items()))


def numbers(folder: Path) -> Flat:
    """Return the numbers of the pipeline, run in `folder`, by name."""
    store, model = inputs(folder)
    run = learn(folder / "run", store, model, tuple(_smallest().values()))
    found: Flat = {"tokens.n_train": store.n_tokens("train")}
    config = EvaluateConfig(
        n_loss_tokens=2_000, n_mean_tokens=4_000, n_density_tokens=10_000, matmul="fp32"
    )
    measured = evaluate_many({n: run[n] for n in run}, model, store, config, neurons=False)
    for name in run:
        found |= _flat(f"{name}.training", run.log[-1][name])
        kept = {k: v for k, v in measured[name].items() if not isinstance(v, (str, dict, list))}
        found |= _flat(f"{name}.evaluation", kept)
        features = FeaturesConfig(n_tokens=6_000, matmul="fp32")
        database = build_features(run[name], model, store, folder / f"features-{name}", features)
        found |= _flat(f"{name}.database", _summary(database))
        database.close()
    return {k: v for k, v in found.items() if v is not None}


def inputs(folder: Path) -> tuple[TokenStore, LanguageModel]:
    """Return the tokens of a text that follows a rule, and a language model trained a little on it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(200)]
    for number in range(60):
        at, text = chance.randrange(200), []
        for _ in range(300):
            at = (3 * at + chance.choice((1, 7, 19))) % 200
            text.append(words[at])
        (corpus / f"{number:02}.txt").write_text(" ".join(text) + "\n", encoding="utf-8")
    tokens = TokensConfig(corpora=(str(corpus),), tokenizer="train:300", context=32)
    store = build_token_store(tokens, folder / "tokens")
    config = PretrainConfig(
        model=preset("tiny"),
        n_tokens=60_000,
        batch_contexts=8,
        keep_checkpoints=1,
        precision="fp32",
    )
    cpu = torch.device("cpu")
    name = pretrain(config, store, folder / "model", device=cpu)
    return store, LanguageModel.load(name, device="cpu")


def learn(
    out: Path,
    store: TokenStore,
    model: LanguageModel,
    dictionaries: tuple[DictionaryConfig, ...],
    **changed: Any,
) -> TrainingRun:
    """Train `dictionaries` on one stream, with the defaults of a run but for its length."""
    config = TrainConfig(
        site="blocks.0.mlp.hook_post",
        dictionaries=dictionaries,
        n_tokens=N_STEPS * BATCH,
        batch_size=BATCH,
        buffer_tokens=4096,
        matmul="fp32",
    )
    return train(dataclasses.replace(config, **changed), model, store, out)


def changed_defaults(golden: Flat, now: Flat) -> list[list[str]]:
    """Return (name, golden, now) of every default that is not the same."""
    names = sorted(golden.keys() | now.keys())
    return [_row(n, golden, now) for n in names if n not in golden or golden[n] != now.get(n, ...)]


def changed_numbers(golden: Flat, now: Flat) -> list[list[str]]:
    """Return (name, golden, now) of every number that is further off than the tolerance."""
    names = sorted(golden.keys() | now.keys())
    return [_row(n, golden, now) for n in names if not _near(n, golden.get(n), now.get(n))]


def tolerance(name: str, golden: float) -> float:
    """Return how far the number of this name may be from the golden one."""
    last = name.rpartition(".")[2]
    least = COUNT if last.startswith("n_") else FLOORS.get(last, ABSOLUTE)
    return max(least, LOOSE.get(last, RELATIVE) * abs(golden))


def report(rows: list[list[str]]) -> str:
    """Return a table of what changed, and what to do."""
    shown = table.text(["what", "golden", "now"], rows)
    return f"{shown}\n\nIf this is wanted: `{COMMAND}`, and commit {GOLDEN.name} with the change."


def read() -> dict[str, Flat]:
    """Return `defaults` and `numbers` as recorded."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@functools.cache
def _modules() -> tuple[ModuleType, ...]:
    names = [found.name for found in pkgutil.walk_packages(monosem.__path__, "monosem.")]
    return tuple(importlib.import_module(n) for n in names if n.split(".")[1] in ROOMS)


def _is_configuration(value: object, module: ModuleType) -> bool:
    return (
        isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and value.__name__.endswith(("Config", "Arguments"))
    )


def _default(knob: dataclasses.Field[Any]) -> object:
    if knob.default_factory is not dataclasses.MISSING:
        return to_json(knob.default_factory())
    return None if knob.default is dataclasses.MISSING else to_json(knob.default)


def _flat(name: str, value: object) -> Flat:
    """Return the values inside `value` by path; an empty list is a value."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in _flat(f"{name}.{key}", value[key]).items()}
    if isinstance(value, list) and value:
        parts = [_flat(f"{name}.{i}", each) for i, each in enumerate(value)]
        return {k: v for part in parts for k, v in part.items()}
    return {name: value}


def _smallest() -> dict[str, DictionaryConfig]:
    """Return every trainable architecture with its defaults, but narrow."""
    kinds = {name: kind for name, kind in architectures().items() if kind.trainable}
    return {name: kind.config_type(n_latents=N_LATENTS) for name, kind in kinds.items()}


def _summary(database: FeatureDatabase) -> Flat:
    """Return counts, and means over the features that fire."""
    counts = {k: database.metrics[k] for k in ("n_tokens", "n_alive", "n_ultralow", "n_dead", "l0")}
    firing = [f for f in database.list(limit=N_LATENTS) if f.n_fired > 0]
    of_each = {
        "density": [f.density for f in firing],
        "max_activation": [f.max_activation for f in firing],
        "mean_activation": [f.mean_activation for f in firing],
        "top_logit": [f.top_logits[0][2] for f in firing],
        "nearest": [f.neighbours[0][1] for f in firing],
        "neuron": [f.neurons[0][1] for f in firing if f.neurons],
    }
    return counts | {name: sum(v) / max(1, len(v)) for name, v in of_each.items()}


def _near(name: str, golden: float | None, now: float | None) -> bool:
    if golden is None or now is None:
        return False
    return abs(now - golden) <= tolerance(name, golden)


def _row(name: str, golden: Flat, now: Flat) -> list[str]:
    return [name, *(json.dumps(f[name]) if name in f else "—" for f in (golden, now))]


def main(arguments: list[str]) -> int:
    """Show what differs from `golden.json`, or write it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        now = {"defaults": defaults(), "numbers": numbers(Path(folder))}
    now["numbers"] = {k: float(f"{v:.6g}") for k, v in now["numbers"].items()}
    if GOLDEN.is_file():
        then = read()
        rows = changed_defaults(then["defaults"], now["defaults"])
        rows += changed_numbers(then["numbers"], now["numbers"])
        print(report(rows) if rows else "Nothing changed.")
    else:
        rows = []
    if "--write" in arguments:
        GOLDEN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
