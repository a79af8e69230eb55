"""The model class of our own: against the plain formula, through every way of loading it, in every shape."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import monosem
from monosem.core.errors import ConfigError, UnknownNameError
from monosem.models.language_model import LanguageModel
from monosem.models.small import PRESETS, SmallModelConfig, build
from monosem.models.transformer import MonosemConfig, MonosemForCausalLM

SHAPES = {
    "attention-only": {"intermediate_size": 0},
    "relu": {"hidden_act": "relu"},
    "solu": {"hidden_act": "solu"},
    "solu-norm": {"hidden_act": "solu", "mlp_norm": True},
    "no-norms": {"layer_norm": False},
    "wide-heads": {"layer_norm": False, "intermediate_size": 0, "head_dim": 12},
}


def make(name: str, attention: str = "sdpa") -> MonosemForCausalLM:
    torch.manual_seed(0)
    shape = {"intermediate_size": 48, **SHAPES[name]}
    config = MonosemConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        max_position_embeddings=24,
        bos_token_id=0,
        eos_token_id=1,
        **shape,
    )
    config._attn_implementation = attention
    model = MonosemForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(params=SHAPES)
def shape(request):
    return request.param


@pytest.fixture
def tokens():
    return torch.randint(2, 61, (2, 9), generator=torch.Generator().manual_seed(1))


def plain(model, tokens):
    """The formula of the module's docstring, in float64, from the weights alone."""
    w = {k: v.double() for k, v in model.state_dict().items()}
    config, n = model.config, tokens.shape[1]

    def norm(x, name):
        if f"{name}.weight" not in w:
            return x
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:n]
    for i in range(config.num_hidden_layers):
        at = f"transformer.h.{i}"
        q, k, v = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").chunk(3, -1)
        heads = config.num_attention_heads
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        future = torch.ones(n, n).triu(1).bool()
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        x = x + linear((pattern @ v).transpose(1, 2).flatten(-2), f"{at}.attn.c_proj")
        if config.intermediate_size:
            h = linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
            h = h.relu() if config.hidden_act == "relu" else h * h.softmax(-1)
            x = x + linear(norm(h, f"{at}.mlp.norm"), f"{at}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["lm_head.weight"].T


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_the_plain_formula(shape, attention, tokens):
    model = make(shape, attention)
    with torch.no_grad():
        found = model.double()(tokens, use_cache=False).logits
    torch.testing.assert_close(found, plain(model, tokens), atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_self_test_passes_and_the_sites_are_those_that_exist(shape, attention):
    model = LanguageModel(make(shape, attention))
    model.self_test()
    sites = model.sites()
    assert any("mlp" in site for site in sites) == (SHAPES[shape].get("intermediate_size") != 0)
    assert any(".ln" in site for site in sites) == SHAPES[shape].get("layer_norm", True)
    assert model.width("blocks.1.attn.hook_z") == 4 * (SHAPES[shape].get("head_dim") or 8)


def test_a_folder_is_read_back_bit_for_bit_and_by_auto_classes_once_registered(
    shape, tokens, tmp_path
):
    model = make(shape)
    model.save_pretrained(tmp_path)
    wanted = model(tokens).logits
    assert torch.equal(monosem.load_model(tmp_path, device="cpu").logits(tokens), wanted)
    monosem.register()
    monosem.register()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, MonosemForCausalLM)
    assert torch.equal(again(tokens).logits, wanted)


def test_text_is_generated_alike_with_and_without_a_cache(shape, tokens):
    model = make(shape)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    options["attention_mask"] = torch.ones_like(tokens)
    with_cache = model.generate(tokens, use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(tokens, use_cache=False, **options))


def test_left_padding_changes_nothing_of_what_is_generated(tokens):
    model = make("attention-only")
    padded = torch.cat([torch.ones(2, 3, dtype=torch.int64), tokens], 1)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.int64), torch.ones_like(tokens)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(found, model(tokens).logits, atol=1e-5, rtol=1e-5)


def test_labels_give_the_next_token_loss(tokens):
    model = make("relu")
    out = model(tokens, labels=tokens)
    logits = out.logits[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert out.loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    last = model(tokens, logits_to_keep=1).logits
    torch.testing.assert_close(last, out.logits[:, -1:])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_passes_the_self_test(name):
    model = build(PRESETS[name], vocab_size=70, bos=0, eos=0, seed=0)
    stock = name not in ("1L-solu", "1L-solu-norm", "2L-attn-only", "3L-attn-only")
    assert isinstance(model, MonosemForCausalLM) is not stock
    LanguageModel(model).self_test()


def test_dictionaries_train_and_directions_act_where_there_is_no_mlp():
    model = LanguageModel(make("attention-only"))
    vectors = torch.eye(32)[:3]
    effects = model.logit_effects("blocks.0.hook_attn_out", vectors)
    assert effects.shape == (3, 61) and effects.abs().max() > 0
    bare = LanguageModel(make("wide-heads"))
    unembed = bare.model.lm_head.weight
    found = bare.logit_effects("blocks.1.hook_resid_post", vectors)
    torch.testing.assert_close(found, vectors @ unembed.T)
    with pytest.raises(UnknownNameError, match="no site"):
        model.width("blocks.0.mlp.hook_post")


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="no multiple"):
        MonosemForCausalLM(MonosemConfig(hidden_size=10, num_attention_heads=4))
    with pytest.raises(UnknownNameError, match="solu"):
        MonosemForCausalLM(MonosemConfig(hidden_act="solo"))
    with pytest.raises(ConfigError, match="d_model"):
        SmallModelConfig(d_model=0)
