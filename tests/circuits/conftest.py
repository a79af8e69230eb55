"""Small random models of every family, in float64 with norms in float64 too."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from monosem.models.language_model import LanguageModel
from monosem.models.transformer import MonosemConfig, MonosemForCausalLM

COMMON = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4}
NEOX = {**COMMON, "intermediate_size": 48, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OURS = {**COMMON, "intermediate_size": 48, "max_position_embeddings": 64}

CONFIGS = {
    "gpt2": GPT2,
    "gpt2-silu": {**GPT2, "activation_function": "silu", "tie_word_embeddings": False},
    "gpt_neo": {
        **{"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4},
        **{"attention_types": [[["global", "local"], 1]], "window_size": 4},
        "max_position_embeddings": 64,
    },
    "gpt_neox": NEOX,
    "gpt_neox-serial": {**NEOX, "use_parallel_residual": False},
    "llama": {**COMMON, **ROTARY},
    "llama-biased": {**COMMON, **ROTARY, "attention_bias": True, "mlp_bias": True},
    "mistral": {**COMMON, **ROTARY, "sliding_window": 4},
    "qwen2": {**COMMON, **ROTARY},
    "qwen3": {**COMMON, **ROTARY, "head_dim": 16},
    "gemma2": {**COMMON, **ROTARY, **GEMMA},
    "gemma3_text": {
        **{**COMMON, **ROTARY, **GEMMA},
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "monosem-solu": {**OURS, "hidden_act": "solu", "mlp_norm": True},
    "monosem-bare": {**OURS, "layer_norm": False},
    "monosem-attention": {**OURS, "intermediate_size": 0},
}


def build(precise_norms, name, **changes):
    """A small random model in float64; every parameter is moved off its trivial start."""
    family = name.partition("-")[0]
    ids = {} if family.startswith(("gpt", "monosem")) else {"pad_token_id": 2}
    settings = {**CONFIGS[name], **ids, "bos_token_id": 0, "eos_token_id": 1, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "monosem":
            model = MonosemForCausalLM(MonosemConfig(**settings))
        else:
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return LanguageModel(precise_norms(model.double().requires_grad_(False)), name=name)


@pytest.fixture(scope="session")
def make(precise_norms):
    """Return a small model: `make("llama")`; one for all tests, unless something is changed."""
    kept = {}

    def made(name, **changes):
        if changes:
            return build(precise_norms, name, **changes)
        if name not in kept:
            kept[name] = build(precise_norms, name)
        return kept[name]

    return made


@pytest.fixture(params=CONFIGS)
def family(request, make):
    """One model of every family."""
    return make(request.param)


@pytest.fixture
def tokens():
    """One prompt."""
    return torch.randint(3, 61, (7,), generator=torch.Generator().manual_seed(1))


WORDS = ["<s>", "see", "pear", "dog", "cat", "ran", "sat", " an", "An", "_an", " on", " up"]
WORDS += [f"w{i}" for i in range(28)]
NEURON = 17


@pytest.fixture(scope="session")
def planted():
    """A model of one layer whose neuron 17 fires after `see` and writes ` an`, `An` and `_an`.

    Neuron 5 writes ` on` and ` up`, which mean different things; all others write at random.
    """
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    config = GPT2Config(
        **{"vocab_size": 40, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 24},
        **{"n_inner": 60, "activation_function": "relu", "tie_word_embeddings": False},
        **{"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.02},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
        W_E, W_U = model.transformer.wte.weight, model.lm_head.weight
        mlp = model.transformer.h[0].mlp
        with torch.no_grad():
            W_E.copy_(torch.randn(40, 64))
            W_U.copy_(0.3 * torch.randn(40, 64))
            base = 0.3 * torch.randn(64)
            for token in (7, 8, 9):
                W_U[token] = base + 0.1 * torch.randn(64)
            mlp.c_proj.weight.copy_(0.05 * torch.randn(60, 64))
            mlp.c_proj.weight[NEURON] = 0.4 * base
            mlp.c_proj.weight[5] = 0.3 * (W_U[10] + W_U[11])
            mlp.c_fc.weight.copy_(0.02 * torch.randn(64, 60))
            seen = W_E[1] - W_E[1].mean()
            mlp.c_fc.weight[:, NEURON] = seen / seen.norm()
            mlp.c_fc.bias[NEURON] = -3.0
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")
    return LanguageModel(model.requires_grad_(False), tokenizer, name="planted")
