"""Dictionaries of processed models, fitted to the model as it is."""

import copy
import dataclasses

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from monosem.activations.processed import ProcessedModel, change
from monosem.activations.processing import fitted, for_model
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import load
from monosem.dictionaries.gated import Gated, GatedConfig
from monosem.dictionaries.jumprelu import JumpReLU, JumpReLUConfig
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.dictionaries.wiring import Wiring
from monosem.editing.interventions import splice
from monosem.models.language_model import LanguageModel

D, N = 16, 40
RESIDUAL, NORM, OUT = (
    "blocks.1.hook_resid_post",
    "blocks.1.ln2.hook_normalized",
    "blocks.1.hook_mlp_out",
)
ALL = "centred, layer_norm_folded, value_biases_folded"
KINDS = {
    "relu": (ReLU, ReLUConfig),
    "gated": (Gated, GatedConfig),
    "jumprelu": (JumpReLU, JumpReLUConfig),
    "topk": (TopK, TopKConfig),
}


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=12, n_embd=D, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.3)
    return model


@pytest.fixture(scope="module")
def plain():
    return LanguageModel(gpt2(), name="plain")


def centre_(model):
    """Rewrite it so that nothing has a mean in the residual stream."""
    base = model.transformer
    for weight in (base.wte.weight, base.wpe.weight):
        weight.sub_(weight.mean(1, keepdim=True))
    for block in base.h:
        for module in (block.attn.c_proj, block.mlp.c_proj):
            module.weight.sub_(module.weight.mean(1, keepdim=True))
            module.bias.sub_(module.bias.mean())


def fold_norms_(model):
    """Move gains and biases of all norms into what reads them."""
    pairs = [(block.ln_2, block.mlp.c_fc) for block in model.transformer.h]
    pairs += [(block.ln_1, block.attn.c_attn) for block in model.transformer.h]
    for norm, into in pairs:
        into.bias.add_(norm.bias @ into.weight)
        into.weight.mul_(norm.weight[:, None])
    last, head = model.transformer.ln_f, model.lm_head
    head.bias = torch.nn.Parameter(head.weight @ last.bias)
    head.weight.mul_(last.weight)
    for norm in [last, *(norm for norm, _ in pairs)]:
        norm.weight.fill_(1)
        norm.bias.zero_()


def fold_biases_(model):
    """Move the biases of values into that of attention's output."""
    for block in model.transformer.h:
        attn = block.attn
        attn.c_proj.bias.add_(attn.c_attn.bias[-D:] @ attn.c_proj.weight)
        attn.c_attn.bias[-D:] = 0


def rewritten(name, *steps):
    """The same function, rewritten."""
    model = gpt2()
    with torch.no_grad():
        for step in steps:
            step(model)
    return LanguageModel(model, name=name)


@pytest.fixture(scope="module")
def centred():
    return rewritten("centred", centre_)


@pytest.fixture(scope="module")
def folded():
    return rewritten("folded", fold_norms_)


@pytest.fixture(scope="module")
def biases_folded():
    return rewritten("biases", fold_biases_)


@pytest.fixture(scope="module")
def everything():
    """What TransformerLens does unless told not to."""
    return rewritten("everything", fold_norms_, fold_biases_, centre_)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))


def made(kind, processing, site, target="", **options):
    """A random dictionary with biases of every kind that says where it was trained."""
    build, config = KINDS[kind]
    extra = {"k": 6} if kind == "topk" else {"l1": 0.1} if kind in ("relu", "gated") else {}
    dictionary = build(config(d_in=D, d_out=D, n_latents=N, **extra, **options))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in dictionary.named_parameters():
            if name.startswith(("b_", "r_")) or name == "W_skip":
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    dictionary.origin = dataclasses.replace(
        dictionary.origin, site=site, target=target, processing=processing
    )
    return dictionary


def seen(model, tokens, site):
    return model.capture(tokens, [site])[site].flatten(0, 1)


