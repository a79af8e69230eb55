"""Direct logit effects against the model itself, with the final norm's scale frozen."""

import pytest
import torch

from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.models.language_model import LanguageModel


def frozen_slope(model, tokens, site, vector):
    """d logits / d (amount of `vector` at `site`) on the direct path, and the frozen scale."""
    last = f"blocks.{model.n_layers - 1}"
    names = [f"{last}.{p}" for p in ("ln1.hook_scale", "ln2.hook_scale")] + ["ln_final.hook_scale"]
    names += [f"{last}.hook_attn_out", f"{last}.hook_mlp_out"]
    seen = model.capture(tokens, names)
    # Only the final norm and a post-norm act on the direct path; MLP and attention are held where
    # the vector does not itself pass through them.
    held = {n: (lambda x, v=seen[n]: v) for n in names if "scale" in n}
    if "attn" in site or "resid_mid" in site:
        held[f"{last}.hook_mlp_out"] = lambda x, v=seen[f"{last}.hook_mlp_out"]: v
    ends = []
    for amount in (1e-2, -1e-2):
        edit = {site: lambda x, a=amount: x + a * vector.reshape(x.shape[2:])}
        with model.replaced(held), model.replaced(edit):
            ends.append(model.logits(tokens))
    return (ends[0] - ends[1]) / 2e-2, seen["ln_final.hook_scale"]


@pytest.mark.parametrize("family", ["gpt2", "gpt2-untied", "gpt_neox", "llama-biased", "qwen3"])
@pytest.mark.parametrize(
    "point", ["mlp.hook_post", "attn.hook_z", "hook_mlp_out", "hook_attn_out", "hook_resid_post"]
)
def test_effects_are_the_slope_of_the_logits_times_the_frozen_scale(make, tokens, family, point):
    model = LanguageModel(make(family).double())
    site = f"blocks.{model.n_layers - 1}.{point}"
    vectors = torch.randn(3, model.width(site), dtype=torch.float64)
    effects = model.logit_effects(site, vectors)
    assert effects.shape == (3, 61)
    for vector, effect in zip(vectors, effects, strict=True):
        slope, scale = frozen_slope(model, tokens, site, vector)
        torch.testing.assert_close(slope * scale, effect.expand_as(slope), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_gemmas_gain_is_one_plus_its_weight(make, tokens, family):
    model = LanguageModel(make(family, final_logit_softcapping=None).double())
    site = "blocks.1.hook_resid_post"
    vectors = torch.randn(2, 32, dtype=torch.float64)
    slope, scale = frozen_slope(model, tokens, site, vectors[0])
    effect = model.logit_effects(site, vectors)[0]
    torch.testing.assert_close(slope * scale, effect.expand_as(slope), atol=1e-3, rtol=1e-3)
    norm = model.model.model.norm
    expected = vectors * (1 + norm.weight) @ model.model.lm_head.weight.T
    torch.testing.assert_close(model.logit_effects(site, vectors), expected)


@pytest.mark.parametrize("point", ["mlp.hook_post", "attn.hook_z"])
def test_a_post_norm_is_folded_with_its_gain(make, tokens, point):
    model = LanguageModel(make("gemma2"))
    site = f"blocks.1.{point}"
    vectors = torch.randn(2, model.width(site))
    block = model.model.model.layers[1]
    linear, norm = (
        (block.mlp.down_proj, block.post_feedforward_layernorm)
        if point == "mlp.hook_post"
        else (block.self_attn.o_proj, block.post_attention_layernorm)
    )
    expected = linear(vectors) * (1 + norm.weight)
    torch.testing.assert_close(model.direction_in_residual(site, vectors), expected)


def test_a_direction_of_the_neurons_is_what_they_write(make, tokens):
    model = LanguageModel(make("gpt2"))
    site, out = "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"
    vector = torch.randn(1, model.width(site))
    plain = model.capture(tokens, [out])[out]
    with model.replaced({site: lambda x: x + vector}):
        moved = model.capture(tokens, [out])[out]
    expected = model.direction_in_residual(site, vector).expand_as(plain)
    torch.testing.assert_close(moved - plain, expected, atol=1e-5, rtol=1e-4)


def test_sites_that_do_not_write_to_the_residual_are_refused(make):
    model = LanguageModel(make("gpt2"))
    with pytest.raises(ConfigError, match="linearly"):
        model.logit_effects("blocks.0.mlp.hook_pre", torch.zeros(1, 128))
    with pytest.raises(ShapeMismatchError, match="width 5"):
        model.logit_effects("blocks.0.mlp.hook_post", torch.zeros(1, 5))
