"""Tiny random models of every family that converts, in float64 with norms in float64 too."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
)

SIZE = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "bos_token_id": 0,
    "eos_token_id": None,
}


def _config(kind, activation):
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=23,
            n_embd=16,
            n_inner=24,
            n_layer=2,
            n_head=2,
            n_positions=24,
            activation_function=activation,
            bos_token_id=0,
            eos_token_id=None,
            initializer_range=0.5,
        )
    shared = {**SIZE, "initializer_range": 0.4, "pad_token_id": 1}
    if kind == "gpt_neox":
        return GPTNeoXConfig(hidden_act=activation, **shared)
    shared["num_key_value_heads"] = 1
    if kind == "llama":
        return LlamaConfig(hidden_act=activation, **shared)
    gemma = {"gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig}[kind]
    return gemma(hidden_activation=activation, head_dim=8, **shared)


@pytest.fixture(scope="session")
def tiny():
    """Return a tiny random model: `tiny(kind, activation, dtype)`."""

    def build(kind, activation, dtype=torch.float64, seed=0):
        config = _config(kind, activation)
        config._attn_implementation = "eager"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if "norm" in name or "ln_" in name or name.endswith("bias"):
                    nn.init.normal_(parameter, float("weight" in name and "gemma" not in kind), 0.2)
        return model.to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def tokens():
    """Two rows of twelve tokens."""
    return torch.randint(0, 23, (2, 12), generator=torch.Generator().manual_seed(1))
