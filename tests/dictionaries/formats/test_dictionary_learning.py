"""dictionary_learning: every class computes what the library's own formulas say."""

from typing import Any

import numpy as np
import pytest
import torch

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError, ConfigError
from monosem.dictionaries.formats import dictionary_learning as dl

D, F, K = 6, 10, 3
CLASSES = sorted(set(dl.CLASSES) - {"CrossCoder"})


def tensors_of(name: str, draw: Any) -> dict[str, torch.Tensor]:
    """Random tensors of a class, with all biases and norms off their usual values."""
    linear = {"encoder.weight": draw(F, D), "decoder.weight": draw(D, F)}
    direct = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
    counts = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.7)}
    return {
        "AutoEncoder": linear | {"encoder.bias": draw(F), "bias": draw(D)},
        "AutoEncoderNew": linear | {"encoder.bias": draw(F), "decoder.bias": draw(D)},
        "GatedAutoEncoder": linear
        | {"decoder_bias": draw(D), "gate_bias": draw(F), "r_mag": draw(F), "mag_bias": draw(F)},
        "JumpReluAutoEncoder": direct | {"threshold": draw(F)},
        "AutoEncoderTopK": linear | {"encoder.bias": draw(F), "b_dec": draw(D)} | counts,
        "BatchTopKSAE": linear | {"encoder.bias": draw(F), "b_dec": draw(D)} | counts,
        "MatryoshkaBatchTopKSAE": direct | counts | {"group_sizes": torch.tensor([4, 6])},
    }[name]


def config_of(name: str) -> dict[str, Any]:
    trainer = {
        "dict_class": name,
        "activation_dim": D,
        "dict_size": F,
        "layer": 3,
        "lm_name": "gpt2",
    }
    if name in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        trainer["k"] = K
    return {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}


def golden(name: str, tensors: dict[str, torch.Tensor], x: Any) -> Any:
    """What the class computes, from its definition."""
    t = {key: value.double().numpy() for key, value in tensors.items()}
    W_enc = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    W_dec = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    if name == "AutoEncoder":
        f = np.maximum((x - t["bias"]) @ W_enc + t["encoder.bias"], 0)
        return f, f @ W_dec + t["bias"]
    if name == "AutoEncoderNew":
        f = np.maximum(x @ W_enc + t["encoder.bias"], 0)
        return f, f @ W_dec + t["decoder.bias"]
    if name == "GatedAutoEncoder":
        encoded = (x - t["decoder_bias"]) @ W_enc
        f = (encoded + t["gate_bias"] > 0) * np.maximum(
            np.exp(t["r_mag"]) * encoded + t["mag_bias"], 0
        )
        return f, f @ W_dec + t["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        pre = x @ W_enc + t["b_enc"]
        f = np.maximum(pre * (pre > t["threshold"]), 0)
        return f, f @ W_dec + t["b_dec"]
    b_enc = t["b_enc"] if "b_enc" in t else t["encoder.bias"]
    f = np.maximum((x - t["b_dec"]) @ W_enc + b_enc, 0)
    if name == "AutoEncoderTopK":
        smallest = np.sort(f, axis=1)[:, -K][:, None]
        f = f * (f >= smallest)
    else:
        f = f * (f > t["threshold"])
    return f, f @ W_dec + t["b_dec"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_computes_what_the_library_computes(name, draw, x, canonical, same):
    tensors = tensors_of(name, draw)
    found = dl.read(config_of(name), tensors)
    same(canonical(found, x), golden(name, tensors, x))
    assert found.trained_as == name
    assert found.place.site == "blocks.3.hook_resid_post"
    assert (found.place.model, found.place.context) == ("gpt2", 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_written_is_read_back_bit_equal(name, dtype, draw):
    tensors = {
        key: value.to(dtype) if value.ndim else value
        for key, value in tensors_of(name, draw).items()
    }
    if "group_sizes" in tensors:
        tensors["group_sizes"] = torch.tensor([4, 6])
    config, again = dl.written(dl.read(config_of(name), tensors))
    assert config["trainer"]["dict_class"] == name
    assert set(again) == set(tensors)
    # the threshold of AutoEncoderTopK is not read, the groups of Matryoshka are of training alone
    lost = {"AutoEncoderTopK": {"threshold"}, "MatryoshkaBatchTopKSAE": {"group_sizes"}}
    for key in set(tensors) - lost.get(name, set()):
        assert torch.equal(again[key], tensors[key]) and again[key].dtype == tensors[key].dtype, key
    assert dl.read(config, again).place.site == "blocks.3.hook_resid_post"


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"AutoEncoderTopK", "BatchTopKSAE"}))
def test_a_class_is_told_by_its_tensors_where_the_configuration_is_missing(name, draw):
    assert dl.read(None, tensors_of(name, draw)).trained_as == name


