"""The study of attention-only transformers: every bound is there first, holds, and would be broken."""

import copy
import sys

import pytest
import torch

from monosem.constructions.approximations import approximation
from monosem.constructions.conversion import ConversionConfig, activation_of, convert
from monosem.constructions.gated import Product
from monosem.models.families import FAMILIES
from monosem.models.places import blocks_of, submodule
from monosem.studies.attention_only import bounds
from monosem.studies.attention_only.claim import checked
from monosem.studies.attention_only.models import models

DTYPES = [torch.float64, torch.float32]


def config(kind, activation, width):
    from transformers import GPT2Config, LlamaConfig

    if kind == "gpt2":
        return GPT2Config(
            **{"vocab_size": 23, "n_embd": width, "n_inner": 2 * width, "n_layer": 1, "n_head": 2},
            **{"n_positions": 24, "activation_function": activation, "initializer_range": 0.5},
            **{"bos_token_id": 0, "eos_token_id": None},
        )
    return LlamaConfig(
        **{"vocab_size": 23, "hidden_size": width, "intermediate_size": 2 * width},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24},
        **{"hidden_act": activation, "initializer_range": 0.3, "pad_token_id": 1},
    )


def mlps(kind, activation, width, dtype, settings):
    """Return bound and error of one random MLP on rows as a norm gives them."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        model = AutoModelForCausalLM.from_config(config(kind, activation, width)).eval()
        x = torch.nn.functional.layer_norm(torch.randn(2, 9, width), (width,))
    original = model.to(dtype).requires_grad_(False)
    row, made = FAMILIES[kind], convert(original, settings).model
    (old,), (new,) = blocks_of(original, row), blocks_of(made, row)
    best = approximation(activation_of(original), settings.n_heads, gain=settings.gain)
    if row.up:
        epsilon = bounds.epsilons(new.mlp, settings.n_terms)
        product = Product(n_terms=settings.n_terms)
        bound = bounds.gated(old, row, best, product, epsilon, x, dtype)
    else:
        bound = bounds.ungated(old, row, best, x, dtype)
    true = copy.deepcopy(submodule(old, row.mlp)).double()(x.double())
    return bound, float((new.mlp(x.to(dtype)).double() - true).abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kind", "activation", "settings"),
    [
        ("gpt2", "relu", ConversionConfig(gain=30.0)),
        ("gpt2", "relu", ConversionConfig()),
        ("gpt2", "gelu", ConversionConfig(n_heads=2)),
        ("gpt2", "silu", ConversionConfig()),
        ("gpt2", "tanh", ConversionConfig()),
        ("llama", "silu", ConversionConfig(n_terms=1)),
        ("llama", "silu", ConversionConfig(n_terms=3)),
        ("llama", "gelu_pytorch_tanh", ConversionConfig(n_heads=1)),
    ],
)
def test_no_mlp_of_any_width_exceeds_its_bound(kind, activation, settings, dtype):
    for width in (4, 16, 48):
        bound, error = mlps(kind, activation, width, dtype, settings)
        assert 0 < error < bound


def test_bounds_are_near_where_the_approximation_decides():
    bound, error = mlps("gpt2", "relu", 16, torch.float64, ConversionConfig(gain=3.0))
    assert bound < 12 * error
    bound, error = mlps(
        "llama", "gelu_pytorch_tanh", 16, torch.float64, ConversionConfig(n_heads=1)
    )
    assert bound < 12 * error


def test_a_bound_is_there_before_anything_is_measured():
    order = []

    def measure():
        order.append("measured")
        return 2.0

    claim = checked("a claim", torch.float32, (order.append("bound"), 1.0)[1], measure)
    assert order == ["bound", "measured"]
    assert not claim.holds
    assert claim.dtype == "float32"


@pytest.mark.parametrize(
    "name",
    [
        "routing-gpt2",
        pytest.param("stories260k", marks=pytest.mark.slow),
        pytest.param("babyllama-361", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_every_claim_holds_of_real_models(data, name):
    found = [c for c in models([str(data / "models" / name)]) if c.claim.startswith(name)]
    assert {c.dtype for c in found} == {"float64", "float32"}
    assert len(found) >= 4
    assert all(c.holds for c in found)


@torch.no_grad()
def test_a_broken_conversion_is_seen(monkeypatch):
    from monosem.constructions.conversion import Converted
    from monosem.models.language_model import LanguageModel
    from monosem.models.randomised import randomised

    module = sys.modules[models.__module__]
    original = LanguageModel.load("1L-a", device="cpu")
    other = convert(randomised(original).model)
    monkeypatch.setattr(module, "convert", lambda *_: Converted(model=other.model, blocks=()))
    found = list(module._tokens(original))
    assert [c.holds for c in found] == [False, True, False, False]


@torch.no_grad()
def test_a_model_that_cannot_be_converted_is_refused_by_name(tmp_path):
    from monosem.core.errors import UnsupportedModelError
    from monosem.models.transformer import MonosemConfig, MonosemForCausalLM

    MonosemForCausalLM(
        MonosemConfig(vocab_size=16, hidden_size=8, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="not converted"):
        list(models([str(tmp_path)]))
