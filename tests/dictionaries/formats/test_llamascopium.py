"""llamascopium: SAEs, transcoders, crosscoders and CLTs compute what the library's own formulas say."""

import json
import math
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError
from monosem.dictionaries.formats import llamascopium as lm
from monosem.dictionaries.formats.files import Files

D, F, K, N = 6, 12, 3, 3
NORM, LOG = "dataset_average_activation_norm.", "activation_function.log_jumprelu_threshold"
SITES = [f"blocks.{i}.hook_resid_post" for i in range(N)]
TARGETS = [f"blocks.{i}.hook_mlp_out" for i in range(N)]


def config_of(kind: str = "sae", **changed: Any) -> dict[str, Any]:
    places = {
        "sae": {"hook_point_in": SITES[0], "hook_point_out": SITES[0]},
        "crosscoder": {"hook_points": SITES},
        "clt": {"hook_points_in": SITES, "hook_points_out": TARGETS},
    }
    settings = {
        "sae_type": kind,
        "d_model": D,
        "expansion_factor": 2.0,
        "act_fn": "relu",
        "top_k": K,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
    }
    return settings | places.get(kind, {}) | changed


def norms_of(points: list[str]) -> dict[str, torch.Tensor]:
    return {NORM + point: torch.tensor(1.5 + i) for i, point in enumerate(points)}


def scales(config: dict[str, Any], tensors: Any, points: list[str]) -> Any:
    if config["norm_activation"] != "dataset-wise":
        return np.ones(len(points))
    return np.array([math.sqrt(D) / float(tensors[NORM + point]) for point in points])


def active(config: dict[str, Any], score: Any, log_threshold: Any = None) -> Any:
    """The library's activation function as a mask on scores, the last axis being the latents."""
    if config["act_fn"] == "relu":
        return score > 0
    if config["act_fn"] == "jumprelu":
        return score > np.exp(log_threshold)
    flat = np.maximum(score, 0).reshape(len(score), -1)
    return ((flat >= np.sort(flat, axis=1)[:, -K][:, None]) & (flat > 0)).reshape(score.shape)


def sae_of(draw: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {"W_E": draw(D, F), "b_E": draw(F), "W_D": draw(F, D), "b_D": draw(D)}
    if config["act_fn"] == "jumprelu":
        tensors[LOG] = draw(F)
    return tensors | norms_of(sorted({config["hook_point_in"], config["hook_point_out"]}))


def golden_sae(config: dict[str, Any], tensors: Any, x: Any) -> Any:
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    s_in, s_out = scales(config, tensors, [config["hook_point_in"], config["hook_point_out"]])
    if config["norm_activation"] == "token-wise":
        s_in = s_out = math.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)
    pre = (x * s_in) @ t["W_E"] + t["b_E"]
    norm = np.linalg.norm(t["W_D"], axis=1) if config["sparsity_include_decoder_norm"] else 1
    f = pre * active(config, pre * norm, t.get(LOG))
    return f, (f @ t["W_D"] + t.get("b_D", 0)) / s_out


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"sparsity_include_decoder_norm": False},
        {"norm_activation": "inference"},
        {"norm_activation": "token-wise"},
        {"hook_point_in": SITES[1], "hook_point_out": TARGETS[1]},
    ],
)
def test_a_dictionary_of_one_site_computes_what_the_library_computes(
    act_fn, changed, draw, x, canonical, same
):
    config = config_of(act_fn=act_fn, **changed)
    tensors = sae_of(draw, config)
    found = lm.read(config, tensors)
    same(canonical(found, x), golden_sae(config, tensors, x))
    assert found.place.site == config["hook_point_in"]
    transcodes = config["hook_point_in"] != config["hook_point_out"]
    assert found.wiring.kind == ("transcoder" if transcodes else "sae")


def test_a_missing_decoder_bias_is_zero(draw, x, canonical, same):
    config = config_of(use_decoder_bias=False)
    tensors = sae_of(draw, config)
    del tensors["b_D"]
    same(canonical(lm.read(config, tensors), x), golden_sae(config, tensors, x))


