"""A tiny language model, a tiny corpus, a dictionary with a dead latent, and their database."""

from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import FeatureDatabase
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

SITE = "blocks.0.mlp.hook_post"
DEAD = 5

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. 漢字 🦊",
    "1 2 3 5 8 13 21 34 55 89",
    "<script>alert('hostile')</script>",
]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("features")
    for i in range(60):
        text = "\n".join(LINES[(i + j) % len(LINES)] * (1 + (i * j) % 3) for j in range(5))
        (folder / f"text-{i:02}.txt").write_text(text, encoding="utf-8")
    config = TokensConfig(
        corpora=(str(folder),), tokenizer="train:300", context=16, heldout_share=0.1
    )
    return build_token_store(config, tmp_path_factory.mktemp("tokens") / "tokens")


@pytest.fixture(scope="session")
def model(store: TokenStore) -> LanguageModel:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    weights = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for weight in weights.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return LanguageModel(weights, store.tokenizer, name="tiny")


@pytest.fixture(scope="session")
def dictionary(model: LanguageModel) -> TopK:
    made = TopK(TopKConfig(d_in=24, n_latents=40, k=4, seed=1))
    with torch.no_grad():
        made.b_enc[DEAD] = -1e6
    made.origin = type(made.origin)(site=SITE)
    return made


@pytest.fixture(scope="session")
def config() -> FeaturesConfig:
    return FeaturesConfig(n_tokens=1500, batch_tokens=256, matmul="fp32", n_top=7, n_neurons=4)


@pytest.fixture(scope="session")
def database(
    dictionary: TopK,
    model: LanguageModel,
    store: TokenStore,
    config: FeaturesConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> FeatureDatabase:
    out: Path = tmp_path_factory.mktemp("features") / "database"
    return build_features(dictionary, model, store, out, config)
