"""Attributions: their terms are the target, in every family, for every cut, and mean what they say."""

import copy
import dataclasses

import pytest
import torch

from monosem.circuits import attribution, targets
from monosem.circuits.attribution import attribute, attribute_each, attribute_prompts
from monosem.constructions.attention_only import family_row
from monosem.constructions.conversion import convert
from monosem.core.errors import ConfigError, MonosemError, UnsupportedModelError
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.dictionaries.wiring import Wiring
from monosem.models.language_model import LanguageModel

CUTS = [("heads", "neurons"), ("heads",), ("neurons",), ()]


def close(found, exact=None):
    size = sum(float(g.values.abs().sum()) for g in found.groups)
    assert abs(found.gap) <= 1e-9 * size
    if exact is not None:
        # several families take softmaxes and rotations in float32, whatever the model is in
        assert found.value == pytest.approx(float(exact), rel=1e-6, abs=1e-6)


def true_logit(model, tokens, token, position=-1):
    with torch.no_grad():
        found = model.logits(tokens[None])[0, position, token]
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    return found if cap is None else cap * torch.atanh(found / cap)


@pytest.mark.parametrize("sources", CUTS, ids=lambda s: "+".join(s) or "embeddings")
def test_terms_sum_to_a_logit_of_every_family(family, tokens, sources):
    found = attribute(family, tokens, targets.logit(family, 7), sources=sources)
    close(found, true_logit(family, tokens, 7))
    kinds = found.by_kind()
    assert kinds["token"] != 0.0
    assert ("head" in kinds) == ("heads" in sources)
    has_mlp = bool(family.family.mlp)
    assert ("neuron" in kinds) == ("neurons" in sources and has_mlp)
    assert ("position" in kinds) == bool(family.family.pos_embed)


def test_terms_sum_to_units_of_every_family(family, tokens):
    layer = family.n_layers - 1
    chosen = [targets.direction(family, f"blocks.{layer}.hook_resid_pre", torch.ones(32).double())]
    if family.family.mlp:
        chosen += [targets.neuron(family, layer, 5, position=3)]
        chosen += [targets.unit(family, f"blocks.{layer}.mlp.hook_post", 5, position=3)]
        chosen += [targets.unit(family, f"blocks.{layer}.hook_mlp_out", 2, position=-3)]
    chosen += [targets.unit(family, f"blocks.{layer}.attn.hook_z", 9)]
    for sources in (("heads", "neurons"), ()):
        several = attribute_each(family, tokens, chosen, sources=sources)
        for target, found in zip(chosen, several, strict=True):
            x = family.capture(tokens[None], [target.site])[target.site]
            close(found, x[0, target.position].flatten() @ target.vector)


def test_logit_differences_are_differences_and_leave_out_what_is_common(make, tokens):
    model = make("gpt2")
    both = attribute(model, tokens, targets.logit_difference(model, 7, 9, position=2))
    close(both, true_logit(model, tokens, 7, 2) - true_logit(model, tokens, 9, 2))
    mean = attribute(model, tokens, targets.logit_difference(model, 7))
    logits = model.logits(tokens[None])[0, -1]
    close(mean, logits[7] - logits.mean())


