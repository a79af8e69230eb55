"""Every family against plain `transformers` and against the identities of its architecture."""

import torch

from monosem.models import norms
from monosem.models.access import matrix
from monosem.models.language_model import LanguageModel
from monosem.models.places import submodule


def close(left, right, tolerance=2e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


def at(seen, layer, point):
    return seen[f"blocks.{layer}.{point}"]


def one_block(model):
    """The sites outside the blocks and those of the first; the self-test visits all."""
    return [site for site in model.sites() if not site.startswith("blocks.1.")]


def test_the_self_test_passes(make, family):
    LanguageModel(make(family)).self_test()


def test_logits_are_those_of_transformers_bit_for_bit(make, family, tokens):
    plain = make(family)(tokens, use_cache=False).logits
    model = LanguageModel(make(family))
    assert torch.equal(model.logits(tokens), plain)


def test_reading_every_site_changes_no_bit_of_the_logits(make, family, tokens):
    model = LanguageModel(make(family))
    plain = model.model(tokens, use_cache=False).logits
    for gradients in (False, True):
        with model.capturing(model.sites(), gradients=gradients) as seen:
            assert torch.equal(model.logits(tokens), plain)
        assert list(seen) and set(seen) == set(model.sites())
    assert torch.equal(model.model(tokens, use_cache=False).logits, plain)


def test_replacing_a_site_by_itself_changes_no_bit_of_the_logits(make, family, tokens):
    model = LanguageModel(make(family))
    plain = model.model(tokens, use_cache=False).logits
    for site in one_block(model):
        with model.replaced({site: lambda x: x}):
            assert torch.equal(model.logits(tokens), plain), site


def test_replacing_a_site_by_an_equal_tensor_changes_only_rounding(make, family, tokens):
    model = LanguageModel(make(family))
    plain = model.model(tokens, use_cache=False).logits
    for site in one_block(model):
        with model.replaced({site: lambda x: x.clone()}):
            close(model.logits(tokens), plain, 1e-5)


def test_every_replacement_reaches_the_logits(make, family, tokens):
    model = LanguageModel(make(family))
    plain = model.model(tokens, use_cache=False).logits
    for site in one_block(model):
        with model.replaced({site: lambda x: x.roll(1, -1) * 0.5 + 0.1}):
            assert (model.logits(tokens) - plain).abs().max() > 1e-4, site


def test_residual_identities_hold(make, family, tokens):
    model = LanguageModel(make(family))
    seen = model.capture(tokens, model.sites())
    start = seen["hook_embed"] + seen.get("hook_pos_embed", 0)
    close(at(seen, 0, "hook_resid_pre"), start)
    for layer in range(model.n_layers):
        pre, post = at(seen, layer, "hook_resid_pre"), at(seen, layer, "hook_resid_post")
        attn, mlp = at(seen, layer, "hook_attn_out"), at(seen, layer, "hook_mlp_out")
        close(pre + attn + mlp, post)
        has_mid = f"blocks.{layer}.hook_resid_mid" in seen
        assert has_mid is (family != "gpt_neox")
        if has_mid:
            close(pre + attn, at(seen, layer, "hook_resid_mid"))
        if layer:
            close(pre, at(seen, layer - 1, "hook_resid_post"), 0)


def test_heads_and_neurons_write_what_is_added_to_the_residual(make, family, tokens):
    model = LanguageModel(make(family))
    seen = model.capture(tokens, model.sites())
    for layer, block in enumerate(model.blocks):
        row = model.family
        for point, path, post, out in (
            ("attn.hook_z", row.o_proj, row.attn_out, "hook_attn_out"),
            ("mlp.hook_post", row.down, row.mlp_out, "hook_mlp_out"),
        ):
            x, projection = at(seen, layer, point), submodule(block, path)
            x = x.flatten(2)
            assert x.shape[-1] == model.width(f"blocks.{layer}.{point}")
            y = x @ matrix(projection) + (0 if projection.bias is None else projection.bias)
            close(submodule(block, post)(y) if post else y, at(seen, layer, out))


def test_norms_come_apart_into_scale_gain_and_bias(make, family, tokens):
    model = LanguageModel(make(family))
    seen = model.capture(tokens, model.sites())
    x = at(seen, 0, "hook_resid_pre")
    norm = submodule(model.blocks[0], model.family.ln1)
    y = norms.rebuild(norm, x, at(seen, 0, "ln1.hook_scale"))
    close(y, at(seen, 0, "ln1.hook_normalized"))
    assert at(seen, 0, "ln1.hook_scale").shape == (2, 9, 1)


def test_pattern_rows_sum_to_one_and_equal_output_attentions(make, family, tokens):
    eager = make(family, "eager")
    theirs = eager(tokens, output_attentions=True).attentions
    for model in (LanguageModel(make(family)), LanguageModel(eager)):
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
        ours = model.capture(tokens, names)
        for name, pattern in zip(names, theirs, strict=True):
            assert ours[name].shape == (2, model.n_heads, 9, 9)
            close(ours[name].sum(-1), torch.ones(2, model.n_heads, 9))
            close(ours[name], pattern, 1e-6)
            assert ours[name].triu(1).abs().max() == 0


def test_queries_keys_values_make_the_scores_and_the_heads_output(make, family, tokens):
    model = LanguageModel(make(family))
    seen = model.capture(tokens, model.sites())
    for layer in range(model.n_layers):
        q, k, v = (at(seen, layer, f"attn.hook_{x}").transpose(1, 2) for x in "qkv")
        assert q.shape[-1] * q.shape[1] == model.width(f"blocks.{layer}.attn.hook_q")
        assert k.shape[-1] * k.shape[1] == model.width(f"blocks.{layer}.attn.hook_k")
        groups = model.n_heads // model.n_kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        pattern = at(seen, layer, "attn.hook_pattern")
        close((pattern @ v).transpose(1, 2), at(seen, layer, "attn.hook_z"))
        if f"blocks.{layer}.attn.hook_attn_scores" not in seen:
            assert family == "gpt_neo"
            continue
        scores = at(seen, layer, "attn.hook_attn_scores")
        close(scores.softmax(-1), pattern)
        open_ = pattern > 0
        raw = q @ k.transpose(-1, -2)
        ratio = (raw / scores)[open_]
        if family != "gemma2":  # its scores are capped
            close(ratio, ratio[:1].expand_as(ratio), 1e-3)


def test_every_site_has_a_gradient(make, family, tokens):
    model = LanguageModel(make(family).requires_grad_(False))
    with model.capturing(model.sites(), gradients=True) as seen:
        loss = model.losses(tokens).mean()
    gradients = torch.autograd.grad(loss, list(seen.values()))
    for site, gradient in zip(seen, gradients, strict=True):
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, site


def test_gradients_agree_with_finite_differences(make, family, tokens):
    model = LanguageModel(make(family).requires_grad_(False).double())
    sites = [s for s in one_block(model) if not s.endswith("scores")]  # masked ones are at -1e308
    with model.capturing(sites, gradients=True) as seen:
        loss = model.losses(tokens).mean()
    gradients = torch.autograd.grad(loss, list(seen.values()))
    generator = torch.Generator().manual_seed(2)
    for site, gradient in zip(seen, gradients, strict=True):
        random = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        step = 0.01 * (gradient / gradient.norm() + random / random.norm())
        ends = []
        for sign in (1, -1):
            with model.replaced({site: lambda x, s=sign, d=step: x + s * d}):
                ends.append(model.losses(tokens).mean())
        slope, expected = ends[0] - ends[1], (gradient * step).sum() * 2
        assert abs(slope - expected) < 0.03 * abs(expected) + 1e-6, site


def test_generation_with_a_cache_is_as_without_us(make, family, tokens):
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    expected = make(family).generate(tokens, **greedy)
    model = LanguageModel(make(family))
    with model.capturing(model.sites()) as seen:
        assert torch.equal(model.model.generate(tokens, **greedy), expected)
    assert at(seen, 0, "hook_resid_pre").shape == (2, 1, model.d_model)
    assert torch.equal(model.model.generate(tokens, **greedy), expected)
