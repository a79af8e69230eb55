"""`monosem demo`: the whole road on one small model, from text to a page of features.

Each stage is an artifact of its own under `runs/demo`, made by the function behind the verb of the
same name. A finished stage is used again; an interrupted one goes on from where it was.
"""

import contextlib
import json
import textwrap
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.text import Text

from monosem.cli.evaluate import report as measures
from monosem.core.artifact import CONFIG_NAME, write_json
from monosem.core.config import Json
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.explorer import story
from monosem.explorer.report import write_report
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import FeatureDatabase
from monosem.metrics.evaluate import EvaluateConfig
from monosem.metrics.record import write_evaluation
from monosem.models.language_model import LanguageModel
from monosem.runtime.device import resolve
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training.optim import OptimConfig
from monosem.training.pretrain import PretrainConfig, pretrain
from monosem.training.trainer import TrainConfig, TrainingRun, train

SITE = "blocks.0.mlp.hook_post"
SECONDS = "seconds.json"
CONTEXT = 128
"""Tokens a context, unless the language model takes fewer."""

LR, DEAD_AFTER_SHARE = 4e-4, 0.015
"""For a run of a minute: a rate that leaves few latents dead, helped early (sweep in dev/LOG.md)."""
LOSS_TOKENS = 32_768
"""Held-out tokens on which losses are compared."""
NEURON_TOKENS = 500_000
"""Neurons fire often: a quarter of the tokens gives them more examples than a latent has."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """From text to features on one small model: tokens, train, features, evaluate, report."""

    model: str = "1L-a"
    """Language model to look into: the embedded one, a folder, or a name on the hub."""
    corpus: str = "python"
    """Text: the running interpreter's standard library, a file, a folder, or a data set."""
    out: Path = Path("runs/demo")
    """Folder of the stages, of `metrics.json` and of `report.html`."""
    n_latents: int = 4096
    """Latents of each dictionary."""
    n_tokens: int = 1_200_000
    """Tokens to train the dictionaries on."""
    n_density_tokens: int = 2_000_000
    """Tokens over which firings are counted, and from which features are built."""
    pretrain: bool = False
    """Train a small language model first, and look into that one."""
    pretrain_tokens: int = 10_000_000
    """Tokens to train that model on."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of the training, and of the twenty features drawn at random."""
    fresh: bool = False
    """Make every stage anew."""
    json: bool = False
    """Print metrics.json on stdout and the story on stderr."""


def main(arguments: list[str]) -> int:
    """Parse, walk the road, say what was found."""
    given = tyro.cli(Arguments, prog="monosem demo", args=arguments)
    metrics = Demo(given).run()
    if given.json:
        print(json.dumps(metrics, indent=2))
    return 0


