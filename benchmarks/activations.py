"""The activation path: what capture, shuffling, the disk and checkpoints cost, beside sae-lens.

    python benchmarks/activations.py [--quick] [--json]

capture_over_forward       speed of capturing one middle site, over the bare forward cut off there
all_sites_over_forward     speed of capturing all sites but the patterns, over the bare whole forward
prefetched_over_sequential time of a run as it is by default, over one that makes no block ahead; on one
                           CPU the default makes none, for the thread would take time from the steps
thread_over_sequential     the same with a thread that makes them, as other devices have it
overlap_gain               the same where model and dictionary have devices of their own; else null
int8_fvu                   what rounding to int8 costs, the worst of the sites measured
int8_bytes_per_value       of a store of them, tokens' rows and ids included
shuffle_fvu_ratio          FVU of a dictionary trained from the store, over one trained on a permutation of
                           all of it in memory, less than an epoch each; on a tenth of its rows
checkpoint_share           time of one checkpoint, over the five minutes between two
live_over_sae_lens         tokens a second of our live source over those of sae-lens' store, same model
cached_over_sae_lens       the same of reading what was captured before
                           (both null where sae-lens is not installed)
sources                    tokens a second and peak memory of each, in a process of its own; without --quick
                           of the model's bare forward too, cut off at the same place, with 32 contexts a
                           pass as sae-lens has them, and of ours with `--matmul onednn`
cpu_seconds                time of the processor that all of this took, the other processes included
tokens_per_second          of each part of training live (activations_split.py)

The model of the ratios is a random GPT-2-small, 8 contexts of 128 tokens; times are medians of
interleaved repeats.
"""

import argparse
import gc
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from activations_peers import peer_source, ready
from activations_split import split
from capture import ratio, truncated
from memory import peak, peak_begins, resident
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.activations.cached import StoreSource
from monosem.activations.capture import CaptureSource
from monosem.activations.source import TensorSource
from monosem.activations.store import ActivationStore
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.runtime.checkpoint import save_checkpoint
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig

INTERVAL = 300.0
"""Seconds between two checkpoints, by default."""
SITE = "blocks.5.hook_resid_post"
JOBS = ("ours live", "sae-lens live", "ours cached", "sae-lens cached")
MORE = ("ours onednn live", "bare forward live")
"""Beside them where it may take longer: our source under `--matmul onednn`, and the model alone."""


def gpt2(store: TokenStore) -> LanguageModel:
    """A random model of GPT-2-small's shape that reads the store."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=store.vocab_size, bos_token_id=0, eos_token_id=0)
    return LanguageModel(
        GPT2LMHeadModel(config).requires_grad_(False), store.tokenizer, name="random"
    )


def capture_ratios(model: LanguageModel, repeats: int) -> dict[str, float]:
    """Speed of capture over the bare forward: of one site, and of all."""
    tokens = torch.randint(0, model.vocab_size, (8, 128))
    every = [site for site in model.sites() if not site.endswith(("pattern", "attn_scores"))]
    with torch.no_grad():
        one = ratio(
            lambda: model.capture(tokens, [SITE]),
            lambda: truncated(model.model, tokens, 6),
            repeats,
        )
        whole = ratio(
            lambda: model.capture(tokens, every),
            lambda: truncated(model.model, tokens, model.n_layers),
            repeats,
        )
    return {"capture_over_forward": 1 / one, "all_sites_over_forward": 1 / whole}


def learner(d_in: int, n_latents: int, n_steps: int) -> Learner:
    """A TopK dictionary and its optimiser."""
    dictionary = TopK(TopKConfig(d_in=d_in, n_latents=n_latents, k=32))
    optim = OptimConfig(lr=1e-3)
    return Learner("topk", dictionary, optim, n_steps=n_steps, dead_tokens=10**7)


def trained(source: Any, n_latents: int, n_steps: int) -> Learner:
    """A dictionary trained on a source for so many steps."""
    made = learner(source.d_in, n_latents, n_steps)
    sample = source.sample(4096)
    made.dictionary.initialise_(sample.x, sample.target)
    for batch in itertools.islice(iter(source), n_steps):
        made.step(batch, source)
    return made


def prefetching(kept: ActivationStore, steps: int, repeats: int) -> dict[str, float]:
    """Time of a run as it is by default, and with a thread, over one that makes nothing ahead."""

    def run(ahead: bool | None) -> float:
        source = StoreSource(
            kept, kept.sites[:1], batch_size=1024, buffer_tokens=2**14, ahead=ahead
        )
        start = time.perf_counter()
        trained(source, 2048, steps)
        return time.perf_counter() - start

    run(None)
    found: dict[str, list[float]] = {"prefetched_over_sequential": [], "thread_over_sequential": []}
    for _ in range(repeats):
        alone = run(False)
        found["prefetched_over_sequential"].append(run(None) / alone)
        found["thread_over_sequential"].append(run(True) / alone)
    return {name: statistics.median(ratios) for name, ratios in found.items()}


def shuffling(kept: ActivationStore, steps: int) -> float:
    """FVU, on a tenth of the rows, of a dictionary trained from the store over one on a permutation."""
    site = kept.sites[0]
    everything = StoreSource(
        kept, site, batch_size=1024, buffer_tokens=kept.n_rows, ahead=False, shuffled=False
    )
    rows = everything.whole(0)[0].x
    n = len(rows) // 10
    some = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:n]]
    from_store = StoreSource(
        kept, site, batch_size=1024, buffer_tokens=kept.n_rows // 8, ahead=False
    )
    in_memory = TensorSource(rows, batch_size=1024)

    def fvu(source: Any) -> float:
        dictionary = trained(source, 1024, steps).dictionary
        with torch.no_grad():
            error = (dictionary(some) - some).square().sum()
        return float(error / (some - some.mean(0)).square().sum())

    return fvu(from_store) / fvu(in_memory)


def checkpointing(folder: Path, repeats: int) -> float:
    """Share of the time that checkpoints of a dictionary of 768 → 24,576 take."""
    made = learner(768, 24_576, 10)
    tensors = made.tensors()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        save_checkpoint(folder, tensors, {})
        times.append(time.perf_counter() - start)
    return statistics.median(times) / INTERVAL


def job(name: str, folder: Path, n_tokens: int) -> dict[str, float]:
    """Tokens a second of one source, and the memory it takes beyond what was there before."""
    store = TokenStore.open(folder / "tokens")
    batch, seen = 2048, [0]

    def counted(embedding: torch.nn.Module) -> None:
        embedding.register_forward_pre_hook(
            lambda _, args: seen.__setitem__(0, seen[0] + args[0].numel())
        )

    live = name.endswith("live")
    buffer = 2 ** n_tokens.bit_length() if live else 2**14
    model = gpt2(store) if live else None
    if name in ("ours live", "ours onednn live"):
        assert model is not None
        counted(model.model.get_input_embeddings())
        source: Iterator[Any] = iter(
            CaptureSource(model, store, SITE, batch_size=batch, buffer_tokens=buffer)
        )
    elif name == "bare forward live":
        assert model is not None
        counted(model.model.get_input_embeddings())
        source = bare(model, store)
    elif name == "ours cached":
        kept = ActivationStore.open(folder / "acts")
        source = iter(StoreSource(kept, SITE, batch_size=batch, buffer_tokens=buffer))
    else:
        peer = peer_source(model, store, folder, SITE, live=live, batch=batch, buffer=buffer)
        source = iter(peer)
        if live:
            counted(peer.model.embed)
    gc.collect()
    before = resident()
    peak_begins()
    start, served = time.perf_counter(), 0
    while served < n_tokens:
        served += len(next(source))
    seconds = time.perf_counter() - start
    # what was captured, also where the end finds a buffer half served
    n = seen[0] if live else served
    return {"tokens_per_second": n / seconds, "peak_mb": peak() - before}


@torch.no_grad()
def bare(model: LanguageModel, store: TokenStore) -> Iterator[Any]:
    """The model's modules called by hand, 32 contexts a pass, nothing kept."""
    for first in itertools.count(0, 32):
        tokens = torch.from_numpy(store.tokens(store.contexts("train")[first : first + 32]))
        yield truncated(model.model, tokens, 6).flatten(0, 1)


