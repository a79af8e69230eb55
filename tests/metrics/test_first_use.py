"""A foreign dictionary that does not fit is refused before work starts, with what would fit."""

import copy
import dataclasses

import pytest
import torch

from monosem.activations.processed import ProcessedModel
from monosem.core.errors import ConfigError
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.wiring import Wiring
from monosem.features import build
from monosem.features.build import FeaturesConfig, build_features
from monosem.metrics import first_use
from monosem.metrics.evaluate import EvaluateConfig, evaluate
from monosem.metrics.first_use import check_first_use
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel

RIGHT, WRONG = "blocks.0.hook_resid_post", "blocks.0.hook_mlp_out"
N_DIRECTIONS = 10
SMALL = EvaluateConfig(n_loss_tokens=200, n_mean_tokens=200, n_density_tokens=400)


def principal(model, store, site, *, fvu=None, source="saelens"):
    """The first principal directions of RIGHT, both ways, said to be of `site`."""
    tokens = torch.from_numpy(store.tokens(store.contexts("train")))
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))
    x = model.capture(tokens, [RIGHT])[RIGHT][ordinary]
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:N_DIRECTIONS]
    rows = torch.cat([directions, -directions])
    dictionary = ReLU(ReLUConfig(d_in=x.shape[1], n_latents=len(rows), l1=0.1))
    with torch.no_grad():
        dictionary.W_enc.copy_(rows.T)
        dictionary.W_dec.copy_(rows)
        dictionary.b_enc.zero_()
        dictionary.b_dec.copy_(mean)
    metrics = {} if fvu is None else {"fvu": fvu}
    dictionary.origin = dataclasses.replace(
        dictionary.origin, site=site, source=source, metrics=metrics
    )
    return dictionary


def test_what_fits_is_let_through(model, store):
    dictionary = principal(model, store, RIGHT, fvu=0.2)
    check_first_use({"d": dictionary}, Place(model, store, RIGHT))


def test_another_site_than_its_own_is_named(model, store):
    dictionary = principal(model, store, WRONG, fvu=0.05)
    with pytest.raises(ConfigError) as error:
        check_first_use({"d": dictionary}, Place(model, store, WRONG))
    said = str(error.value)
    assert "`d` (saelens)" in said and f"`{WRONG}` of `{model.name}`" in said
    assert f"At `{RIGHT}`" in said or "At `blocks.0.hook_resid_mid`" in said


def test_other_sites_are_tried_a_few_at_a_time(model, store, monkeypatch):
    dictionary, asked = principal(model, store, WRONG, fvu=0.05), []
    capture = model.capture
    monkeypatch.setattr(
        model, "capture", lambda tokens, sites: asked.append(len(sites)) or capture(tokens, sites)
    )
    found = {}
    for most in (2**30, 1):
        monkeypatch.setattr(first_use, "MOST_BYTES", most)
        asked.clear()
        with pytest.raises(ConfigError) as error:
            check_first_use({"d": dictionary}, Place(model, store, WRONG))
        found[most] = (str(error.value), max(asked[1:]))
    assert found[1][0] == found[2**30][0]
    assert found[1][1] == 1 < found[2**30][1]


def test_more_than_twice_what_was_recorded_is_refused(model, store):
    dictionary = principal(model, store, RIGHT, fvu=1e-6)
    with pytest.raises(ConfigError, match=r"against the recorded 1e-06"):
        check_first_use({"d": dictionary}, Place(model, store, RIGHT))


def test_nothing_like_it_lists_what_to_check(model, store):
    dictionary = principal(model, store, RIGHT)
    with torch.no_grad():
        dictionary.b_dec.add_(100.0)
    with pytest.raises(ConfigError, match=r"Nothing that was tried fits.*tokenizer.*processed"):
        check_first_use({"d": dictionary}, Place(model, store, RIGHT))


def test_ours_is_not_looked_at(model, store):
    dictionary = principal(model, store, RIGHT, source="")
    with torch.no_grad():
        dictionary.b_dec.add_(100.0)
    check_first_use({"d": dictionary}, Place(model, store, RIGHT))


def test_evaluation_and_features_ask_before_they_work(model, store, tmp_path):
    dictionary = principal(model, store, RIGHT)
    with torch.no_grad():
        dictionary.b_dec.add_(100.0)
    with pytest.raises(ConfigError, match="does not fit"):
        evaluate(dictionary, model, store, SMALL)
    with pytest.raises(ConfigError, match="does not fit"):
        build_features(dictionary, model, store, tmp_path / "f", FeaturesConfig(n_tokens=500))
    assert not (tmp_path / "f").exists()


def processed_transcoder(processing: str):
    """A random transcoder of a model whose weights were processed."""
    dictionary = ReLU(
        ReLUConfig(d_in=16, d_out=16, n_latents=24, l1=0.1, wiring=Wiring(kind="transcoder"))
    )
    place = {"site": "blocks.0.ln2.hook_normalized", "target": WRONG, "processing": processing}
    dictionary.origin = dataclasses.replace(dictionary.origin, **place)
    return dictionary


def rewritten(model):
    """The same function with gains of norms folded and writing weights centred."""
    own = copy.deepcopy(model.model)
    own.lm_head.weight = torch.nn.Parameter(own.lm_head.weight.clone())
    base = own.transformer
    with torch.no_grad():
        for block in base.h:
            for norm, into in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                into.weight.mul_(norm.weight[:, None])
                norm.weight.fill_(1)
            for module in (block.attn.c_proj, block.mlp.c_proj):
                module.weight.sub_(module.weight.mean(1, keepdim=True))
        for weight in (base.wte.weight, base.wpe.weight):
            weight.sub_(weight.mean(1, keepdim=True))
    return LanguageModel(own, name="rewritten")


def test_one_of_a_processed_model_measures_here_as_it_does_there(model, store):
    plain = LanguageModel(copy.deepcopy(model.model), name="plain")
    with torch.no_grad():
        for block in plain.model.transformer.h:
            block.ln_2.weight.mul_(torch.linspace(0.5, 2, 16))
    there = rewritten(plain)
    dictionary = processed_transcoder("centred, layer_norm_folded")
    found = evaluate(dictionary, plain, store, SMALL)
    same = evaluate(without_processing(dictionary), there, store, SMALL)
    other = evaluate(without_processing(dictionary), plain, store, SMALL)
    for name in ("fvu", "l0", "delta_ce", "gap_zero", "gap_mean", "n_dead"):
        assert found[name] == pytest.approx(same[name], rel=1e-3, abs=1e-5), name
    assert found["fvu"] != pytest.approx(other["fvu"], rel=1e-2)


class _EnoughError(Exception):
    """Ends a build once it is known what it reads."""


def test_features_of_a_processed_model_are_read_as_it_has_them(model, store, tmp_path, monkeypatch):
    read = []

    def fill(folder, dictionary, place, config, world):
        read.append(place.model)
        raise _EnoughError

    monkeypatch.setattr(build, "_fill", fill)
    for processing, kind in (("centred", ProcessedModel), ("none", LanguageModel)):
        with pytest.raises(_EnoughError):
            build_features(processed_transcoder(processing), model, store, tmp_path / processing)
        assert type(read[-1]) is kind


def without_processing(dictionary):
    own = copy.deepcopy(dictionary)
    own.origin = dataclasses.replace(own.origin, processing="none")
    return own
