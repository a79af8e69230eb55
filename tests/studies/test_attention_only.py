"""The study of attention-only transformers: every bound is there first, holds, and would be broken."""

import copy
import sys

import pytest
import torch

from monosem.constructions.approximations import approximation
from monosem.constructions.conversion import ConversionConfig, activation_of, convert
from monosem.constructions.gated import Product
from monosem.models.families import FAMILIES
from monosem.models.language_model import LanguageModel
from monosem.models.places import blocks_of, submodule
from monosem.studies.attention_only import bounds
from monosem.studies.attention_only.claim import checked
from monosem.studies.attention_only.models import models, of_model
from monosem.studies.attention_only.whole import carried

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
        bound = float(bounds.gated(old, row, best, product, epsilon, x, dtype).max())
    else:
        bound = float(bounds.ungated(old, row, best, x, dtype).max())
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
    found = list(of_model(LanguageModel.load(data / "models" / name, device="cpu")))
    assert all(c.claim.startswith(name) for c in found)
    assert {c.dtype for c in found} == {"float64", "float32"}
    assert len(found) >= 2 + 3 * (name == "routing-gpt2")
    assert all(c.holds for c in found)


def broken(module, monkeypatch, original):
    from monosem.constructions.conversion import Converted
    from monosem.models.randomised import randomised

    def other(model, *_):
        made = convert(randomised(original).model).model
        return Converted(model=made.to(model.dtype), blocks=())

    monkeypatch.setattr(module, "convert", other)


@torch.no_grad()
def test_a_broken_conversion_is_seen(monkeypatch):
    module = sys.modules[models.__module__]
    original = LanguageModel.load("1L-a", device="cpu")
    assert [c.holds for c in module._whole(original)] == [True] * 3
    broken(module, monkeypatch, original)
    found = list(module._whole(original))
    assert "(256 of 256 positions)" in found[1].claim
    assert "(24 tokens" in found[2].claim
    assert [c.holds for c in found] == [False, False, False]


@torch.no_grad()
def test_an_exact_conversion_that_is_not_is_seen(monkeypatch):
    module = sys.modules[models.__module__]
    original = module._random()
    assert [c.holds for c in module._exact(original)] == [True, True]
    broken(module, monkeypatch, original)
    assert [c.holds for c in module._exact(original)] == [False, False]


def gpt2(activation, layers, std, dtype, seed):
    from transformers import AutoModelForCausalLM

    made = config("gpt2", activation, 16)
    made.n_layer, made.initializer_range, made.tie_word_embeddings = layers, std, False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made)
        for name, parameter in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, float("weight" in name), 0.2)
    return LanguageModel(model.to(dtype).eval().requires_grad_(False), name="random")


@pytest.mark.parametrize(
    ("activation", "settings", "layers", "std"),
    [
        ("relu", ConversionConfig(gain=1e4), 1, 0.3),
        ("relu", ConversionConfig(gain=1e5), 2, 0.2),
        ("gelu", ConversionConfig(n_heads=4), 1, 0.3),
        ("gelu_new", ConversionConfig(n_heads=3), 2, 0.1),
        ("silu", ConversionConfig(), 3, 0.2),
    ],
)
@torch.no_grad()
def test_no_logit_of_any_model_leaves_what_is_carried_to_it(activation, settings, layers, std):
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(3))
    best = approximation(activation, settings.n_heads, gain=settings.gain)
    for seed in range(2):
        for dtype in DTYPES:
            model = gpt2(activation, layers, std, dtype, seed)
            reach = carried(model, best, activation, tokens)
            one = model.model(input_ids=tokens).logits.double()
            other = convert(model.model, settings).model(input_ids=tokens).logits.double()
            gaps = (one - other).abs().amax(-1)
            assert (gaps <= reach.logits).all()
            same = one.argmax(-1) == other.argmax(-1)
            assert same[reach.decided].all()
            if dtype == torch.float64:
                assert reach.logits.isfinite().all()
                assert reach.decided.any()


@torch.no_grad()
def test_what_is_carried_grows_with_what_heads_err_by_and_is_near_it_in_one_layer():
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(3))
    model = gpt2("relu", 1, 0.3, torch.float64, 0)
    true, last = model.model(input_ids=tokens).logits, 0.0
    for gain in (1000.0, 100.0, 10.0):
        reach = carried(model, approximation("relu", gain=gain), "relu", tokens)
        made = convert(model.model, ConversionConfig(gain=gain)).model
        gaps = (made(input_ids=tokens).logits - true).abs().amax(-1)
        assert float(reach.logits.max()) > 3 * last
        last = float(reach.logits.max())
        assert float(gaps.max()) < last < 1000 * float(gaps.max())


@torch.no_grad()
def test_a_model_that_cannot_be_converted_is_refused_by_name(tmp_path):
    from monosem.core.errors import UnsupportedModelError
    from monosem.models.transformer import MonosemConfig, MonosemForCausalLM

    MonosemForCausalLM(
        MonosemConfig(vocab_size=16, hidden_size=8, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="not converted"):
        list(of_model(LanguageModel.load(tmp_path, device="cpu")))
