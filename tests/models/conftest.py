"""Small random models of every family in the table, with biases and gains that are not trivial."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

COMMON = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4}

CONFIGS: dict[str, dict[str, object]] = {
    "gpt2": {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt2-untied": {
        "vocab_size": 61,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "tie_word_embeddings": False,
        "activation_function": "relu",
    },
    "gpt_neo": {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 64,
    },
    "gpt_neox": {**COMMON, "intermediate_size": 48, "max_position_embeddings": 64},
    "gpt_neox-serial": {
        **COMMON,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "use_parallel_residual": False,
    },
    "llama": {**COMMON, **ROTARY},
    "llama-biased": {**COMMON, **ROTARY, "attention_bias": True, "mlp_bias": True},
    "mistral": {**COMMON, **ROTARY, "sliding_window": 4},
    "qwen2": {**COMMON, **ROTARY},
    "qwen3": {**COMMON, **ROTARY, "head_dim": 16},
    "gemma2": {**COMMON, **ROTARY, **GEMMA},
    "gemma3_text": {
        **COMMON,
        **ROTARY,
        **GEMMA,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def build(name: str, attention: str | None = None, **changes: object) -> PreTrainedModel:
    """A small random model; every parameter is moved off its trivial start (0 or 1)."""
    torch.manual_seed(0)
    family = name.partition("-")[0]
    neutral = {} if family.startswith("gpt") else IDS
    config = CONFIG_MAPPING[family](**{**CONFIGS[name], **neutral, **changes})
    options = {} if attention is None else {"attn_implementation": attention}
    model = AutoModelForCausalLM.from_config(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make() -> Callable[..., PreTrainedModel]:
    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))
