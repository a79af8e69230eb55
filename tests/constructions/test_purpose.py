"""What an attention-only model is for: it is read, trained on and taken apart like any other."""

import pytest
import torch

from monosem.circuits import targets
from monosem.circuits.attribution import attribute
from monosem.constructions.conversion import ConversionConfig, convert
from monosem.models.language_model import LanguageModel

HIDDEN = "blocks.1.mlp.hook_post"


@pytest.fixture
def pair(tiny):
    """A model and its conversion, behind names of sites; nothing was registered."""

    def both(kind, activation, n_heads=3, dtype=torch.float64):
        original = tiny(kind, activation, dtype)
        made = convert(original, ConversionConfig(n_heads=n_heads)).model
        return LanguageModel(original, name="original"), LanguageModel(made, name="converted")

    return both


@pytest.mark.parametrize(
    ("kind", "activation", "each"),
    [("gpt2", "silu", 1), ("gpt2", "gelu", 3), ("gpt_neox", "relu", 1), ("llama", "silu", 3)],
)
def test_the_direct_logit_effect_of_a_neuron_is_that_of_its_heads(pair, kind, activation, each):
    original, converted = pair(kind, activation)
    n = original.width(HIDDEN)
    neurons = original.logit_effects(HIDDEN, torch.eye(n).double())
    heads = converted.logit_effects(HIDDEN, torch.eye(converted.width(HIDDEN)).double())
    assert heads.shape[0] == n * each
    for j in range(each):
        assert torch.allclose(heads[j::each], neurons, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "activation"), [("gpt2", "silu"), ("gpt2", "gelu")])
def test_heads_of_a_neuron_write_together_what_it_wrote(pair, tokens, kind, activation):
    original, converted = pair(kind, activation, n_heads=4)
    each = converted.width(HIDDEN) // original.width(HIDDEN)
    y = original.capture(tokens, [HIDDEN])[HIDDEN]
    z = converted.capture(tokens, [HIDDEN])[HIDDEN].unflatten(-1, (-1, each)).sum(-1)
    constant = (y - z).mean((0, 1))  # some sums have one, which is in the output's bias
    assert (y - z - constant).abs().max() < (1e-12 if activation == "silu" else 3 * 7.3e-5)
    found = attribute(original, tokens[0], targets.logit(original, 3))
    made = attribute(converted, tokens[0], targets.logit(converted, 3))
    whole, parts = found.by_kind(), made.by_kind()
    near = 1e-9 if activation == "silu" else 0.05
    assert parts["token"] == pytest.approx(whole["token"], abs=near)
    assert parts["neuron"] + parts["bias"] == pytest.approx(
        whole["neuron"] + whole["bias"], abs=near
    )


def test_ablating_its_heads_is_ablating_the_neuron(pair, tokens):
    original, converted = pair("gpt2", "silu")

    def without(x):
        x = x.clone()
        x[..., 5] = 0.0
        return x

    with torch.no_grad(), original.replaced({HIDDEN: without}):
        one = original.logits(tokens)
    with torch.no_grad(), converted.replaced({HIDDEN: without}):
        other = converted.logits(tokens)
    assert (one - other).abs().max() < 1e-11
    assert (one - original.logits(tokens)).abs().max() > 1e-3


def test_a_dictionary_trains_on_the_heads_of_a_converted_model(store, model, tmp_path):
    from monosem.dictionaries.topk import TopKConfig
    from monosem.training.trainer import TrainConfig, train

    made = LanguageModel(convert(model.model).model, store.tokenizer, name="converted")
    site = "blocks.0.mlp.hook_post"
    assert made.width(site) == 3 * model.width(site)
    config = TrainConfig(
        dictionaries=(TopKConfig(n_latents=64, k=6),),
        site=site,
        n_tokens=60 * 128,
        batch_size=128,
    )
    run = train(config, made, store, tmp_path / "run")
    dictionary = run["topk"]
    assert dictionary.d_in == made.width(site)
    assert run.summary["dictionaries"]["topk"]["fvu"] < 0.7
    prompt = torch.from_numpy(store.tokens(store.contexts("heldout")[:1])).long()[0, :12]
    found = attribute(made, prompt, targets.logit(made, 9), dictionaries=[dictionary])
    assert found.by_kind()["feature"] != 0.0


def test_a_folder_loads_without_registering(pair, tokens, tmp_path):
    _, converted = pair("llama", "silu", dtype=torch.float32)
    converted.model.save_pretrained(tmp_path)
    loaded = LanguageModel.load(tmp_path, device="cpu")
    assert type(loaded.model) is type(converted.model)
    assert torch.allclose(loaded.logits(tokens), converted.logits(tokens), atol=1e-3)