def test_a_head_and_a_neuron_add_what_leaves_when_they_are_taken_away(make, tokens):
    model = make("gpt2")
    found = attribute(model, tokens, targets.logit(model, 7), sources=("heads", "neurons"))
    scale = model.capture(tokens[None], ["ln_final.hook_scale"])["ln_final.hook_scale"]
    for site, kind, index in (
        ("blocks.1.attn.hook_z", "head", 2),
        ("blocks.1.mlp.hook_post", "neuron", 11),
        ("blocks.0.mlp.hook_post", "neuron", 3),
    ):

        def without(x, index=index):
            x = x.clone()
            x[0, -1, index] = 0.0
            return x

        edits = {site: without, "ln_final.hook_scale": lambda _: scale}
        # what lies behind the source is held fast, so that only the straight path is left
        held = [s for s in model.sites() if s.endswith(("hook_attn_out", "hook_mlp_out"))]
        kept = model.capture(tokens[None], held)
        own = site.replace("attn.hook_z", "hook_attn_out").replace("mlp.hook_post", "hook_mlp_out")
        later = held[held.index(own) + 1 :]
        edits |= {s: (lambda _, held=kept[s]: held) for s in later}
        with model.replaced(edits), torch.no_grad():
            after = model.logits(tokens[None])[0, -1, 7]
        adds = true_logit(model, tokens, 7) - after
        terms = [t for t in found.top(10**6, kind) if t.index == index and t.site == site]
        (term,) = [t for t in terms if t.position == 6]
        assert term.value == pytest.approx(float(adds), rel=1e-9)
        if kind == "head":  # on the straight path no other position counts
            assert all(t.value == 0.0 for t in terms if t.position != 6)


def test_attention_that_is_passed_carries_from_earlier_positions(make, tokens):
    model = make("llama")
    cut = attribute(model, tokens, targets.logit(model, 7), sources=("heads", "neurons"))
    passed = attribute(model, tokens, targets.logit(model, 7), sources=("neurons",))
    assert {t.position for t in cut.top(100, "token") if t.value} == {6}
    assert {t.position for t in passed.top(100, "token") if t.value} == set(range(7))
    assert [t.index for t in sorted(passed.top(7, "token"), key=lambda t: t.position)] == (
        tokens.tolist()
    )


def dictionary(d_in, site, target="", skip=False, d_out=0):
    torch.manual_seed(0)
    wiring = Wiring(kind="transcoder", skip=skip) if target else Wiring()
    made = TopK(TopKConfig(d_in=d_in, d_out=d_out or d_in, n_latents=40, k=5, wiring=wiring))
    made.origin = dataclasses.replace(made.origin, site=site, target=target)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.double().requires_grad_(False)


@pytest.mark.parametrize(
    ("site", "width"),
    [
        ("blocks.1.hook_resid_pre", 32),
        ("blocks.1.mlp.hook_post", 128),
        ("blocks.1.hook_mlp_out", 32),
        ("blocks.0.attn.hook_z", 32),
    ],
)
def test_features_and_errors_of_a_dictionary_take_the_place_of_what_it_reads(
    make, tokens, site, width
):
    model, made = make("gpt2"), dictionary(width, site)
    found = attribute(model, tokens, targets.logit(model, 7), dictionaries=[made])
    close(found, true_logit(model, tokens, 7))
    features = found.top(10**6, "feature")
    latents = made.encode(model.capture(tokens[None], [site])[site].flatten(2)[0])
    assert len(features) == int((latents > 0).sum())
    for term in features[:5]:
        assert term.activation == pytest.approx(float(latents[term.position, term.index]))
    assert found.by_kind()["error"] != 0.0
    if site == "blocks.1.hook_resid_pre":  # all that is before it is hidden by it
        assert "token" not in found.by_kind() or found.by_kind()["token"] == 0.0


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_stands_for_the_mlp_it_replaces(make, tokens, skip):
    model = make("gpt2")
    made = dictionary(32, "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out", skip)
    found = attribute(model, tokens, targets.logit(model, 7), dictionaries=[made])
    close(found, true_logit(model, tokens, 7))
    assert {t.site for t in found.top(10**6, "feature")} == {"blocks.0.hook_mlp_out"}
    assert not any(t.value for t in found.top(10**6, "neuron") if t.layer == 0)


def test_a_feature_is_a_target_where_it_is_active(make, tokens):
    model, made = make("gpt2"), dictionary(32, "blocks.1.hook_resid_pre")
    x = model.capture(tokens[None], [made.site])[made.site][0, 4]
    latents = made.encode(x[None])[0]
    active, silent = int(latents.argmax()), int((latents == 0).nonzero()[0])
    target = targets.feature(model, made, active, tokens, position=4)
    for given in ([], [made]):
        found = attribute(model, tokens, target, dictionaries=given)
        close(found, latents[active])
        assert "feature" not in found.by_kind()  # it is read before it is cut
    with pytest.raises(ConfigError, match="not active at position 4"):
        targets.feature(model, made, silent, tokens, position=4)


