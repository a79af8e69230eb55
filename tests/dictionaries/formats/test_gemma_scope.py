"""gemma_scope: dictionaries of Gemma 2 and 3 compute what their definition says, at the sites they say."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError, ArtifactMissingError
from monosem.dictionaries.formats import gemma_scope as gs
from monosem.dictionaries.formats.files import Files

D, F, LAYERS = 6, 12, 3
FIRST = "gemma-scope-2b-pt-{}/layer_20/width_16k/average_l0_71"


def tensors_of(draw: Any, lower: bool = False, skip: bool = False, d_out: int = D) -> Any:
    w = "w" if lower else "W"
    found = {
        f"{w}_enc": draw(D, F),
        f"{w}_dec": draw(F, d_out),
        "b_enc": draw(F),
        "b_dec": draw(d_out),
        "threshold": draw(F, positive=True),
    }
    return found | ({"affine_skip_connection": draw(D, d_out)} if skip else {})


def golden(tensors: Any, x: Any) -> Any:
    t = {name.lower(): v.double().numpy() for name, v in tensors.items()}
    pre = x @ t["w_enc"] + t["b_enc"]
    f = (pre > t["threshold"]) * np.maximum(pre, 0)
    y = f @ t["w_dec"] + t["b_dec"]
    return f, y + (x @ t["affine_skip_connection"] if "affine_skip_connection" in t else 0)


@pytest.mark.parametrize("lower", [False, True])
def test_one_of_gemma_2_computes_a_jumprelu_without_subtracting(lower, draw, x, canonical, same):
    tensors = tensors_of(draw, lower)
    found = gs.read_first(tensors, FIRST.format("res"))
    same(canonical(found, x), golden(tensors, x))


def test_one_of_the_embedding_reads_rows_of_the_matrix(draw, x, canonical, same):
    tensors = tensors_of(draw)
    found = gs.read_first(tensors, "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_21")
    # the model's activation is √d times the row of the matrix that it was trained on
    latents, rows = golden(tensors, x / np.sqrt(D))
    same(canonical(found, x), (latents, rows * np.sqrt(D)))
    assert found.place.site == "hook_embed"


@pytest.mark.parametrize(
    ("path", "site", "target", "processing"),
    [
        (FIRST.format("res"), "blocks.20.hook_resid_post", "", "none"),
        (FIRST.format("mlp"), "blocks.20.hook_mlp_out", "", "none"),
        (FIRST.format("att"), "blocks.20.attn.hook_z", "", "none"),
        (
            FIRST.format("transcoders"),
            "blocks.20.ln2.hook_normalized",
            "blocks.20.hook_mlp_out",
            "layer_norm_folded",
        ),
        ("somewhere/layer_20", "", "", "unknown"),
    ],
)
def test_the_path_says_where_one_of_gemma_2_belongs(path, site, target, processing, draw):
    found = gs.read_first(tensors_of(draw), f"/hub/models--google--{path}")
    assert (found.place.site, found.place.target) == (site, target)
    assert found.place.processing == processing
    assert found.wiring.kind == ("transcoder" if target else "sae")
    assert found.place.model == ("google/gemma-2-2b" if site else "")


@pytest.mark.parametrize("skip", [False, True])
def test_one_of_gemma_3_adds_its_affine_connection(skip, draw, x, canonical, same, tmp_path):
    tensors = tensors_of(draw, lower=True, skip=skip, d_out=5)
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.13.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.13.post_feedforward_layernorm.output",
        "affine_connection": skip,
        "width": F,
        "type": "transcoder",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, tmp_path / "params.safetensors")
    files = Files.at(tmp_path)
    assert gs.FORMAT.recognises(files)
    found: Any = gs.FORMAT.read(files)
    same(canonical(found, x), golden(tensors, x))
    assert found.place.site == "blocks.13.ln2.hook_normalized"
    assert (found.place.target, found.place.processing) == ("blocks.13.hook_mlp_out", "none")
    assert found.wiring.kind == "transcoder" and found.wiring.skip == skip


@pytest.mark.parametrize(
    ("folder", "point", "site"),
    [
        ("resid_post_all/layer_10_width_262k_l0_small", "layers.10.output", "hook_resid_post"),
        ("attn_out/layer_10_width_16k_l0_big", "layers.10.self_attn.o_proj.input", "attn.hook_z"),
        (
            "mlp_out/layer_10_width_16k_l0_big",
            "layers.10.post_feedforward_layernorm.output",
            "hook_mlp_out",
        ),
    ],
)
def test_folder_and_configuration_agree_on_the_site(folder, point, site, draw):
    tensors = tensors_of(draw, lower=True)
    path = f"google/gemma-scope-2-1b-it/{folder}"
    by_folder = gs.read_second({}, tensors, path).place
    config = {"hf_hook_point_in": f"model.{point}", "model_name": "gemma-v3-1b-it"}
    assert by_folder == gs.read_second(config, tensors, "elsewhere").place
    assert by_folder.site == f"blocks.10.{site}" and by_folder.model == "google/gemma-3-1b-it"


def layers_of(draw: Any, skip: bool) -> Any:
    layers = [tensors_of(draw, lower=True, skip=skip) for _ in range(LAYERS)]
    return [own | {"w_dec": draw(F, LAYERS, D)} for own in layers]


def golden_layers(layers: Any, sites: Any, causal: bool) -> Any:
    features, outputs = [], np.zeros_like(sites)
    for i, tensors in enumerate(layers):
        t = {name: v.double().numpy() for name, v in tensors.items()}
        pre = sites[:, i] @ t["w_enc"] + t["b_enc"]
        f = (pre > t["threshold"]) * np.maximum(pre, 0)
        features.append(f)
        first = i if causal else 0
        outputs[:, first:] += np.einsum("bf,flo->blo", f, t["w_dec"][:, first:])
        outputs[:, i] += t["b_dec"]
        if "affine_skip_connection" in t:
            outputs[:, i] += sites[:, i] @ t["affine_skip_connection"]
    return np.concatenate(features, 1), outputs.reshape(len(sites), -1)


@pytest.mark.parametrize("skip", [False, True])
def test_a_cross_layer_transcoder_writes_its_own_layer_and_those_after_it(
    skip, draw, canonical, same, tmp_path
):
    layers = layers_of(draw, skip)
    folder = tmp_path / "gemma-scope-2-270m-pt" / "clt" / "width_262k_l0_medium"
    folder.mkdir(parents=True)
    for i, tensors in enumerate(layers):
        safetensors.torch.save_file(tensors, folder / f"params_layer_{i}.safetensors")
    sites = np.random.default_rng(4).normal(size=(20, LAYERS, D))
    found: Any = gs.FORMAT.read(Files.at(folder))
    same(canonical(found, sites.reshape(20, -1)), golden_layers(layers, sites, causal=True))
    assert found.wiring.kind == "clt" and found.place.model == "google/gemma-3-270m"
    assert found.place.target.split(", ")[1] == "blocks.1.hook_mlp_out"
    assert "layers 1, 2 for earlier layers are not zero" in found.remarks[0]
    for i, own in enumerate(layers):
        own["w_dec"][:, :i] = 0
    assert not gs.read_layers({"type": "clt"}, layers).remarks


def test_a_crosscoder_reads_one_site_for_each_latent_and_writes_all(draw, canonical, same):
    layers = layers_of(draw, False)
    sites = np.random.default_rng(4).normal(size=(20, LAYERS, D))
    path = "google/gemma-scope-2-1b-pt/crosscoder/layer_7_13_17_width_65k_l0_medium"
    found = gs.read_layers({}, layers, path)
    same(canonical(found, sites.reshape(20, -1)), golden_layers(layers, sites, causal=False))
    assert found.wiring.kind == "crosscoder"
    assert found.place.site == ", ".join(f"blocks.{i}.hook_resid_post" for i in (7, 13, 17))
    with pytest.raises(ArtifactKindError, match="affine"):
        gs.read_layers({"type": "crosscoder"}, layers_of(draw, True))


def test_what_contradicts_itself_is_refused(draw, tmp_path):
    tensors = tensors_of(draw, lower=True)
    with pytest.raises(ArtifactCorruptError, match=r"`affine_connection` is 1.*makes it 0"):
        gs.read_second({"affine_connection": True}, tensors)
    with pytest.raises(ArtifactCorruptError, match=r"`width` is 13.*makes it 12"):
        gs.read_second({"width": 13}, tensors)
    with pytest.raises(ArtifactKindError, match="`topk`"):
        gs.read_second({"architecture": "topk"}, tensors)
    with pytest.raises(ArtifactCorruptError, match=r"`threshold`.*must be.*\[12\]"):
        gs.read_first(tensors_of(draw) | {"threshold": torch.zeros(3)})
    with pytest.raises(ArtifactMissingError, match="`clt` or `crosscoder`"):
        gs.read_layers({}, layers_of(draw, False), "somewhere")
    safetensors.torch.save_file(tensors, tmp_path / "params_layer_1.safetensors")
    with pytest.raises(ArtifactMissingError, match="Fetch all"):
        gs.FORMAT.read(Files.at(tmp_path))
