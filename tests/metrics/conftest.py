from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

VOCAB, CONTEXT, SEPARATOR = 50, 16, 1


class ArrayStore(TokenStore):
    """A token store in memory: token 0 begins every context, token 1 stands between documents."""

    def __init__(self, train: np.ndarray, heldout: np.ndarray) -> None:
        self.path, self.hash, self.tokenizer_hash = Path("memory"), "hash", "tokenizer"
        self.context, self.vocab_size = CONTEXT, VOCAB
        self.splits = {"train": len(train), "heldout": len(heldout)}
        self.array = np.concatenate([train, heldout])

    def n_contexts(self, split):
        return self.splits[split]

    def contexts(self, split):
        n_train = self.splits["train"]
        return range(n_train) if split == "train" else range(n_train, len(self.array))

    def tokens(self, contexts):
        return self.array[np.asarray(contexts)]

    def ordinary(self, tokens):
        ordinary = tokens > SEPARATOR
        ordinary[:, 0] = False
        return ordinary


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    """A random GPT-2 whose MLP matters: its weights are large."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_inner=24,
        n_positions=CONTEXT,
        vocab_size=VOCAB,
        activation_function="relu",
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LanguageModel(GPT2LMHeadModel(config).requires_grad_(False), name="tiny")


@pytest.fixture(scope="session")
def store(model: LanguageModel) -> TokenStore:
    """200 training and 40 held-out contexts that the model itself wrote, separators among them.

    It predicts them well, so taking its neurons away costs it something.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(240, 1, dtype=torch.int64)
    while tokens.shape[1] < CONTEXT:
        odds = model.model(input_ids=tokens).logits[:, -1].softmax(-1)
        odds[:, 0] = 0
        tokens = torch.cat([tokens, odds.multinomial(1, generator=generator)], 1)
    return ArrayStore(tokens[:200].numpy(), tokens[200:].numpy())


@pytest.fixture(scope="session")
def dictionary() -> TopK:
    """An untrained TopK for the MLP neurons of the first layer."""
    torch.manual_seed(0)
    return TopK(TopKConfig(d_in=24, n_latents=40, k=5)).requires_grad_(False)