@pytest.mark.parametrize("name", ["gpt2-silu", "gpt2", "llama"])
def test_attention_only_models_are_attributed_like_any_other(make, precise_norms, tokens, name):
    model = make(name)
    made = convert(model.model)
    row = family_row(name.partition("-")[0], len(made.model.config.attention_only["sublayers"]))
    converted = LanguageModel(precise_norms(made.model), name="converted", family=row)
    for sources in CUTS:
        target = targets.logit(converted, 7)
        found = attribute(converted, tokens, target, sources=sources)
        close(found, true_logit(converted, tokens, 7))
    neuron = targets.neuron(converted, 1, 3)
    close(attribute(converted, tokens, neuron, sources=("heads",)))


@pytest.mark.parametrize("sources", CUTS[:3], ids="+".join)
def test_several_targets_share_a_pass_and_get_what_each_would_alone(make, tokens, sources):
    model, made = make("gpt2"), dictionary(32, "blocks.1.hook_resid_pre")
    several = [
        targets.neuron(model, 0, 3, position=2),
        targets.unit(model, "blocks.0.mlp.hook_post", 3),
        targets.unit(model, "blocks.1.hook_resid_pre", 4),
        targets.neuron(model, 1, 5),
        targets.logit(model, 7),
    ]
    for given in ([], [made]):
        options = {"sources": sources, "dictionaries": given}
        together = attribute_each(model, tokens, several, **options)
        for target, found in zip(several, together, strict=True):
            alone = attribute(model, tokens, target, **options)
            assert found.value == pytest.approx(alone.value, rel=1e-12)
            assert found.by_kind() == pytest.approx(alone.by_kind(), rel=1e-9, abs=1e-12)
            close(found)
    assert attribute_each(model, tokens, []) == []


@pytest.mark.parametrize("sources", [("heads", "neurons"), ()], ids=str)
def test_several_prompts_in_one_call_get_what_each_would_alone(family, tokens, sources):
    prompts = [tokens, tokens[2:5], tokens.flip(0)[:6]]
    layer = family.n_layers - 1
    each = [
        targets.logit(family, 7),
        targets.direction(
            family, f"blocks.{layer}.hook_resid_pre", torch.ones(32).double(), position=0
        ),
        targets.logit(family, 9, position=-2),
    ]
    for given in (each, each[0]):
        together = attribute_prompts(family, prompts, given, sources=sources)
        wanted = each if given is each else [each[0]] * 3
        for prompt, target, found in zip(prompts, wanted, together, strict=True):
            close(found)
            alone = attribute(family, prompt, target, sources=sources)
            assert found.value == pytest.approx(alone.value, rel=1e-6)  # softmaxes in float32
            assert {k for k, v in found.by_kind().items() if v} == {
                k for k, v in alone.by_kind().items() if v
            }
            assert found.by_kind()["token"] == pytest.approx(
                alone.by_kind()["token"], rel=1e-5, abs=1e-6
            )
            assert int(found.frame()["position"].max()) < len(prompt)


def test_features_of_several_prompts_are_those_of_each(make, tokens):
    model, made = make("gpt2"), dictionary(32, "blocks.1.hook_resid_pre")
    prompts = [tokens, tokens[:4]]
    together = attribute_prompts(model, prompts, targets.logit(model, 7), dictionaries=[made])
    for prompt, found in zip(prompts, together, strict=True):
        alone = attribute(model, prompt, targets.logit(model, 7), dictionaries=[made])
        assert found.by_kind() == pytest.approx(alone.by_kind(), rel=1e-9)
        assert [t.index for t in found.top(5, "feature")] == [
            t.index for t in alone.top(5, "feature")
        ]
    assert attribute_prompts(model, [], targets.logit(model, 7)) == []


