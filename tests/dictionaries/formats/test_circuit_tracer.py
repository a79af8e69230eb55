"""circuit_tracer: transcoders of a set and cross-layer transcoders compute what the library computes."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactKindError,
    ArtifactMissingError,
    ConfigError,
)
from monosem.dictionaries.formats import circuit_tracer as ct
from monosem.dictionaries.formats.files import Files

D, F, K, LAYERS = 6, 12, 3, 3
CONFIG = {
    "model_name": "meta-llama/Llama-3.2-1B",
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
}


def layer_of(draw: Any, kind: str = "relu", skip: bool = False, dtype=torch.float32) -> Any:
    found = {"W_enc": draw(F, D), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
    if kind == "jumprelu":
        found["activation_function.threshold"] = draw(F, positive=True)
    if skip:
        found["W_skip"] = draw(D, D)
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def golden(kind: str, tensors: dict[str, torch.Tensor], x: Any) -> Any:
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    pre = np.einsum("bd,fd->bf", x, t["W_enc"]) + t["b_enc"]
    if kind == "relu":
        f = np.maximum(pre, 0)
    elif kind == "jumprelu":
        f = pre * (pre > t["activation_function.threshold"])
    else:
        f = pre * (pre >= np.sort(pre, axis=1)[:, -K][:, None])
    y = np.einsum("bf,fd->bd", f, t["W_dec"]) + t["b_dec"]
    return f, y + (np.einsum("bi,oi->bo", x, t["W_skip"]) if "W_skip" in t else 0)


def clt_of(draw: Any, thresholds: bool) -> Any:
    encoders = [
        {f"W_enc_{i}": draw(F, D), f"b_enc_{i}": draw(F), f"b_dec_{i}": draw(D)}
        for i in range(LAYERS)
    ]
    if thresholds:
        for i, encoder in enumerate(encoders):
            encoder[f"threshold_{i}"] = draw(F, positive=True)
    return encoders, [{f"W_dec_{i}": draw(F, LAYERS - i, D)} for i in range(LAYERS)]


def golden_clt(encoders: Any, decoders: Any, sites: Any) -> Any:
    features, outputs = [], [np.zeros_like(sites[:, 0]) for _ in range(LAYERS)]
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        t = {
            name.rpartition("_")[0]: v.double().numpy()
            for name, v in {**encoder, **decoder}.items()
        }
        pre = sites[:, i] @ t["W_enc"].T + t["b_enc"]
        f = pre * (pre > t["threshold"]) if "threshold" in t else np.maximum(pre, 0)
        features.append(f)
        outputs[i] += t["b_dec"]
        for later in range(i, LAYERS):
            outputs[later] += f @ t["W_dec"][:, later - i]
    return np.concatenate(features, 1), np.concatenate(outputs, 1)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_every_activation_computes_what_the_library_computes(kind, skip, draw, x, canonical, same):
    tensors = layer_of(draw, kind, skip)
    if kind == "topk":  # so that k of every row are positive, as they are in wide ones
        tensors["b_enc"] = tensors["b_enc"] + 10
    config = CONFIG | ({"activation": "topk", "k": K} if kind == "topk" else {})
    found = ct.read_layer(config, tensors, 4)
    same(canonical(found, x), golden(kind, tensors, x))
    assert found.place.site == "blocks.4.ln2.hook_normalized"
    assert (found.place.target, found.place.processing) == ("blocks.4.hook_mlp_out", "none")
    assert found.remarks == ((ct.NEGATIVE,) if kind == "topk" else ())
    again = ct.written_layer(found)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("thresholds", [False, True])
def test_a_cross_layer_transcoder_computes_what_the_library_computes(
    thresholds, draw, canonical, same, tmp_path
):
    encoders, decoders = clt_of(draw, thresholds)
    sites = np.random.default_rng(3).normal(size=(20, LAYERS, D))
    config = CONFIG | {
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
    }
    found = ct.read_clt(config, encoders, decoders)
    same(canonical(found, sites.reshape(20, -1)), golden_clt(encoders, decoders, sites))
    assert found.wiring.kind == "clt" and found.d_in == LAYERS * D
    assert found.place.site.split(", ")[2] == "blocks.2.hook_resid_mid"
    assert ct.FORMAT.write is not None
    ct.FORMAT.write(found, tmp_path)
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        for kind, tensors in (("W_enc", encoder), ("W_dec", decoder)):
            again = safetensors.torch.load_file(tmp_path / f"{kind}_{i}.safetensors")
            assert set(again) == set(tensors)
            assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    files = Files.at(tmp_path)
    assert ct.FORMAT.recognises(files)
    read = ct.FORMAT.read(files)
    assert torch.equal(read.W_dec, found.W_dec) and read.place == found.place  # pyright: ignore


def test_a_set_gives_its_layers_by_name(draw, tmp_path):
    layers = {
        f"layer_{i}": ct.read_layer(CONFIG, layer_of(draw, "jumprelu"), i) for i in range(LAYERS)
    }
    assert ct.FORMAT.write is not None
    ct.FORMAT.write(layers, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert {key: config[key] for key in CONFIG} == CONFIG
    found = ct.FORMAT.read(Files.at(tmp_path))
    assert list(found) == ["layer_0", "layer_1", "layer_2"]  # pyright: ignore
    for name, own in layers.items():
        assert torch.equal(found[name].W_enc, own.W_enc) and found[name].place == own.place  # pyright: ignore
    one = ct.FORMAT.read(Files.at(tmp_path / "layer_1.safetensors"))
    assert one.place.site == "blocks.1.ln2.hook_normalized"  # pyright: ignore


@pytest.mark.parametrize(
    ("model", "hook", "site", "processing"),
    [
        ("google/gemma-2-2b", "ln2.hook_normalized", "ln2.hook_normalized", "layer_norm_folded"),
        ("google/gemma-3-1b-pt", "mlp.hook_in", "ln2.hook_normalized", "none"),
        ("gpt2", "ln2.hook_normalized", "ln2.hook_normalized", "none"),
        ("openai/gpt-oss-20b", "ln2.hook_normalized", "ln2.hook_normalized", "layer_norm_folded"),
        ("somebody/new", "ln2.hook_normalized", "ln2.hook_normalized", "unknown"),
        ("meta-llama/Llama-3.2-1B", "hook_resid_mid", "hook_resid_mid", "none"),
    ],
)
def test_a_norm_is_read_before_or_behind_its_gain_as_the_hook_says(
    model, hook, site, processing, draw, tmp_path
):
    config = CONFIG | {"model_name": model, "feature_input_hook": hook}
    found = ct.read_layer(config, layer_of(draw), 0)
    assert (found.place.site, found.place.processing) == (f"blocks.0.{site}", processing)
    assert ct.FORMAT.write is not None
    ct.FORMAT.write(found, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["feature_input_hook"] == hook


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"activation": "relu"}, {}, r"says `relu`.*threshold"),
        ({"activation": "swish"}, {}, r"`swish`.*unknown"),
        ({}, {"W_dec": torch.zeros(F, D + 1)}, r"`W_dec`.*must be.*\[12, 6\]"),
        ({}, {"activation_function.threshold": torch.full((F,), -1.0)}, r"down to -1 let negative"),
        ({}, {"W_gate": torch.zeros(2)}, r"`W_gate`.*no use for"),
    ],
)
def test_layers_that_contradict_themselves_are_refused(config, change, message, draw):
    with pytest.raises((ArtifactCorruptError, ArtifactKindError), match=message):
        ct.read_layer(CONFIG | config, layer_of(draw, "jumprelu") | change, 0)


def test_missing_layers_and_layers_of_other_widths_are_refused(draw, tmp_path):
    encoders, decoders = clt_of(draw, False)
    encoders[1] = encoders[1] | {"W_enc_1": draw(F + 1, D), "b_enc_1": draw(F + 1)}
    decoders[1] = {"W_dec_1": draw(F + 1, LAYERS - 1, D)}
    with pytest.raises(ArtifactCorruptError, match="2 shapes"):
        ct.read_clt(CONFIG, encoders, decoders)
    safetensors.torch.save_file(encoders[0], tmp_path / "W_enc_0.safetensors")
    with pytest.raises(ArtifactMissingError, match=r"no `W_dec_0\.safetensors`"):
        ct.FORMAT.read(Files.at(tmp_path))


def test_what_circuit_tracer_does_not_have_is_refused_by_name(draw, tmp_path):
    found = ct.read_layer(CONFIG, layer_of(draw), 0)
    assert ct.FORMAT.write is not None
    other = dataclasses.replace(found, place=dataclasses.replace(found.place, site=""))
    with pytest.raises(ConfigError, match="which"):
        ct.FORMAT.write(other, tmp_path)
    with pytest.raises(ConfigError, match="one transcoder for each layer"):
        ct.FORMAT.write({"a": found, "b": found}, tmp_path)
    gated = dataclasses.replace(found, activation="gated", r_mag=draw(F), b_mag=draw(F))
    with pytest.raises(ConfigError, match="`gated`"):
        ct.FORMAT.write(gated, tmp_path)
    encoders, decoders = clt_of(draw, False)
    clt = dataclasses.replace(ct.read_clt(CONFIG, encoders, decoders), activation="topk", k=2)
    with pytest.raises(ConfigError, match="compete for 2 places"):
        ct.FORMAT.write(clt, tmp_path)


def test_a_set_of_a_processed_model_is_refused_where_the_hook_cannot_say_it(draw, tmp_path):
    found = ct.read_layer(CONFIG, layer_of(draw), 0)
    assert ct.FORMAT.write is not None
    for model, processing in (("gpt2", "layer_norm_folded"), ("gpt2", "centred")):
        place = dataclasses.replace(found.place, model=model, processing=processing)
        with pytest.raises(ConfigError, match=rf"processed \(`{processing}`\)"):
            ct.FORMAT.write(dataclasses.replace(found, place=place), tmp_path)