def beside_sae_lens(
    folder: Path, jobs: tuple[str, ...], n_live: int, n_cached: int, repeats: int
) -> dict[str, Any]:
    """Each source in a process of its own, in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _, name in itertools.product(range(repeats), jobs):
        n = n_live if name.endswith("live") else n_cached
        command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
        done = subprocess.run([*command, "--n", str(n)], capture_output=True, text=True, check=True)
        found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def measure(quick: bool) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = build_token_store(TokensConfig(max_tokens=600_000), folder / "tokens")
        model = gpt2(store)
        rows: dict[str, Any] = capture_ratios(model, 3 if quick else 15)
        small = LanguageModel.load("1L-a", device="cpu")
        sites = ("blocks.0.hook_resid_post", "blocks.0.mlp.hook_post")
        kept = capture_store(
            CaptureConfig(sites=sites, n_tokens=150_000), small, store, folder / "small"
        )
        rows |= prefetching(kept, 30 if quick else 60, 2 if quick else 9)
        rows["overlap_gain"] = None
        rows["int8_fvu"] = max(kept.summary["fvu"].values())
        rows["shuffle_fvu_ratio"] = shuffling(kept, 145)
        rows["checkpoint_share"] = checkpointing(folder / "checkpoints", 2 if quick else 3)
        n = 8_192 if quick else 65_536
        wide = capture_store(
            CaptureConfig(sites=(SITE,), n_tokens=n, shard_tokens=4096),
            model,
            store,
            folder / "acts",
        )
        rows["int8_bytes_per_value"] = wide.summary["bytes_per_value"]
        rows["live_over_sae_lens"] = rows["cached_over_sae_lens"] = None
        if ready(model, store, folder, SITE):
            # live: one buffer of ours, of theirs one and two refills of half
            jobs, n_live = (JOBS, 8_000) if quick else (JOBS + MORE, 16_000)
            n_cached = 8 * max(n, 16_384)
            speed = beside_sae_lens(folder, jobs, n_live, n_cached, 1 if quick else 3)
            for kind in ("live", "cached"):
                ours, theirs = speed[f"ours {kind}"], speed[f"sae-lens {kind}"]
                quotient = ours["tokens_per_second"] / theirs["tokens_per_second"]
                rows[f"{kind}_over_sae_lens"] = quotient
            rows["sources"] = speed
        rows["tokens_per_second"] = split(model, store, 1 if quick else 9)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, at most three minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", choices=JOBS + MORE, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        with matmul.scope("onednn" if "onednn" in given.job else "fp32"):
            print(json.dumps(job(given.job, given.folder, given.n)))
        return
    rows = measure(given.quick)
    rows["cpu_seconds"] = sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    for name, value in rows.items():
        print(f"{name:28} {value if not isinstance(value, float) else f'{value:.4g}'}")


if __name__ == "__main__":
    main()