def test_the_largest_terms_come_first_and_the_table_ends_in_the_target(make, tokens):
    model = make("gpt2")
    found = attribute(model, tokens, targets.logit(model, 7))
    top = found.top(5)
    assert [abs(t.value) for t in top] == sorted((abs(t.value) for t in top), reverse=True)
    frame = found.frame()
    assert frame["value"].sum() == pytest.approx(found.value)
    assert frame["value"].abs().max() == pytest.approx(abs(top[0].value))
    by_kind = frame.groupby("kind")["value"].sum().to_dict()
    assert by_kind == pytest.approx(found.by_kind())
    lines = found.table(5).splitlines()
    assert len(lines) == 9
    assert lines[-1].startswith("logit of token 7")
    others = float(lines[-2].split()[-1])
    assert others == pytest.approx(found.value - sum(t.value for t in top), rel=1e-3)


def test_asking_leaves_no_trace_in_the_model(make, tokens):
    model = make("gpt2")
    before = model.logits(tokens[None])
    with torch.no_grad():
        attribute(model, tokens, targets.logit(model, 7), sources=())
    assert torch.equal(before, model.logits(tokens[None]))
    assert not any(p.requires_grad for p in model.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def test_what_cannot_be_attributed_says_why(make, tokens):
    model = make("gpt2")
    target = targets.logit(model, 7)
    made = dictionary(32, "blocks.1.hook_resid_pre")
    cases = [
        (lambda: attribute(model, tokens, target, sources=("mlps",)), "`heads` and `neurons`"),
        (lambda: attribute(model, tokens, targets.logit(model, 7, position=9)), "0 to 6"),
        (lambda: attribute_prompts(model, [tokens], [target] * 2), "2 targets for 1 prompts"),
        (lambda: attribute_prompts(model, [tokens], targets.logit(model, 7, position=9)), "0 to 6"),
        (lambda: targets.logit(model, 61), "0 to 60"),
        (lambda: targets.neuron(model, 0, 128), "0 to 127"),
        (lambda: targets.neuron(model, 2, 0), "no site"),
        (lambda: targets.direction(model, made.site, torch.zeros(3)), "has width 3"),
        (lambda: targets.feature(model, made, 40, tokens), "0 to 39"),
        (lambda: targets.feature(model, made, 4, tokens, position=7), "0 to 6"),
        (lambda: targets.logit_difference(model, 7, 7), "the same"),
        (lambda: targets.feature(model, dictionary(32, ""), 4, tokens), "reads 0 sites"),
        (lambda: attribute(model, tokens, target, dictionaries=[made, made]), "Two dictionaries"),
        (lambda: attribute(model, tokens, target).top(3, "feeling"), "must be one of token"),
    ]
    for call, message in cases:
        with pytest.raises(MonosemError, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_terms_that_do_not_add_up_are_refused(make, tokens, monkeypatch, dtype):
    model = LanguageModel(copy.deepcopy(make("gpt2").model).to(dtype), name="gpt2")
    target = targets.logit(model, 7)
    attribute(model, tokens, target)
    monkeypatch.setattr(attribution, "_sources", lambda *_: [])
    with pytest.raises(UnsupportedModelError, match="add up to"):
        attribute(model, tokens, target)


@pytest.mark.parametrize("name", ["1L-a", "stories260k", "babyllama-361", "routing-gpt2"])
def test_terms_sum_to_a_logit_of_real_models(request, name):
    where = name if name == "1L-a" else request.getfixturevalue("data") / "models" / name
    model = LanguageModel.load(where, device="cpu")
    tokens = torch.arange(3, 3 + min(12, model.context)) % model.vocab_size
    for sources in CUTS[:1] + CUTS[2:]:
        found = attribute(model, tokens, targets.logit(model, 5), sources=sources)
        size = sum(float(g.values.abs().sum()) for g in found.groups)
        assert abs(found.gap) < 1e-5 * size
        assert found.value == pytest.approx(float(true_logit(model, tokens, 5)), abs=1e-3)
