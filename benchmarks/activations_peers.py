"""sae-lens' sources of activations, live and from disk, for benchmarks/activations.py; never a dependency.

Live: its own `ActivationsStore` over a `HookedTransformer` with our model's weights, its default
sizes (32 contexts a pass), a buffer of as many tokens as ours. From disk: activations written in the
layout of its `CacheActivationsRunner`, read by the same class.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

CONTEXTS = 128
"""Contexts of its buffer: 16,384 tokens, as ours has."""


class AbsentError(Exception):
    """sae-lens is not installed."""


def peer_source(
    model: LanguageModel | None,
    store: TokenStore,
    folder: Path,
    site: str,
    *,
    live: bool,
    batch: int,
) -> Any:
    """Return its store, an endless stream of batches; without a model what it reads must lie in `folder`."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    try:
        import datasets
        from sae_lens.training.activations_store import ActivationsStore
    except ModuleNotFoundError as error:
        raise AbsentError(f"sae-lens is not installed ({error.name}): not measured") from error
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    cache = folder / "sae-lens"
    if not live and not cache.exists():
        assert model is not None, "the first call writes them"
        _write(model, store, cache, site)
    shared: dict[str, Any] = {
        "streaming": False,
        "hook_name": site,
        "hook_head_index": None,
        "context_size": store.context,
        "d_in": 768,
        "n_batches_in_buffer": CONTEXTS,
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
    return ActivationsStore(None, None, cached_activations_path=str(cache), **shared)


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
    """Write 16,384 tokens as its runner lays them out: one column of [context d_in], float32."""
    import datasets

    contexts = store.tokens(store.contexts("train")[:CONTEXTS])
    parts = model.captures(torch.from_numpy(contexts).split(2), [site])
    x = torch.cat([part[site] for part in parts])
    features = datasets.Features(
        {
            site: datasets.Array2D(shape=(store.context, x.shape[-1]), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value(dtype="int32"), length=store.context),
        }
    )
    rows = {site: x.numpy(), "token_ids": contexts.astype("int32")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(cache))
