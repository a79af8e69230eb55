"""Speed of `build_features` against the bare model-and-encode pass over the same tokens.

    python benchmarks/features.py [--repeats 3] [--n-tokens 500000] [--n-latents 4096] [--k 16]

The bare pass captures the site and encodes each block, nothing else. Both are timed in turn, since
other processes disturb them alike, and medians are compared; processor time beside the clock's, as
it says most on a machine that is busy. The dictionary is a random one of
the demo's shape: how fast it runs does not depend on what it learned, except through its firings,
which a few planted directions make uneven.
"""

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.features.build import FeaturesConfig, build_features
from monosem.metrics import stream
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

SITE = "blocks.0.mlp.hook_post"


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, store = inputs(given, folder)
        dictionary = trained_like(model, given.n_latents, given.k)
        config = FeaturesConfig(n_tokens=given.n_tokens)
        policy = matmul.choose(model.device)
        place = Place(model, store, SITE)
        bare, build = Times(), Times()
        for _ in range(given.repeats):
            with bare.measuring():
                bare_pass(dictionary, place, config, policy)
            with build.measuring():
                database = build_features(dictionary, model, store, folder / "features", config)
            metrics = database.metrics
            database.close()
            shutil.rmtree(folder / "features")
    report(bare, build, metrics, policy)


class Times:
    """Seconds of each repetition, by the clock and of the processor."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.processor: list[float] = []

    @contextlib.contextmanager
    def measuring(self) -> Generator[None]:
        clock, processor = time.perf_counter(), time.process_time()
        yield
        self.clock.append(time.perf_counter() - clock)
        self.processor.append(time.process_time() - processor)


def bare_pass(
    dictionary: TopK, place: Place, config: FeaturesConfig, policy: matmul.MatmulPolicy
) -> None:
    """Capture and encode the contexts that `build_features` looks at."""
    contexts = stream.visit(place.store, config.split, config.seed)
    contexts = np.sort(stream.first(contexts, place.store, config.n_tokens))
    with torch.no_grad(), matmul.scope(policy):
        for block in stream.blocks(place.store, contexts, config.batch_tokens):
            x = stream.activations(place, block)[block.ordinary]
            dictionary.encode_sparse(x)


def trained_like(model: LanguageModel, n_latents: int, k: int) -> TopK:
    """A dictionary of the site whose latents fire unevenly, as trained ones do."""
    dictionary = TopK(TopKConfig(d_in=model.width(SITE), n_latents=n_latents, k=k))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        dictionary.b_enc.copy_(-0.02 * torch.rand(n_latents, generator=generator))
    dictionary.origin = type(dictionary.origin)(site=SITE)
    return dictionary


def inputs(given: argparse.Namespace, folder: Path) -> tuple[LanguageModel, TokenStore]:
    """The model and store named, or a random model of the preset's shape and the standard library."""
    if given.tokens:
        store = TokenStore.open(given.tokens)
    else:
        config = TokensConfig(tokenizer="train:4096", max_tokens=int(given.n_tokens * 1.15))
        store = build_token_store(config, folder / "tokens")
    if given.model:
        return LanguageModel.load(given.model, device="cpu"), store
    torch.manual_seed(0)
    shape = GPTNeoXConfig(
        vocab_size=store.vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=store.context,
        hidden_act="relu",
    )
    return LanguageModel(GPTNeoXForCausalLM(shape), store.tokenizer, name="random 1L"), store


def report(bare: Times, build: Times, metrics: dict[str, float], policy: str) -> None:
    n_tokens = metrics["n_tokens"]
    print(f"{n_tokens:,} tokens, policy {policy}, {torch.get_num_threads()} threads")
    for what in ("clock", "processor"):
        of_bare, of_build = getattr(bare, what), getattr(build, what)
        for name, seconds in (("bare pass", of_bare), ("build", of_build)):
            median = statistics.median(seconds)
            each = " ".join(f"{s:.2f}" for s in seconds)
            print(
                f"{what:>10} {name:>10}: {median:7.2f} s, {n_tokens / median:9,.0f} tokens/s   ({each})"
            )
        ratio = statistics.median(b / f for b, f in zip(of_bare, of_build, strict=True))
        print(f"{what:>10} {'ratio':>10}: {ratio:7.2f} (at least 0.5)")
    print(
        f"     sizes: SQLite {metrics['sqlite_bytes_a_latent']:,.0f} bytes a latent, activations "
        f"{metrics['activation_bytes_a_token']:.1f} and token store "
        f"{metrics['token_store_bytes_a_token']:.1f} bytes a token, l0 {metrics['l0']:.1f}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="language model; default: a random one")
    parser.add_argument("--tokens", default="", help="token store; default: made for the occasion")
    parser.add_argument("--n-tokens", type=int, default=500_000)
    parser.add_argument("--n-latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
