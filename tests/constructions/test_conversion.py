"""Transformers without MLPs: equal where theory says so, within the bound elsewhere, real models."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from monosem.constructions import attention_only
from monosem.constructions.conversion import ConversionConfig, convert
from monosem.constructions.heads import attend, augment, self_and_bias
from monosem.constructions.sublayer import NeuronHeads
from monosem.core.errors import ConfigError, ShapeMismatchError, UnsupportedModelError
from monosem.models.language_model import LanguageModel

FAMILIES = [
    ("gpt2", "silu"),
    ("gpt_neox", "silu"),
    ("llama", "silu"),
    ("gemma2", "gelu_pytorch_tanh"),
    ("gemma3_text", "gelu_pytorch_tanh"),
]


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_silu_model_is_equal_in_float64(tiny, tokens, kind):
    model = tiny(kind, "silu")
    converted = convert(model)
    assert [b.n_heads for b in converted.blocks] == [24, 24]
    assert (logits(model, tokens) - logits(converted.model, tokens)).abs().max() < 1e-11


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_silu_model_is_within_twice_the_noise_of_float32(tiny, tokens, kind):
    exact = tiny(kind, "silu")
    single = tiny(kind, "silu", torch.float32)
    noise = (logits(single, tokens) - logits(exact, tokens)).abs().max()
    gap = (logits(convert(single).model, tokens) - logits(exact, tokens)).abs().max()
    assert gap < 2 * noise


@pytest.mark.parametrize(("activation", "ladder"), [("gelu", 4), ("gelu_new", 4)])
def test_every_head_more_brings_gelu_nearer(tiny, tokens, activation, ladder):
    model = tiny("gpt2", activation)
    true = logits(model, tokens)
    gaps = []
    for n in range(1, ladder + 1):
        converted = convert(model, ConversionConfig(n_heads=n))
        assert converted.blocks[0].n_heads == 24 * n
        gaps.append(float((logits(converted.model, tokens) - true).abs().max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 50


def test_relu_comes_nearer_in_proportion_to_the_gain(tiny, tokens):
    model = tiny("gpt2", "relu")
    gaps = [
        float(
            (logits(convert(model, ConversionConfig(gain=g)).model, tokens) - logits(model, tokens))
            .abs()
            .max()
        )
        for g in (1.0, 3.0, 9.0)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


@pytest.mark.parametrize("n_terms", [1, 2, 3])
def test_a_gated_mlp_stays_within_its_bound(tiny, precise_norms, n_terms):
    model = tiny("llama", "silu")
    converted = convert(model, ConversionConfig(n_terms=n_terms))
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for old, new, report in zip(
        model.model.layers, converted.model.model.layers, converted.blocks, strict=True
    ):
        read = precise_norms(old).post_attention_layernorm(x)
        u, W_out = old.mlp.up_proj(read), old.mlp.down_proj.weight
        bound = (u.abs() @ W_out.abs().T).max() * report.product_error
        gap = (new.mlp(read) - old.mlp(read)).abs().max()
        assert gap <= bound
        assert report.n_scratch == 48
        assert report.n_heads == 24 * 2 + 24 * (n_terms + 1)
    assert report.product_error < {1: 1e-8, 2: 1e-10, 3: 1e-10}[n_terms]


@pytest.mark.parametrize(("kind", "activation"), FAMILIES[2:])
def test_gated_families_agree_as_well_as_their_activation_does(
    tiny, tokens, precise_norms, kind, activation
):
    model = tiny(kind, activation)
    converted = convert(model, ConversionConfig(n_heads=4)).model
    true, near = logits(precise_norms(model), tokens), logits(precise_norms(converted), tokens)
    assert (true - near).abs().max() < (1e-9 if activation == "silu" else 0.05)


@pytest.mark.parametrize(("kind", "activation"), FAMILIES)
def test_converted_models_are_real_models(tiny, tokens, tmp_path, kind, activation):
    model = tiny(kind, activation, torch.float32)
    converted = convert(model).model
    attention_only.register()
    attention_only.register()  # again changes nothing
    converted.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is type(converted)
    assert torch.equal(logits(loaded, tokens), logits(converted, tokens))
    wanted = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    plain = converted.generate(tokens, use_cache=False, **wanted)
    assert torch.equal(converted.generate(tokens, use_cache=True, **wanted), plain)
    assert plain.shape == (2, 20)
    if activation == "silu":
        assert torch.equal(model.generate(tokens, **wanted), plain)
    attended = LanguageModel.load(tmp_path, device="cpu")
    n_last = converted.config.attention_only["sublayers"][-1][1]
    z = attended.capture(tokens, ["blocks.1.mlp.hook_post"])["blocks.1.mlp.hook_post"]
    assert z.shape == (2, 12, n_last)


def test_dense_gathered_and_textbook_attention_agree(tiny, tokens):
    model = tiny("gpt2", "gelu")
    gathered = convert(model, ConversionConfig(mode="gathered"))
    dense = convert(model, ConversionConfig(mode="dense")).model
    assert (logits(dense, tokens) - logits(gathered.model, tokens)).abs().max() < 1e-12
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sublayer = gathered.model.transformer.h[0].mlp.sublayers[0]
    rows = augment(x)
    textbook = attend(sublayer.as_heads(), rows, self_and_bias(6))[:, 1:]
    assert (textbook - sublayer(x)).abs().max() < 1e-13


def test_nothing_of_the_original_is_changed_nor_shared(tiny, tokens):
    model = tiny("llama", "silu")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    converted = convert(model).model
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_cannot_be_converted_says_why(tiny):
    model = tiny("gpt2", "silu")
    with pytest.raises(UnsupportedModelError, match="attention-only already"):
        convert(convert(model).model)
    model.config.model_type = "opt"
    with pytest.raises(UnsupportedModelError, match="gpt2, gpt_neox, llama"):
        convert(model)
    with pytest.raises(ConfigError, match="attention_only"):
        attention_only.AttentionOnlyGPT2(
            attention_only.AttentionOnlyGPT2Config(n_layer=1, n_embd=8, n_head=2)
        )
    with pytest.raises(ConfigError, match="gathered, dense"):
        NeuronHeads(4, 2, 4, "sparse")
    heads = NeuronHeads(4, 2, 4).as_heads()
    with pytest.raises(ShapeMismatchError, match="do not fit"):
        NeuronHeads(5, 2, 4).fill_(heads)


def test_a_gated_product_envelops_for_every_real_gate():
    from monosem.constructions.gated import Product

    a = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    for m in (1, 2, 3, 4):
        product = Product(n_terms=m)
        for epsilon in (1e-2, 0.1, 1.0, 5.0):
            made = sum(
                4 * c / (j * epsilon) * (torch.sigmoid(j * epsilon * a) - 0.5)
                for j, c in enumerate(product.weights, 1)
            )
            for largest in (0.5, 3.0, 50.0):
                inside = a.abs() <= largest
                slack = product.rounding(epsilon, 2.0**-53) + 1e-15 * largest
                gap = (made - a)[inside].abs().max()
                assert gap <= product.truncation(epsilon, largest) + slack
    product = Product(n_terms=1)  # for one head the bound is nearly reached
    gap = abs(2 / 0.01 * torch.tanh(torch.tensor(0.015, dtype=torch.float64)) - 3.0)
    assert 0.99 * product.truncation(0.01, 3.0) < gap < product.truncation(0.01, 3.0)


def test_rotary_frequencies_keep_their_precision_in_bfloat16(tiny, tokens):
    model = tiny("llama", "silu", torch.float32)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model = model.to(torch.bfloat16)
    model.model.rotary_emb.inv_freq = frequencies  # as `from_pretrained` leaves them
    converted = convert(model).model
    for name, buffer in model.named_buffers():
        assert torch.equal(converted.get_buffer(name), buffer)
        assert converted.get_buffer(name).dtype == buffer.dtype
        assert converted.get_buffer(name).data_ptr() != buffer.data_ptr()
    assert logits(converted, tokens).isfinite().all()


def test_a_gain_that_the_number_type_cannot_hold_is_refused(tiny):
    model = tiny("gpt2", "relu", torch.float16)
    with pytest.raises(ConfigError, match="Lower `gain`"):
        convert(model)
    for wrong in ({"n_heads": 0}, {"gain": 0.0}, {"n_terms": 9}, {"mode": "sparse"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ConversionConfig(**wrong)