def test_the_rewritten_models_are_the_same_function(
    plain, centred, folded, biases_folded, everything, tokens
):
    for other in (centred, folded, biases_folded, everything):
        torch.testing.assert_close(other.logits(tokens), plain.logits(tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", [RESIDUAL, OUT, "blocks.0.hook_attn_out"])
def test_centred_a_dictionary_has_the_same_latents_on_the_plain_model(
    plain, centred, tokens, kind, site
):
    dictionary = made(kind, "centred", site)
    fitted = for_model(dictionary, plain)
    x, there = seen(plain, tokens, site), seen(centred, tokens, site)
    latents = fitted.encode(x)
    torch.testing.assert_close(latents, dictionary.encode(there), atol=1e-4, rtol=1e-4)
    mean = x.mean(1, keepdim=True)
    assert not torch.allclose(dictionary.encode(x), latents, atol=1e-5)
    torch.testing.assert_close(
        fitted.reconstruct(x, latents), dictionary(there) + mean, atol=1e-4, rtol=1e-4
    )


def test_spliced_it_changes_the_plain_model_as_it_changes_the_centred_one(plain, centred, tokens):
    dictionary = made("topk", "centred", RESIDUAL)
    with splice(centred, RESIDUAL, dataclass_free(dictionary)):
        wanted = centred.logits(tokens)
    with splice(plain, RESIDUAL, dictionary):
        torch.testing.assert_close(plain.logits(tokens), wanted, atol=1e-3, rtol=1e-3)


def dataclass_free(dictionary):
    """The same without its record of processing: for the processed model itself."""
    own = copy.deepcopy(dictionary)
    own.origin = dataclasses.replace(own.origin, processing="")
    return own


def test_centred_what_is_not_in_the_residual_stream_is_as_it_was(plain, centred, tokens):
    site = "blocks.1.ln2.hook_normalized"
    dictionary = made("relu", "centred", site)
    assert for_model(dictionary, plain) is dictionary
    torch.testing.assert_close(
        seen(plain, tokens, site), seen(centred, tokens, site), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_folded_a_transcoder_reads_the_plain_norm(plain, folded, tokens, kind, skip):
    wiring = Wiring(kind="transcoder", skip=skip)
    dictionary = made(kind, "layer_norm_folded", NORM, OUT, wiring=wiring)
    fitted = for_model(dictionary, plain)
    x, there = seen(plain, tokens, NORM), seen(folded, tokens, NORM)
    assert not torch.allclose(x, there, atol=1e-2)
    torch.testing.assert_close(fitted.encode(x), dictionary.encode(there), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fitted(x), dictionary(there), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_folded_an_autoencoder_gives_back_the_plain_norm(plain, folded, tokens, kind, skip):
    wiring = (
        Wiring(kind="transcoder", skip=True) if skip else Wiring()
    )  # one that subtracts `b_dec`
    dictionary = made(kind, "layer_norm_folded", NORM, wiring=wiring)
    dictionary.conventions = dataclasses.replace(dictionary.conventions, subtract_b_dec=True)
    fitted = for_model(dictionary, plain)
    assert dictionary.conventions.unit_rows and not fitted.conventions.unit_rows
    x, there = seen(plain, tokens, NORM), seen(folded, tokens, NORM)
    norm = plain.model.transformer.h[1].ln_2
    torch.testing.assert_close(fitted.encode(x), dictionary.encode(there), atol=1e-4, rtol=1e-4)
    wanted = dictionary(there) * norm.weight + norm.bias
    torch.testing.assert_close(fitted(x), wanted, atol=1e-4, rtol=1e-4)


def test_what_was_not_processed_or_not_recorded_is_left_alone(plain):
    for processing in ("", "none"):
        dictionary = made("topk", processing, RESIDUAL)
        assert for_model(dictionary, plain) is dictionary
    elsewhere = made("relu", "layer_norm_folded", RESIDUAL)
    assert for_model(elsewhere, plain) is elsewhere


def test_a_fitted_dictionary_is_saved_and_loaded(plain, tokens, tmp_path):
    fitted = for_model(made("topk", "centred", RESIDUAL), plain)
    fitted.save(tmp_path / "d", site=RESIDUAL)
    x = seen(plain, tokens, RESIDUAL)
    assert torch.equal(load(tmp_path / "d")(x), fitted(x))


def llama():
    config = LlamaConfig(
        vocab_size=50, hidden_size=D, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=12, bos_token_id=0,
        eos_token_id=0, attention_bias=True,
    )  # fmt: skip
    torch.manual_seed(3)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.copy_(torch.randn_like(weight) * 0.3)
    return model


def test_rms_norms_see_the_mean_and_their_models_are_never_centred(tokens):
    dictionary = made("relu", "centred", RESIDUAL)
    assert for_model(dictionary, LanguageModel(llama(), name="llama")) is dictionary


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", ["hook_z", "hook_v"])
@pytest.mark.parametrize("processing", ["value_biases_folded", ALL])
def test_with_biases_of_values_folded_a_dictionary_has_the_same_latents(
    plain, biases_folded, everything, tokens, kind, point, processing
):
    site = f"blocks.1.attn.{point}"
    dictionary = made(kind, processing, site)
    there = seen(everything if processing == ALL else biases_folded, tokens, site).flatten(1)
    x = seen(plain, tokens, site).flatten(1)
    assert not torch.allclose(x, there, atol=1e-2)
    own = for_model(dictionary, plain)
    torch.testing.assert_close(own.encode(x), dictionary.encode(there), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own(x) - x, dictionary(there) - there, atol=1e-4, rtol=1e-4)


def test_heads_that_share_values_share_their_bias():
    model = LanguageModel(llama(), name="llama")
    found = change(model, "blocks.1.attn.hook_z", "value_biases_folded")
    bias = model.model.model.layers[1].self_attn.v_proj.bias.detach().view(2, 4)
    torch.testing.assert_close(found.offset.view(4, 4), bias[[0, 0, 1, 1]])


SITES = [
    *("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_mid", RESIDUAL, OUT),
    *(NORM, "blocks.1.ln1.hook_normalized", "ln_final.hook_normalized"),
    *("blocks.0.attn.hook_z", "blocks.1.attn.hook_v", "blocks.1.attn.hook_q"),
    *("blocks.1.hook_attn_out", "blocks.1.mlp.hook_post", "blocks.1.attn.hook_pattern"),
]


def test_seen_as_processed_every_site_holds_what_it_holds_there(plain, everything, tokens):
    view = ProcessedModel(plain, ALL)
    found, there = view.capture(tokens, SITES), everything.capture(tokens, SITES)
    for site in SITES:
        torch.testing.assert_close(found[site], there[site], atol=2e-4, rtol=2e-4, msg=site)
    assert torch.equal(view.logits(tokens), plain.logits(tokens))
    assert view.hash == plain.hash
    assert torch.equal(seen(plain, tokens, RESIDUAL), seen(plain, tokens, RESIDUAL))


@pytest.mark.parametrize("site", [s for s in SITES if "pattern" not in s])
def test_seen_as_processed_what_is_put_in_place_does_what_it_does_there(
    plain, everything, tokens, site
):
    def changed(x):
        return 0.5 * x + 0.1 * torch.arange(x.shape[-1])

    with everything.replaced({site: changed}):
        wanted = everything.logits(tokens)
    view = ProcessedModel(plain, ALL)
    with view.replaced({site: changed}):
        torch.testing.assert_close(view.logits(tokens), wanted, atol=2e-3, rtol=2e-3)
    with view.replaced({site: lambda x: x}):
        assert torch.equal(view.logits(tokens), plain.logits(tokens))


@pytest.mark.parametrize("site", [RESIDUAL, NORM, "blocks.1.attn.hook_z"])
def test_seen_as_processed_gradients_are_those_of_there(plain, everything, tokens, site):
    grads = []
    for model in (ProcessedModel(plain, ALL), everything):
        with model.capturing([site], gradients=True) as held:
            loss = model.losses(tokens).sum()
        grads.append(torch.autograd.grad(loss, held[site])[0])
    torch.testing.assert_close(grads[0], grads[1], atol=2e-3, rtol=2e-3)


def test_a_gain_of_zero_is_made_up_for_from_what_the_norm_reads(tokens):
    model, folded_model = gpt2(), gpt2()
    norms = [m.transformer.h[1].ln_2 for m in (model, folded_model)]
    into = folded_model.transformer.h[1].mlp.c_fc
    with torch.no_grad():
        for norm in norms:
            norm.weight[3] = 0
        into.bias.add_(norms[1].bias @ into.weight)
        into.weight.mul_(norms[1].weight[:, None])
        norms[1].weight.fill_(1)
        norms[1].bias.zero_()
    plain, folded_one = LanguageModel(model, name="a"), LanguageModel(folded_model, name="b")
    dictionary = made("relu", "layer_norm_folded", NORM)
    with pytest.raises(ConfigError, match="ProcessedModel"):
        for_model(dictionary, plain)
    own, view = fitted({"it": dictionary}, plain)
    assert own["it"] is dictionary
    torch.testing.assert_close(
        seen(view, tokens, NORM), seen(folded_one, tokens, NORM), atol=1e-4, rtol=1e-4
    )


def transcoder(processing):
    return made("topk", processing, NORM, OUT, wiring=Wiring(kind="transcoder"))


def clt(processing):
    widths = (D, D)
    points = ("ln2.hook_normalized", "hook_mlp_out")
    sites = [f"blocks.0.{point}, blocks.1.{point}" for point in points]
    dictionary = ReLU(
        ReLUConfig(
            d_in=2 * D, d_out=2 * D, n_latents=N, l1=0.1,
            wiring=Wiring(kind="clt", widths_in=widths, widths_out=widths),
        )
    )  # fmt: skip
    place = {"site": sites[0], "target": sites[1], "processing": processing}
    dictionary.origin = dataclasses.replace(dictionary.origin, **place)
    return dictionary


@pytest.mark.parametrize("build", [transcoder, clt])
def test_what_no_dictionary_can_take_up_is_reproduced_in_capture(plain, everything, tokens, build):
    dictionary = build(ALL)
    with pytest.raises(ConfigError, match=r"cannot take up.*ProcessedModel\(model, 'centred"):
        for_model(dictionary, plain)
    own, view = fitted({"it": dictionary}, plain)
    assert own["it"] is dictionary

    def both(model, sites):
        held = model.capture(tokens, list(sites))
        return torch.cat([held[site].flatten(0, 1) for site in sites], 1)

    for sites in (dictionary.sites_in, dictionary.sites_out):
        torch.testing.assert_close(both(view, sites), both(everything, sites), atol=2e-4, rtol=2e-4)
    x, there = (both(model, dictionary.sites_in) for model in (view, everything))
    torch.testing.assert_close(own["it"](x), dictionary(there), atol=1e-3, rtol=1e-3)


def test_dictionaries_of_other_models_are_not_measured_together(plain):
    two = {"a": transcoder(ALL), "b": transcoder("layer_norm_folded")}
    with pytest.raises(
        ConfigError, match=r"`a` needs a model seen as processed .*`b` is of another"
    ):
        fitted(two, plain)


def test_what_neither_dictionary_nor_capture_can_make_up_for_is_refused_by_name(plain):
    with pytest.raises(ConfigError, match="`rotated`, which is unknown"):
        for_model(made("relu", "rotated", RESIDUAL), plain)
    with pytest.raises(ConfigError, match="does not record its site"):
        for_model(made("relu", "centred", ""), plain)
    refactored = made("relu", "attention_refactored", "blocks.1.attn.hook_z")
    with pytest.raises(ConfigError, match="heads were refactored"):
        fitted({"it": refactored}, plain)
    elsewhere = made("relu", "attention_refactored", RESIDUAL)
    assert for_model(elsewhere, plain) is elsewhere