def test_names_and_orientation_of_early_2025_are_the_same_dictionary(draw, x, canonical):
    config = config_of(act_fn="jumprelu")
    new = sae_of(draw, config)
    old = {
        "encoder.weight": new["W_E"].T.contiguous(),
        "encoder.bias": new["b_E"],
        "decoder.weight": new["W_D"].T.contiguous(),
        "decoder.bias": new["b_D"],
        "log_jumprelu_threshold": new[LOG],
    } | norms_of([SITES[0]])
    pairs = zip(canonical(lm.read(config, old), x), canonical(lm.read(config, new), x), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def crosscoder_of(draw: Any, config: dict[str, Any], one_norm: bool) -> dict[str, torch.Tensor]:
    W_D = draw(N, F, D)
    if one_norm:
        W_D = 1.7 * W_D / W_D.norm(dim=2, keepdim=True)
    tensors = {"W_E": draw(N, D, F), "b_E": draw(N, F), "W_D": W_D, "b_D": draw(N, D)}
    if config["act_fn"] == "jumprelu":
        tensors[LOG] = draw(F)
    return tensors | norms_of(SITES)


@pytest.mark.parametrize(
    ("act_fn", "one_norm", "mode"),
    [
        ("relu", False, "dataset-wise"),
        ("jumprelu", True, "dataset-wise"),
        ("jumprelu", True, "inference"),
        ("topk", True, "inference"),
    ],
)
def test_a_crosscoder_computes_what_the_library_computes(
    act_fn, one_norm, mode, draw, canonical, same
):
    config = config_of("crosscoder", act_fn=act_fn, norm_activation=mode)
    tensors = crosscoder_of(draw, config, one_norm)
    sites = np.random.default_rng(5).normal(size=(20, N, D))
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    s = scales(config, tensors, SITES)
    pre = (np.einsum("bnd,ndf->bnf", sites * s[:, None], t["W_E"]) + t["b_E"]).sum(1)
    features, outputs = [], []
    for i in range(N):
        norm = np.linalg.norm(t["W_D"][i], axis=1)
        f = pre * active(config, pre * norm, t.get(LOG))
        features.append(f)
        outputs.append((f @ t["W_D"][i] + t["b_D"][i]) / s[i])
    assert all(np.array_equal(features[0], f) for f in features)
    found = lm.read(config, tensors)
    same(canonical(found, sites.reshape(20, -1)), (features[0], np.concatenate(outputs, 1)))
    assert found.wiring.kind == "crosscoder" and found.place.site == ", ".join(SITES)


def test_a_crosscoder_whose_sites_choose_apart_is_refused_by_name(draw):
    config = config_of("crosscoder", act_fn="jumprelu")
    with pytest.raises(ArtifactKindError, match=r"crosscoder of jumprelu.*that site's norm"):
        lm.read(config, crosscoder_of(draw, config, one_norm=False))


def clt_of(draw: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {"W_E": draw(N, D, F), "b_E": draw(N, F)}
    tensors |= {f"W_D.{i}": draw(i + 1, F, D) for i in range(N)}
    tensors |= {f"b_D.{i}": draw(D) for i in range(N)}
    if config["act_fn"] == "jumprelu":
        tensors[LOG] = draw(N, F)
    return tensors | norms_of(SITES + TARGETS)


@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize(
    ("act_fn", "mode"),
    [("relu", "dataset-wise"), ("jumprelu", "dataset-wise"), ("layertopk", "inference")],
)
def test_a_cross_layer_transcoder_computes_what_the_library_computes(
    act_fn, mode, by_norm, draw, canonical, same
):
    if (
        act_fn == "layertopk" and not by_norm
    ):  # scales of the output have no part in the choice then
        mode = "dataset-wise"
    config = config_of(
        "clt", act_fn=act_fn, norm_activation=mode, sparsity_include_decoder_norm=by_norm
    )
    tensors = clt_of(draw, config)
    sites = np.random.default_rng(6).normal(size=(20, N, D))
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    s_in, s_out = scales(config, tensors, SITES), scales(config, tensors, TARGETS)
    pre = np.einsum("bnd,ndf->bnf", sites * s_in[:, None], t["W_E"]) + t["b_E"]
    squares = np.zeros((N, F))
    for i in range(N):
        squares[: i + 1] += (t[f"W_D.{i}"] ** 2).sum(2)
    norm = np.sqrt(squares) if by_norm else 1
    f = pre * active(config, pre * norm, t.get(LOG))
    y = [
        (np.einsum("bnf,nfd->bd", f[:, : i + 1], t[f"W_D.{i}"]) + t[f"b_D.{i}"]) / s_out[i]
        for i in range(N)
    ]
    found = lm.read(config, tensors)
    same(canonical(found, sites.reshape(20, -1)), (f.reshape(20, -1), np.concatenate(y, 1)))
    assert found.wiring.kind == "clt" and found.place.target == ", ".join(TARGETS)


@pytest.mark.parametrize("n", [N - 1, N + 1])
def test_each_layer_has_its_thresholds(n, draw):
    config = config_of("clt", act_fn="jumprelu")
    with pytest.raises(ArtifactCorruptError, match="`threshold`"):
        lm.read(config, clt_of(draw, config) | {LOG: draw(n, F)})


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_folder_is_recognised_and_says_its_model(suffix, draw, x, canonical, tmp_path):
    config = config_of(norm_activation="inference", hook_point_in="blocks.1.ln2.hook_normalized")
    tensors = sae_of(draw, config)
    # in this mode the library writes whatever was in memory
    tensors[NORM + SITES[0]] = torch.tensor(float("nan"))
    if suffix == "pt":
        torch.save({"sae": tensors, "version": "2"}, tmp_path / "sae_weights.pt")
    else:
        safetensors.torch.save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "lm_config.json").write_text(json.dumps({"model_name": "Qwen/Qwen3-1.7B"}))
    files = Files.at(tmp_path)
    assert lm.FORMAT.recognises(files)
    found: Any = lm.FORMAT.read(files)
    assert found.place.model == "Qwen/Qwen3-1.7B"
    assert found.place.processing == "layer_norm_folded"
    assert np.isfinite(canonical(found, x)[1]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sae_type": "lorsa"}, r"`lorsa`.*linear encoder"),
        ({"sae_type": "molt"}, r"`molt`"),
        ({"use_glu_encoder": True}, r"`use_glu_encoder`"),
        ({"act_fn": "batchtopk"}, r"`batchtopk`.*topk_to_jumprelu_conversion"),
        ({"norm_activation": "batch-wise"}, r"`batch-wise`.*other activations"),
        ({"expansion_factor": 3.0}, r"expansion_factor` is 18.*makes it 12"),
        ({"d_model": 5}, r"`d_model` is 5.*makes it 6"),
        ({"act_fn": "jumprelu"}, r"no tensor `threshold`"),
    ],
)
def test_what_cannot_be_is_refused(changed, message, draw):
    tensors = sae_of(draw, config_of())
    with pytest.raises((ArtifactCorruptError, ArtifactKindError), match=message):
        lm.read(config_of() | changed, tensors)


def test_norms_that_are_none_are_refused(draw):
    config = config_of()
    for norm, message in ((float("nan"), "finite"), (0.0, "must be positive")):
        tensors = sae_of(draw, config) | {NORM + SITES[0]: torch.tensor(norm)}
        with pytest.raises(ArtifactCorruptError, match=message):
            lm.read(config, tensors)
