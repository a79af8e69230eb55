"""sparsify: every flag computes what the library's own formulas say."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError, ConfigError
from monosem.dictionaries.formats import sparsify

D, F, K = 6, 12, 3


def config_of(**changed: Any) -> dict[str, Any]:
    settings = {
        "activation": "topk",
        "expansion_factor": 2,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    }
    return settings | changed


def tensors_of(draw: Any, skip: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
    if skip:
        shapes["W_skip"] = (D, D)
    return {name: draw(*shape, dtype=dtype) for name, shape in shapes.items()}


def golden(config: dict[str, Any], tensors: dict[str, torch.Tensor], x: Any) -> Any:
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    read = x if config["transcode"] else x - t["b_dec"]
    f = np.maximum(np.einsum("bd,fd->bf", read, t["encoder.weight"]) + t["encoder.bias"], 0)
    k = config["k"]
    if config["activation"] == "topk":
        f = f * (f >= np.sort(f, axis=1)[:, -k][:, None])
    else:
        groups = f.reshape(len(f), k, -1)
        f = (groups * (groups == groups.max(2, keepdims=True))).reshape(f.shape)
    y = np.einsum("bf,fd->bd", f, t["W_dec"]) + t["b_dec"]
    if config["skip_connection"]:
        y = y + np.einsum("bi,oi->bo", x, t["W_skip"])
    return f, y


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("activation", "k"), [("topk", K), ("topk", F), ("groupmax", 1), ("groupmax", F)]
)
def test_every_flag_computes_what_the_library_computes(
    transcode, skip, activation, k, draw, x, canonical, same
):
    config = config_of(transcode=transcode, skip_connection=skip, activation=activation, k=k)
    tensors = tensors_of(draw, skip)
    found = sparsify.read(config, tensors, "layers.5.mlp")
    same(canonical(found, x), golden(config, tensors, x))
    written, again = sparsify.written(found)
    assert (written["transcode"], written["skip_connection"]) == (transcode, skip)
    assert written["k"] == k and written["num_latents"] == F
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    same(canonical(sparsify.read(written, again), x), golden(config, tensors, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_read_back_bit_equal_in_its_own_type(dtype, draw):
    tensors = tensors_of(draw, skip=True, dtype=dtype)
    config = config_of(transcode=True, skip_connection=True)
    again = sparsify.written(sparsify.read(config, tensors))[1]
    for name, tensor in tensors.items():
        assert again[name].dtype == dtype and torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("hookpoint", "transcode", "sites"),
    [
        ("layers.10", False, ("blocks.10.hook_resid_post", "")),
        ("h.3.mlp", False, ("blocks.3.hook_mlp_out", "")),
        ("layers.5.mlp", True, ("blocks.5.ln2.hook_normalized", "blocks.5.hook_mlp_out")),
        ("layers.5.self_attn", False, ("blocks.5.hook_attn_out", "")),
        ("embed_in", False, ("hook_embed", "")),
        ("visual.tower", False, ("", "")),
    ],
)
def test_the_folder_names_the_site(hookpoint, transcode, sites, draw):
    found = sparsify.read(config_of(transcode=transcode), tensors_of(draw), hookpoint)
    assert (found.place.site, found.place.target) == sites
    again = sparsify.read(*sparsify.written(found), "anything")
    assert (again.place.site, again.place.target) == sites or sites == ("", "")


def test_a_bare_mlp_of_a_model_with_a_norm_behind_it_has_no_site(draw):
    config = config_of(model="google/gemma-2-2b")
    assert sparsify.read(config, tensors_of(draw), "layers.5.mlp").place.site == ""


@pytest.mark.parametrize(("model", "n"), [("", 1), ("gpt2", 0)])
def test_a_bare_mlp_of_no_model_is_remarked(model, n, draw):
    found = sparsify.read(config_of(model=model), tensors_of(draw), "layers.5.mlp")
    assert found.place.site == "blocks.5.hook_mlp_out"
    assert len(found.remarks) == n
    assert not sparsify.read(config_of(model=model), tensors_of(draw), "layers.5").remarks


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"d_in": 7}, r"`d_in` is 7.*makes it 6"),
        ({"num_latents": 13}, r"`num_latents` is 13.*makes it 12"),
        ({"expansion_factor": 3}, r"`num_latents` is 18.*makes it 12"),
        ({"k": "three"}, r"`k` is 'three'.*type `int`"),
        ({"k": None}, r"`k` is missing"),
        ({"k": 0}, r"`k` is 0, but must be in 1\.\.12"),
        ({"activation": "groupmax"}, r"`groupmax`.*largest of each of 3 groups"),
        ({"signed": True}, r"`signed`.*negative"),
        ({"skip_connection": True}, r"no tensor `W_skip`"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changed, message, draw):
    with pytest.raises((ArtifactCorruptError, ArtifactKindError), match=message):
        sparsify.read(config_of(**changed), tensors_of(draw))


def test_a_decoder_in_another_orientation_is_refused(draw):
    tensors = tensors_of(draw)
    with pytest.raises(ArtifactCorruptError, match=r"`W_dec`.*\[6, 12\].*must be.*\[12, 6\]"):
        sparsify.read(config_of(), tensors | {"W_dec": draw(D, F)})
    with pytest.raises(ArtifactCorruptError, match=r"`W_skip`, which `sparsify` has no use for"):
        sparsify.read(config_of(), tensors | {"W_skip": draw(D, D)})


def test_what_sparsify_does_not_have_is_refused_by_name(draw):
    found = sparsify.read(config_of(), tensors_of(draw))
    jump = dataclasses.replace(found, activation="jumprelu", threshold=draw(F, positive=True))
    with pytest.raises(ConfigError, match=r"`jumprelu`.*k largest of a row"):
        sparsify.written(jump)


def test_a_run_is_a_set_of_hookpoints_and_each_folder_one_of_them(draw, tmp_path):
    from monosem.dictionaries.formats.files import Files

    found = {
        name: sparsify.read(config_of(), tensors_of(draw), name)
        for name in ("layers.0", "layers.1.mlp")
    }
    assert sparsify.FORMAT.write is not None
    sparsify.FORMAT.write(found, tmp_path)
    again: Any = sparsify.FORMAT.read(Files.at(tmp_path))
    assert set(again) == set(found)
    assert torch.equal(again["layers.0"].W_dec, found["layers.0"].W_dec)
    files = Files.at(tmp_path / "layers.1.mlp")
    assert sparsify.FORMAT.recognises(files)
    one: Any = sparsify.FORMAT.read(files)
    assert one.place.site == "blocks.1.hook_mlp_out"


def test_one_of_a_processed_model_is_not_written_as_one_of_the_plain_model(draw):
    found = sparsify.read(config_of(), tensors_of(draw), "layers.3")
    assert found.place.processing == "none"
    centred = dataclasses.replace(
        found, place=dataclasses.replace(found.place, processing="centred")
    )
    with pytest.raises(ConfigError, match=r"processed \(`centred`\).*for_model"):
        sparsify.written(centred)
    folded = dataclasses.replace(found.place, processing="layer_norm_folded")
    assert sparsify.written(dataclasses.replace(found, place=folded))[0]["k"] == K
    normed = dataclasses.replace(folded, site="blocks.3.ln2.hook_normalized")
    with pytest.raises(ConfigError, match="layer_norm_folded"):
        sparsify.written(dataclasses.replace(found, place=normed))
    elsewhere = dataclasses.replace(normed, processing="centred")  # which a norm does not see
    assert sparsify.written(dataclasses.replace(found, place=elsewhere))[0]["k"] == K
    heads = dataclasses.replace(
        folded, site="blocks.3.attn.hook_z", processing="value_biases_folded"
    )
    with pytest.raises(ConfigError, match="value_biases_folded"):
        sparsify.written(dataclasses.replace(found, place=heads))
