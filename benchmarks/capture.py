"""Capture against the bare forward cut off at the same place, interleaved, medians of ratios.

    python benchmarks/capture.py [--repeats 30] [--large]

The bare forward is the model's own modules called by hand up to the block that is needed: no hook,
no stop, nothing kept but its output.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.models.language_model import LanguageModel

SIZES = {
    "1L (128 wide, 1 layer)": {"n_embd": 128, "n_layer": 1, "n_head": 4, "vocab_size": 4096},
    "mini (256 wide, 4 layers)": {"n_embd": 256, "n_layer": 4, "n_head": 8, "vocab_size": 4096},
}
LARGE = {"GPT-2 small": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}}


def truncated(model: GPT2LMHeadModel, tokens: torch.Tensor, n_blocks: int) -> torch.Tensor:
    """The bare forward: embeddings and the first `n_blocks` blocks."""
    base = model.transformer
    x = base.wte(tokens) + base.wpe(torch.arange(tokens.shape[1]).unsqueeze(0))
    for block in base.h[:n_blocks]:
        x = block(x)
    return x


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(work: Callable[[], object], bare: Callable[[], object], repeats: int) -> float:
    """Median of interleaved ratios, after one warm-up of each."""
    work(), bare()
    return statistics.median(seconds(work) / seconds(bare) for _ in range(repeats))


def measure(name: str, size: dict[str, int], repeats: int) -> None:
    config = GPT2Config(**size, n_positions=128, bos_token_id=0, eos_token_id=0)
    model = LanguageModel(GPT2LMHeadModel(config).requires_grad_(False))
    tokens = torch.randint(0, config.vocab_size, (8, 128))
    middle, last = (model.n_layers - 1) // 2, model.n_layers - 1
    every = [s for s in model.sites() if ".ln" not in s and "attn.hook" not in s]
    cases = {
        "one site, middle layer": ([f"blocks.{middle}.hook_resid_post"], middle + 1),
        "residual of every layer": ([s for s in every if s.endswith("resid_post")], last + 1),
        "residual, outputs, neurons": ([s for s in every if s.startswith("blocks")], last + 1),
        "and the patterns": (
            [s for s in model.sites() if s.endswith("pattern") or (s in every and "blocks" in s)],
            last + 1,
        ),
    }
    with torch.no_grad():
        for case, (sites, n_blocks) in cases.items():
            found = ratio(
                lambda s=sites: model.capture(tokens, s),
                lambda n=n_blocks: truncated(model.model, tokens, n),
                repeats,
            )
            print(
                f"{name:28} {case:28} {len(sites):4} sites  {found:5.2f} x bare truncated forward"
            )
        whole = ratio(
            lambda: model.capture(tokens, [f"blocks.{middle}.hook_resid_post"]),
            lambda: model.model(tokens, use_cache=False),
            repeats,
        )
        print(f"{name:28} {'one site, middle layer':28}    1 sites  {whole:5.2f} x whole forward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--large", action="store_true", help="GPT-2 small too (a minute)")
    options = parser.parse_args()
    for name, size in (SIZES | (LARGE if options.large else {})).items():
        measure(name, size, options.repeats)


if __name__ == "__main__":
    main()