def test_a_class_that_tensors_do_not_tell_is_refused(draw):
    with pytest.raises(
        ArtifactCorruptError, match=r"may be of `AutoEncoderTopK`, `BatchTopKSAE`.*dict_class"
    ):
        dl.read(None, tensors_of("BatchTopKSAE", draw))


def test_a_crosscoder_reads_its_sites_side_by_side(draw, canonical, same):
    tensors = {
        "encoder.weight": draw(2, D, F),
        "encoder.bias": draw(F),
        "decoder.weight": draw(2, F, D),
        "decoder.bias": draw(2, D),
    }
    sites = np.random.default_rng(2).normal(size=(30, 2, D))
    t = {key: value.double().numpy() for key, value in tensors.items()}
    f = np.einsum("bld,ldf->bf", sites, t["encoder.weight"]) + t["encoder.bias"]
    f = np.maximum(f, 0)
    y = np.einsum("bf,lfd->bld", f, t["decoder.weight"]) + t["decoder.bias"]
    found = dl.read(None, tensors)
    same(canonical(found, sites.reshape(30, -1)), (f, y.reshape(30, -1)))
    assert found.wiring.kind == "crosscoder" and found.wiring.widths_in == (D, D)
    again = dl.written(found)[1]
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_a_backup_is_refused_with_the_way_to_its_dictionary(draw):
    backup = {"step": 5, "ae": tensors_of("AutoEncoder", draw), "optimizer": {}, "norm_factor": 2.0}
    with pytest.raises(
        ArtifactCorruptError, match=r"backup.*norm_factor.*torch\.save\(backup\['ae'\]"
    ):
        dl.read(config_of("AutoEncoder"), backup)


def test_a_threshold_that_was_never_measured_is_refused(draw):
    tensors = tensors_of("BatchTopKSAE", draw) | {"threshold": torch.tensor(-1.0)}
    with pytest.raises(ArtifactCorruptError, match=r"`threshold` is -1.*AutoEncoderTopK"):
        dl.read(config_of("BatchTopKSAE"), tensors)