class Demo:
    """The stages in order, what each found, and how long it took."""

    def __init__(self, given: Arguments) -> None:
        """Prepare to speak; nothing is made yet."""
        self.given, self.out = given, given.out
        self.console = Console(stderr=given.json, highlight=False, markup=False, soft_wrap=True)
        self.seconds = _read_seconds(given.out / SECONDS)
        self.step = 0

    def run(self) -> Json:
        """Walk the whole road and return what `metrics.json` holds."""
        given = self.given
        model = None if given.pretrain else LanguageModel.load(given.model, device=given.device)
        store = self.tokens(model)
        model = model or self.pretrain(store)
        run = self.train(model, store)
        databases = self.features(run, model, store)
        results = self.evaluate(run, model, store, databases["topk"])
        report = self.report(databases, results)
        metrics: Json = {**results, "seconds": self.seconds}
        write_json(self.out / "metrics.json", metrics)
        story.features(self.console, databases["topk"], self.given.seed)
        story.ending(self.console, self.out, report, self.seconds)
        return metrics

    def tokens(self, model: LanguageModel | None) -> TokenStore:
        """Cut the corpus into the tokens of `model`, or of a tokenizer trained on the spot."""
        given, folder = self.given, self.out / "tokens"
        config = TokensConfig(
            corpora=(given.corpus,),
            tokenizer=given.model if model else "train:4096",
            context=min(CONTEXT, model.context) if model else CONTEXT,
        )
        with self.stage("tokens", folder, f"Reading `{given.corpus}` and cutting it into tokens"):
            store = build_token_store(config, folder, fresh=given.fresh)
        train, heldout = store.n_tokens("train"), store.n_tokens("heldout")
        self.say(
            f"{train + heldout:,} tokens of {store.n_documents:,} documents, in contexts of "
            f"{store.context}; {heldout:,} of them, whole documents, are held out."
        )
        return store

    def pretrain(self, store: TokenStore) -> LanguageModel:
        """Train a language model to look into."""
        given, folder = self.given, self.out / "language-model"
        config = PretrainConfig(n_tokens=given.pretrain_tokens, seed=given.seed)
        title = f"Training a language model of one layer on {given.pretrain_tokens:,} tokens"
        with self.stage("pretrain", folder, title):
            device = resolve(given.device)
            name = pretrain(config, store, folder, device=device, fresh=given.fresh)
        return LanguageModel.load(name, device=given.device)

    def train(self, model: LanguageModel, store: TokenStore) -> TrainingRun:
        """Train both dictionaries on one stream of activations."""
        given, folder = self.given, self.out / "dictionaries"
        config = TrainConfig(
            site=SITE,
            dictionaries=(
                TopKConfig(n_latents=given.n_latents, k=16, seed=given.seed),
                ReLUConfig(n_latents=given.n_latents, seed=given.seed),
            ),
            n_tokens=given.n_tokens,
            optim=OptimConfig(lr=LR),
            dead_after_share=DEAD_AFTER_SHARE,
            seed=given.seed,
        )
        title = (
            f"Training two dictionaries, topk and relu, of {given.n_latents:,} latents each, on "
            f"the {model.width(SITE)} neurons of `{model.name}`"
        )
        with self.stage("train", folder, title):
            run = train(config, model, store, folder, fresh=given.fresh)
        self.say(f"Both saw the same {given.n_tokens:,} activations, captured as they were needed.")
        return run

    def features(
        self, run: TrainingRun, model: LanguageModel, store: TokenStore
    ) -> dict[str, FeatureDatabase]:
        """Collect the evidence on every latent of topk, and on every neuron."""
        n_tokens = self.given.n_density_tokens
        neurons = Neurons.of_width(model.width(SITE))
        parts = (
            ("topk", run["topk"], n_tokens),
            ("neurons", neurons, min(n_tokens, NEURON_TOKENS)),
        )
        found: dict[str, FeatureDatabase] = {}
        for name, dictionary, count in parts:
            config = FeaturesConfig(n_tokens=count, seed=self.given.seed)
            folder = self.out / "features" / name
            title = f"Collecting examples, logits and neighbours of every latent of {name}"
            with self.stage(f"features {name}", folder, title):
                found[name] = build_features(
                    dictionary, model, store, folder, config, site=SITE, fresh=self.given.fresh
                )
        return found

    def evaluate(
        self, run: TrainingRun, model: LanguageModel, store: TokenStore, topk: FeatureDatabase
    ) -> Json:
        """Measure both dictionaries, the neurons beside them, and the model beside n-grams.

        The firings of topk's latents are those of its features: no token is encoded twice for them.
        """
        given, folder = self.given, self.out / "evaluation"
        config = EvaluateConfig(
            n_loss_tokens=LOSS_TOKENS, n_density_tokens=given.n_density_tokens, seed=given.seed
        )
        with self.stage("evaluate", folder, "Measuring both dictionaries"):
            results = write_evaluation(
                {name: run[name] for name in run},
                model,
                store,
                folder,
                config,
                firing={"topk": topk.firing()},
                fresh=given.fresh,
            )
        self.console.print(textwrap.indent(measures(results), "   "))
        self.say(_verdict(results["language_model"]))
        return results

    def report(self, databases: dict[str, FeatureDatabase], results: Json) -> Path:
        """Write the page; it is quick, and always written anew."""
        self.step += 1
        self.console.print(Text(f"\n{self.step}. Writing the report", style="bold"))
        start = time.perf_counter()
        report = write_report(
            databases,
            results["dictionaries"],
            self.out / "report.html",
            title=f"Features of {self.given.model}",
            language_model=results["language_model"],
            chosen=story.N_CHOSEN,
            random=story.N_RANDOM,
            seed=self.given.seed,
        )
        self.seconds["report"] = round(time.perf_counter() - start, 1)
        self.say(f"{report.stat().st_size / 1e6:.1f} MB, self-contained: `{report}`.")
        return report

    @contextlib.contextmanager
    def stage(self, name: str, folder: Path, title: str) -> Generator[None]:
        """Say what begins; afterwards how long it took, unless it was there already."""
        self.step += 1
        self.console.print(Text(f"\n{self.step}. {title}", style="bold"))
        before, start = _stamp(folder), time.perf_counter()
        yield
        if before is not None and before == _stamp(folder):
            spent = self.seconds.get(name, 0.0)
            self.say(f"`{folder}` was there already and is used again; it took {spent:.0f} s.")
            return
        self.seconds[name] = round(time.perf_counter() - start, 1)
        write_json(self.out / SECONDS, self.seconds)
        self.say(f"{self.seconds[name]:.1f} s, in `{folder}`.")

    def say(self, sentence: str) -> None:
        """Print one sentence of the story."""
        self.console.print(f"   {sentence}")


def _verdict(losses: Json) -> str:
    if losses["loss"] < losses["trigram"]:
        return "The language model knows more than a table of token triples."
    return "The language model knows no more than a table of token triples: expect little of it."


def _stamp(folder: Path) -> int | None:
    """Return what changes when the artifact is written anew."""
    config = folder / CONFIG_NAME
    return config.stat().st_mtime_ns if config.is_file() else None


def _read_seconds(path: Path) -> dict[str, float]:
    """Return what finished stages took, as an earlier run of the demo wrote it."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
