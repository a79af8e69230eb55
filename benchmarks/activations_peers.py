"""sae-lens' sources of activations, live and from disk, for benchmarks/activations.py; never a dependency.

Live: its own `ActivationsStore` over a `HookedTransformer` with our model's weights, its default
sizes (32 contexts a pass), a buffer of as many tokens as ours. From disk: activations written in the
layout of its `CacheActivationsRunner`, read by the same class.
"""

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

CONTEXTS = 128
"""Contexts of its buffer: 16,384 tokens, as ours has."""


CACHE = "sae-lens"


def ready(model: LanguageModel, store: TokenStore, folder: Path, site: str) -> bool:
    """Whether sae-lens is installed; then what it reads from disk is written."""
    if importlib.util.find_spec("sae_lens") is None:
        sys.stderr.write("sae-lens is not installed: not measured\n")
        return False
    _write(model, store, folder / CACHE, site)
    return True


def peer_source(
    model: LanguageModel | None,
    store: TokenStore,
    folder: Path,
    site: str,
    *,
    live: bool,
    batch: int,
    buffer: int,
) -> Any:
    """Return its store, an endless stream of batches; live of `model`, else of what `ready` wrote.

    `buffer` is how many tokens it holds.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    import datasets
    from sae_lens.training.activations_store import ActivationsStore

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    shared: dict[str, Any] = {
        "streaming": False,
        "hook_name": site,
        "hook_head_index": None,
        "context_size": store.context,
        "d_in": 768,
        "n_batches_in_buffer": buffer // store.context,
        "total_training_tokens": 1,
        "store_batch_size_prompts": 32,
        "train_batch_size_tokens": batch,
        "prepend_bos": False,
        "normalize_activations": "none",
        "device": torch.device("cpu"),
        "dtype": "float32",
    }
    if live:
        assert model is not None
        tokens = store.tokens(store.contexts("train"))
        rows = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
        return ActivationsStore(_hooked(model), rows, **shared)
    return ActivationsStore(None, None, cached_activations_path=str(folder / CACHE), **shared)


def _hooked(model: LanguageModel) -> Any:
    """Return transformer-lens' model with the weights of ours."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    own = model.model.config
    config = HookedTransformerConfig(
        n_layers=own.n_layer,
        d_model=own.n_embd,
        n_ctx=own.n_positions,
        d_head=own.n_embd // own.n_head,
        n_heads=own.n_head,
        d_mlp=4 * own.n_embd,
        d_vocab=own.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    hooked = HookedTransformer(config)
    hooked.load_state_dict(convert_gpt2_weights(model.model, config), strict=False)
    return hooked


def _write(model: LanguageModel, store: TokenStore, cache: Path, site: str) -> None:
    """Write 16,384 tokens as its runner lays them out: one column of [context d_in], float32.

    The numbers are drawn: who reads them does not look at them.
    """
    import datasets

    datasets.disable_progress_bars()
    contexts = store.tokens(store.contexts("train")[:CONTEXTS])
    x = torch.randn(*contexts.shape, model.width(site))
    features = datasets.Features(
        {
            site: datasets.Array2D(shape=(store.context, x.shape[-1]), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value(dtype="int32"), length=store.context),
        }
    )
    rows = {site: x.numpy(), "token_ids": contexts.astype("int32")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(cache))
