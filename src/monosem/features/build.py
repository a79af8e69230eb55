"""Builds a feature database: one pass over the corpus, then latents range by range.

    capture, encode ─┬─ activations by token            activations/*.bin     (streaming, sparse)
                     ├─ the same by latent              scratch               (transposition)
                     │    └─ moments, histogram, examples                     (statistics, examples)
                     └─ latent × neuron products ─ correlations               (correlation)
    decoder rows ────┬─ logit effects                                         (directions)
                     └─ nearest neighbours              features.sqlite       (writing)

Only ordinary tokens count: BOS, first positions and special tokens are neither encoded nor counted.
"""

import contextlib
import dataclasses
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from monosem.activations.processing import fitted as fit
from monosem.core import artifact
from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.features import directions, record, streaming, vocabulary, writing
from monosem.features.database import KIND, FeatureDatabase
from monosem.features.examples import Chooser
from monosem.features.statistics import Moments, moments
from monosem.features.streaming import SCRATCH, Streamed
from monosem.features.tables import Evidence, ExampleTable, Statistics
from monosem.metrics import stream
from monosem.metrics.first_use import check_first_use
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.runtime.distributed import ALONE, World
from monosem.text.tokens import Split, TokenStore

ENTRIES_AT_ONCE = 2**22
"""Entries held in memory while latents are gone through, range by range: about 0.5 GB."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """How much text a feature database is built from, and how much of it is kept a latent."""

    n_tokens: int = 2_000_000
    """Ordinary tokens, of contexts drawn from the whole split; all of it if it is smaller."""
    split: Split = "train"
    """Which side of the corpus."""
    n_top: int = 20
    """Strongest examples, each of another context."""
    n_per_interval: int = 5
    """Examples of each of the eleven intervals of [0, max]."""
    n_random: int = 10
    """Examples drawn from all tokens on which it fired."""
    n_logits: int = 20
    """Tokens kept that it promotes most, and as many that it suppresses most."""
    n_neighbours: int = 8
    """Nearest latents by cosine of decoder rows."""
    n_neurons: int = 8
    """Most correlated neurons of the same block; 0 leaves correlations out."""
    batch_tokens: int = 8192
    """Tokens encoded at once."""
    matmul: Literal["auto", "fp32", "onednn", "bf16", "int8"] = "auto"
    """Arithmetic of matrix products; `auto` measures this machine and records its choice."""
    seed: int = 0
    """Seed of the contexts, and of the examples that are drawn."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("n_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in (
            "n_top",
            "n_per_interval",
            "n_random",
            "n_logits",
            "n_neighbours",
            "n_neurons",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, got {getattr(self, name)}.")


def build_features(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    config: FeaturesConfig | None = None,
    *,
    site: str | None = None,
    fresh: bool = False,
    world: World = ALONE,
) -> FeatureDatabase:
    """Return the feature database at `out`, built unless it is there already.

    Ranks of `world` call this alike, and share out the pass over the text; the database is the same.

    `site` is needed only for a dictionary that does not record its own. A finished database of the
    same inputs is opened as it is, one of others is refused (`ConfigError`); `fresh` replaces both.
    """
    out, config = Path(out), config or FeaturesConfig()
    place = Place(model, store, stream.site_of({dictionary.architecture: dictionary}, site))
    place.check()
    record.check_widths(dictionary, place)
    recorded = record.recorded(dictionary, place, config)
    artifact.check_target(out, KIND)
    if world.by_first(lambda: not fresh and _found(out, recorded)):
        return FeatureDatabase.open(out, tokens=store.path)
    whole = Place(model, store, place.site, stream.target_of({dictionary.architecture: dictionary}))
    own = {dictionary.architecture: dictionary}
    fitted, seen = fit(own, model, whole.reads, whole.writes)
    place, whole = (dataclasses.replace(p, model=seen) for p in (place, whole))
    check_first_use(fitted, whole)
    summary: Json = {}
    inputs = {name: recorded[name]["hash"] for name in ("dictionary", "model", "tokens")}
    with contextlib.ExitStack() as stack:
        made = artifact.writing(
            out, kind=KIND, config=recorded, inputs=inputs, seed=config.seed, summary=summary
        )
        folder = Path(world.by_first(lambda: str(stack.enter_context(made))))
        summary.update(_fill(folder, fitted[dictionary.architecture], place, config, world))
        world.by_first(stack.close)
    return FeatureDatabase.open(out, tokens=store.path)


def _found(out: Path, recorded: Json) -> bool:
    """Whether the database is there already; `ConfigError` where it is another one."""
    if not (out / artifact.CONFIG_NAME).is_file():
        return False
    record.check_same(artifact.read(out, KIND, hashes=False), recorded)
    sys.stderr.write(f"`{out}` is already there; used again.\n")
    return True


def _fill(
    folder: Path, dictionary: Dictionary[Any], place: Place, config: FeaturesConfig, world: World
) -> Json:
    """Write every file of the database into `folder`; return its summary."""
    started = time.perf_counter()
    device = place.model.device
    asked = config.matmul
    policy = matmul.check(
        world.by_first(lambda: matmul.choose(device)) if asked == "auto" else asked
    )
    contexts = stream.visit(place.store, config.split, config.seed)
    contexts = np.sort(stream.enough(contexts, place.store, config.n_tokens))
    own = stream.on_device(dictionary, device)
    with matmul.scope(policy):
        streamed = streaming.run(
            own,
            place,
            contexts,
            folder,
            batch_tokens=config.batch_tokens,
            correlate=config.n_neurons > 0,
            world=world,
        )
    if streamed.n_tokens == 0:
        raise ConfigError(
            f"None of the {contexts.size * place.store.context:,} tokens looked at is ordinary. "
            "Make the token store from more text."
        )

    def write() -> Json:
        evidence = _evidence(streamed, own, place, config)
        named = writing.named_tokens(evidence)
        writing.write(folder, evidence, vocabulary.texts(place.store.tokenizer, named))
        shutil.rmtree(folder / SCRATCH)
        return record.summary(
            folder,
            streamed,
            evidence.statistics,
            place.store,
            matmul=policy,
            seconds=time.perf_counter() - started,
        )

    return world.by_first(write)


def _evidence(
    streamed: Streamed, dictionary: Dictionary[Any], place: Place, config: FeaturesConfig
) -> Evidence:
    statistics, examples = _by_latent(streamed, place.store.context, dictionary.n_latents, config)
    target = dictionary.origin.target or place.site
    with torch.no_grad():
        used = torch.from_numpy(vocabulary.used_tokens(place.store))
        top, bottom = directions.logit_tokens(
            dictionary, place.model, target, used, config.n_logits
        )
        neighbours = directions.neighbours(dictionary.W_dec.float().cpu(), config.n_neighbours)
    return Evidence(
        statistics=statistics,
        examples=examples,
        example_tokens=vocabulary.tokens_at(place.store, examples.rows),
        top_logits=top,
        bottom_logits=bottom,
        neighbours=neighbours,
        neurons=streamed.correlation.strongest(statistics, config.n_neurons),
    )


def _by_latent(
    streamed: Streamed, context: int, n_latents: int, config: FeaturesConfig
) -> tuple[Statistics, ExampleTable]:
    """Return what comes of each latent's own activations, gone through range by range."""
    chooser = Chooser(
        n_latents=n_latents,
        context=context,
        n_top=config.n_top,
        n_per_interval=config.n_per_interval,
        n_random=config.n_random,
        seed=config.seed,
    )
    found: list[Moments] = []
    tables: list[ExampleTable] = []
    for entries in streamed.transposition.ranges(ENTRIES_AT_ONCE):
        found.append(moments(entries))
        tables.append(chooser.choose(entries, found[-1].max_activation))
    examples = ExampleTable.joined(tables)
    rows = streamed.contexts[examples.rows // context] * context + examples.rows % context
    n_fired = streamed.transposition.n_fired
    statistics = Statistics(
        n_tokens=streamed.n_tokens, n_fired=n_fired, moments=Moments.joined(found)
    )
    return statistics, examples.at(rows)
