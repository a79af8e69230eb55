"""Random weights of Gemma-2-2B's shape through plan, capture, train and features: time and memory.

    python benchmarks/gemma2_2b.py [--json]                  one layer, in bfloat16
    python benchmarks/gemma2_2b.py --layers 26 --only-plan   the whole model, planned up to its middle

A layer is the model's own: width 2,304, 9,216 neurons, 8 heads of 256 over 4 of keys and values, a window
of 4,096. The vocabulary is cut to that of the tokenizer at hand (4,096 of 256,000 entries), because no
text of Gemma's own is; what that leaves out is 1.1 GiB of weights, said as `embedding_left_out_bytes`.
Peaks are of this process' memory, beyond what it had when the step began.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from memory import peak, peak_begins, resident
from transformers import Gemma2Config, Gemma2ForCausalLM

from monosem.activations.storing import CaptureConfig, capture_store
from monosem.dictionaries.topk import TopKConfig
from monosem.features.build import FeaturesConfig, build_features
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training.plan import plan
from monosem.training.trainer import TrainConfig, train

VOCABULARY, LAYERS = 256_000, 26


def gemma(store: TokenStore, n_layers: int) -> LanguageModel:
    """A random model of so many of Gemma-2-2B's layers that reads the store."""
    config = Gemma2Config(
        vocab_size=store.vocab_size,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=4096,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = Gemma2ForCausalLM(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(made, store.tokenizer, name="gemma-2-2b-shape")


@contextmanager
def measured(rows: dict[str, Any], name: str) -> Generator[None]:
    """Note time and peak memory of what is done inside."""
    gc.collect()
    before = resident()
    peak_begins()
    started = time.perf_counter()
    yield
    rows[name] = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mb": round(peak() - before),
    }
    sys.stderr.write(f"{name}: {rows[name]}\n")


def measure(n_layers: int, n_tokens: int, n_latents: int, only_plan: bool) -> dict[str, Any]:
    """All figures."""
    rows: dict[str, Any] = {"layers": n_layers, "n_tokens": n_tokens, "n_latents": n_latents}
    site = f"blocks.{n_layers // 2}.hook_resid_post"
    config = TrainConfig(
        site=site,
        dictionaries=(TopKConfig(n_latents=n_latents, k=64),),
        n_tokens=n_tokens,
        batch_size=512,
        buffer_tokens=8192,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = TokensConfig(max_tokens=4 * n_tokens, context=512)
        store = build_token_store(wanted, folder / "tokens")
        with measured(rows, "model"):
            model = gemma(store, n_layers)
        size = model.model.lm_head.weight.element_size()
        rows["embedding_left_out_bytes"] = (VOCABULARY - store.vocab_size) * model.d_model * size
        with measured(rows, "plan"):
            found = plan(config, model, store)
        rows["planned"] = found.to_json()
        if only_plan:
            return rows
        with measured(rows, "live run"):
            train(config, model, store, folder / "live")
        rows["planned_over_taken"] = found.seconds / rows["live run"]["seconds"]
        with measured(rows, "capture"):
            kept = capture_store(
                CaptureConfig(sites=(site, "blocks.0.hook_mlp_out"), n_tokens=n_tokens),
                model,
                store,
                folder / "kept",
            )
        rows["fvu_of_int8"] = kept.summary["fvu"]
        rows["store_bytes_a_token"] = kept.n_bytes / kept.n_rows
        with measured(rows, "train from the store"):
            run = train(config, model, store, folder / "run", activations=kept)
        with measured(rows, "features"):
            build_features(
                run["topk"], model, store, folder / "f", FeaturesConfig(n_tokens=n_tokens)
            ).close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Gemma-2-2B's shape: time and memory.")
    parser.add_argument("--layers", type=int, default=1, help=f"the model has {LAYERS}")
    parser.add_argument("--n-tokens", type=int, default=16_384)
    parser.add_argument("--n-latents", type=int, default=16_384)
    parser.add_argument("--only-plan", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = measure(given.layers, given.n_tokens, given.n_latents, given.only_plan)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    for name, value in rows.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