@pytest.mark.parametrize(
    ("submodule", "io", "sites"),
    [
        ("resid_post_layer_8", "out", ("blocks.8.hook_resid_post", "")),
        ("mlp_out_layer_2", "out", ("blocks.2.hook_mlp_out", "")),
        ("gpt_neox.layers.4.mlp", "out", ("blocks.4.hook_mlp_out", "")),
        ("transformer.h.4.mlp", "in", ("blocks.4.ln2.hook_normalized", "")),
        ("h.4.mlp", "in_and_out", ("blocks.4.ln2.hook_normalized", "blocks.4.hook_mlp_out")),
        (None, "in", ("blocks.3.hook_resid_pre", "")),
        ("some.module", "out", ("", "")),
    ],
)
def test_the_site_is_said_only_where_it_is_certain(submodule, io, sites, draw):
    config = config_of("AutoEncoder")
    config["trainer"]["submodule_name"] = submodule
    config["buffer"]["io"] = io
    found = dl.read(config, tensors_of("AutoEncoder", draw))
    assert (found.place.site, found.place.target) == sites
    assert found.wiring.kind == ("transcoder" if io == "in_and_out" else "sae")
    config["trainer"]["lm_name"] = ""  # with norms behind its MLPs it would be another site
    found = dl.read(config, tensors_of("AutoEncoder", draw))
    assert bool(found.remarks) == (io != "in" and str(submodule).endswith("mlp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.weight": None}, r"no tensor `decoder\.weight`.*Fetch"),
        ({"bias": torch.zeros(7)}, r"`bias` is torch\.float32 \[7\].*must be.*\[6\]"),
        ({"extra": torch.zeros(2)}, r"`extra`.*no use for"),
        ({"encoder.bias": torch.zeros(F, dtype=torch.int64)}, r"int64.*floating point"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, draw):
    tensors = {k: v for k, v in (tensors_of("AutoEncoder", draw) | change).items() if v is not None}
    with pytest.raises(ArtifactCorruptError, match=message):
        dl.read(config_of("AutoEncoder"), tensors)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dict_size", 11, r"`trainer\.dict_size` is 11.*makes it 10"),
        ("activation_dim", 5, r"`trainer\.activation_dim` is 5.*makes it 6"),
        ("k", 4, r"`trainer\.k` is 4.*makes it 3"),
        ("dict_class", "AutoEncoderNewest", r"`AutoEncoderNewest`.*cannot be read"),
        ("dict_class", None, r"`trainer\.dict_class` is missing"),
    ],
)
def test_a_configuration_that_contradicts_its_tensors_is_refused(key, value, message, draw):
    config = config_of("AutoEncoderTopK")
    config["trainer"][key] = value
    with pytest.raises((ArtifactCorruptError, ArtifactKindError), match=message):
        dl.read(config, tensors_of("AutoEncoderTopK", draw))


def test_what_no_class_computes_is_refused_by_name(draw):
    from dataclasses import replace

    found = dl.read(config_of("AutoEncoderTopK"), tensors_of("AutoEncoderTopK", draw))
    by_norm = replace(found, axes=replace(found.axes, choose_by_norm=True))
    with pytest.raises(ConfigError, match=r"norm of their decoder row.*folded"):
        dl.written(by_norm)
    with pytest.raises(ConfigError, match=r"`unit_rms`.*cannot be put into weights"):
        dl.written(replace(found, axes=replace(found.axes, normalisation="unit_rms")))
    with pytest.raises(ConfigError, match=r"`W_skip`.*no place for"):
        dl.written(replace(found, W_skip=draw(D, D)))


def test_other_conventions_are_put_into_the_weights(draw, x, canonical, same):
    from dataclasses import replace

    from monosem.dictionaries.formats.specification import Axes

    found = dl.read(config_of("JumpReluAutoEncoder"), tensors_of("JumpReluAutoEncoder", draw))
    axes = Axes(
        subtract_b_dec=True, normalisation="scale", scale=0.5, output_scale=0.25, inclusive=True
    )
    foreign = replace(found, axes=axes, centre=draw(D))
    config, tensors = dl.written(foreign)
    for ours, theirs in zip(
        canonical(dl.read(config, tensors), x), canonical(foreign, x), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_folder_is_written_and_recognised(draw, tmp_path):
    from monosem.dictionaries.formats.files import Files

    found = dl.read(config_of("GatedAutoEncoder"), tensors_of("GatedAutoEncoder", draw))
    assert dl.FORMAT.write is not None
    dl.FORMAT.write(found, tmp_path)
    for path in (tmp_path, tmp_path / "ae.pt"):
        files = Files.at(path)
        assert dl.FORMAT.recognises(files)
        again: Any = dl.FORMAT.read(files)
        assert torch.equal(again.r_mag, found.r_mag) and again.place == found.place


def test_a_backup_in_a_folder_is_refused_before_its_optimiser_is_read(draw, tmp_path):
    from monosem.dictionaries.formats.files import Files

    backup = {"step": 1, "ae": tensors_of("AutoEncoder", draw), "optimizer": {"state": {0: {}}}}
    torch.save(backup, tmp_path / "ae.pt")
    with pytest.raises(ArtifactCorruptError, match=r"backup of training.*torch\.save"):
        dl.FORMAT.read(Files.at(tmp_path))
