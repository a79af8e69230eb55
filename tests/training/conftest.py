import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
CONTEXT = 32


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> TokenStore:
    """About 400 contexts of 32 tokens from 60 documents, each with words of its own."""
    folder, random = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for i in range(60):
        own = random.choice(WORDS, size=3, replace=False)
        words = random.choice(own, size=300)
        (folder / f"{i:02d}.txt").write_text(" ".join(f"the {w} {i}." for w in words))
    config = TokensConfig(corpora=(str(folder),), tokenizer="train:300", context=CONTEXT)
    return build_token_store(config, tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="session")
def model(store) -> LanguageModel:
    """A random model of one layer that reads the store."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=store.vocab_size,
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_inner=24,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LanguageModel(GPT2LMHeadModel(config), store.tokenizer, name="random")
