"""Where the time of training on live activations goes, part by part, for benchmarks/activations.py.

model       passes up to the site that is read
transfer    the ordinary tokens' rows taken out and put where the dictionary is
shuffle     a batch's rows picked from the block, in random order, and scaled
encode      of a batch, no gradients; `decode` likewise
backward    loss and gradients: what a step takes beyond encoding, decoding and the optimiser
optimiser   clipping and Adam
together    all of them

TopK, 768 → 8,192, 32 active, 2,048 tokens a batch, on blocks.5.hook_resid_post of GPT-2-small's shape.
"""

import statistics
import time
from collections.abc import Callable

import torch

from monosem.activations.capture import CaptureSource
from monosem.activations.scale import ScaledSource, scale_of
from monosem.activations.source import Batch
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.text.tokens import TokenStore
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig, step_clipped

SITE = "blocks.5.hook_resid_post"
BATCH, BLOCK = 2048, 4096


def split(model: LanguageModel, store: TokenStore, repeats: int) -> dict[str, float]:
    """Tokens a second of each part alone, medians; the machine's own choice of products."""
    with matmul.scope(matmul.choose(model.device)):
        spent = _model(model, store, repeats) | _dictionary(model, store, repeats)
    spent["together"] = sum(spent.values())
    return {name: round(1 / seconds) for name, seconds in spent.items()}


def _model(model: LanguageModel, store: TokenStore, repeats: int) -> dict[str, float]:
    """Seconds a token of passing the model, and of what is done with what it puts out."""
    source = CaptureSource(model, store, SITE, batch_size=BATCH, buffer_tokens=BLOCK)
    contexts = torch.from_numpy(store.tokens(store.contexts("train")[: BLOCK // store.context]))

    def passes() -> None:
        for _ in model.captures(contexts.split(2), [SITE]):
            pass

    site = {SITE: torch.randn(2, store.context, model.d_model)}
    captures = model.captures
    pair: list[tuple[float, float]] = []
    for _ in range(repeats):
        taken = _seconds(passes)
        # the same without a model: what is left is taking rows out
        model.captures = lambda passes, sites: (site for _ in passes if sites)
        pair.append((taken, _seconds(lambda: source.whole(0))))
        model.captures = captures
    return {
        name: statistics.median(each[i] for each in pair) / BLOCK
        for i, name in enumerate(("model", "transfer"))
    }


def _dictionary(model: LanguageModel, store: TokenStore, repeats: int) -> dict[str, float]:
    """Seconds a token of picking rows, and of a step's parts."""
    source = CaptureSource(model, store, SITE, batch_size=BATCH, buffer_tokens=BLOCK)
    sample = source.sample(BLOCK)
    scaled = ScaledSource(source, scale_of(sample.x)).scaled(sample)
    dictionary = TopK(TopKConfig(d_in=model.d_model, n_latents=8192, k=32))
    dictionary.initialise_(scaled.x, scaled.x)
    optim = OptimConfig(lr=1e-3)
    learner = Learner("topk", dictionary, optim, n_steps=1000, dead_tokens=10**7)
    batch = Batch(scaled.x[:BATCH], scaled.x[:BATCH], scaled.rows[:BATCH])
    learner.learn(batch)
    with torch.no_grad():
        latents = dictionary.encode_sparse(batch.x)
    order = torch.randperm(BLOCK - BLOCK // store.context)[:BATCH]
    works: dict[str, Callable[[], object]] = {
        "shuffle": lambda: ScaledSource(source, 2.0).scaled(
            Batch(sample.x[order], sample.x[:0], sample.rows[order])
        ),
        "encode": lambda: dictionary.encode_sparse(batch.x),
        "decode": lambda: dictionary.decode(latents),
        "optimiser": lambda: step_clipped(learner.optimizer, optim.clip),
        "step": lambda: learner.learn(batch),
    }
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(3 * repeats):
        for name, work in works.items():
            with torch.set_grad_enabled(name == "step"):
                spent[name].append(_seconds(work) / BATCH)
    found = {name: statistics.median(times) for name, times in spent.items()}
    step = found.pop("step")
    found["backward"] = step - sum(found[name] for name in ("encode", "decode", "optimiser"))
    return found


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
