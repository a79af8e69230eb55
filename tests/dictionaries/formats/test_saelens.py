"""SAELens' files against its equations, written here anew in numpy, and against known faults of versions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from monosem.core.errors import ArtifactCorruptError, ArtifactKindError, ConfigError, MonosemError
from monosem.dictionaries.formats import saelens
from monosem.dictionaries.formats.build import dictionary_of
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.saelens_writing import written
from monosem.dictionaries.formats.specification import Axes, Specification
from monosem.dictionaries.wiring import Wiring

D, F, OUT, K = 8, 30, 5, 4
METADATA = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_pre"}
SAES = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


@pytest.fixture
def file(draw: Any) -> Any:
    """`file(kind, **settings)`: configuration and random tensors of one architecture."""

    def made(kind: str, **settings: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        transcodes = "transcoder" in kind
        d_out = OUT if transcodes else D
        tensors = {
            "W_enc": draw(D, F) / D**0.5,
            "W_dec": draw(F, d_out) * draw(F, 1, positive=True),
            "b_dec": 0.5 * draw(d_out),
        }
        if kind == "gated":
            tensors |= {name: 0.4 * draw(F) for name in ("b_gate", "b_mag", "r_mag")}
        else:
            tensors["b_enc"] = 0.3 * draw(F)
        if "jumprelu" in kind:
            tensors["threshold"] = draw(F)
        if "batchtopk" in kind:
            tensors["topk_threshold"] = torch.tensor(0.8, dtype=torch.float64)
        if "skip" in kind:
            tensors["W_skip"] = draw(d_out, D)
        config = {"architecture": kind, "d_in": D, "d_sae": F, "dtype": "float32"}
        config |= {"apply_b_dec_to_input": not transcodes, "metadata": METADATA}
        config |= {"d_out": d_out} if transcodes else {}
        config |= {"k": K} if kind == "topk" else {}
        return config | settings, tensors

    return made


def reference(config: dict[str, Any], tensors: Any, x: Any, *, scale: float = 1.0) -> Any:
    """Latents and output as SAELens' sources define them."""
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    kind, norms = config["architecture"], np.linalg.norm(t["W_dec"], axis=1)
    z, undo = x * scale, lambda y: y / scale
    if config.get("normalize_activations") == "layer_norm":
        mean, std = x.mean(1, keepdims=True), x.std(1, keepdims=True, ddof=1)
        z, undo = (x - mean) / (std + 1e-5), lambda y: y * std + mean
    if config.get("normalize_activations") == "constant_norm_rescale":
        factor = np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
        z, undo = x * factor, lambda y: y / factor
    v = z - t["b_dec"] if config["apply_b_dec_to_input"] else z
    if kind == "gated":
        open_ = v @ t["W_enc"] + t["b_gate"] > 0
        f = open_ * np.maximum(v @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"], 0)
        return f, undo(f @ t["W_dec"] + t["b_dec"])
    pre = v @ t["W_enc"] + t["b_enc"]
    default = "batchtopk" in kind
    rescaled = config.get("rescale_acts_by_decoder_norm", default) and (default or kind == "topk")
    pre = pre * norms if rescaled else pre
    f = np.maximum(pre, 0)
    if kind == "topk":
        f = f * (pre >= np.sort(pre, axis=1)[:, -config["k"]][:, None])
    if "jumprelu" in kind:
        f = f * (pre > t["threshold"])
    if default:
        f = f * (pre > np.float32(t["topk_threshold"]))
    y = (f / norms if rescaled else f) @ t["W_dec"] + t["b_dec"]
    return f, undo(y) + (x @ t["W_skip"].T if "skip" in kind else 0)


def holds(
    config: dict[str, Any], tensors: Any, x: Any, canonical: Any, same: Any, **extra: Any
) -> None:
    """The specification and the dictionary compute what the reference does."""
    scale = extra.get("scaler", {}).get("scaling_factor", 1.0)
    f, y = reference(config, tensors, x, scale=scale)
    s = saelens.read(config, tensors, **extra)
    latents, out = canonical(s, x)
    norms = np.linalg.norm(tensors["W_dec"].double().numpy(), axis=1)
    by_norm = (
        s.axes.choose_by_norm
    )  # the file's latents are pre * ‖row‖, the specification's are pre
    same(((latents * norms if by_norm else latents), out), (f, y))
    dictionary = dictionary_of(s)
    found = dictionary(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(1).normal(size=(40, D)) * 2 + 0.2


@pytest.mark.parametrize("kind", [*SAES, *TRANSCODERS])
def test_every_architecture_computes_what_saelens_does(
    kind: str, file: Any, x: Any, canonical: Any, same: Any
) -> None:
    holds(*file(kind), x, canonical, same)


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize(
    "given",
    [
        {"apply_b_dec_to_input": False},
        {"rescale_acts_by_decoder_norm": True},
        {"rescale_acts_by_decoder_norm": False},
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "constant_norm_rescale"},
    ],
    ids=lambda given: "-".join(map(str, next(iter(given.items())))),
)
def test_every_flag_means_what_it_means_there(
    kind: str, given: dict[str, Any], file: Any, x: Any, canonical: Any, same: Any
) -> None:
    holds(*file(kind, **given), x, canonical, same)


@pytest.mark.parametrize("kind", SAES)
def test_a_checkpoint_reads_activations_times_its_factor(
    kind: str, file: Any, x: Any, canonical: Any, same: Any
) -> None:
    config, tensors = file(kind, normalize_activations="expected_average_only_in")
    holds(config, tensors, x, canonical, same, scaler={"scaling_factor": 1.7})
    with pytest.raises(ConfigError, match="activation_scaler"):
        saelens.read(config, tensors)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("kind", SAES)
def test_whitening_is_folded(
    kind: str, subtract: bool, file: Any, x: Any, draw: Any, canonical: Any, same: Any
) -> None:
    matrix = torch.eye(D, dtype=torch.float64) + 0.2 * draw(D, D).double()
    mean, inverse = draw(D).double(), torch.linalg.inv(matrix)
    config, tensors = file(kind, apply_b_dec_to_input=subtract)
    f, y = reference(config, tensors, (x - mean.numpy()) @ matrix.numpy())
    beside = {"mean": mean, "matrix": matrix, "inverse_matrix": inverse}
    whitened = config | {"normalize_activations": "covariance_whitening"}
    found = canonical(saelens.read(whitened, tensors, whitening=beside), x)
    expected = f, y @ inverse.numpy() + mean.numpy()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_old_jumprelu_has_logarithms(
    file: Any, x: Any, canonical: Any, same: Any
) -> None:
    config, tensors = file("jumprelu")
    threshold = tensors["threshold"].abs()
    old = {name: t for name, t in tensors.items() if name != "threshold"}
    old["log_threshold"] = threshold.log()
    s = saelens.read(config, old)
    expected = reference(config, tensors | {"threshold": threshold}, x)
    same(canonical(s, x), expected)


def test_a_file_from_before_version_6(file: Any, x: Any, canonical: Any, same: Any) -> None:
    _, tensors = file("topk")
    flat = {
        "d_in": D,
        "d_sae": F,
        "hook_point": "blocks.6.attn.hook_z",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
        "model_name": "gpt2-small",
        "context_size": 128,
        "sae_lens_version": "5.3.0",
    }
    s = saelens.read(flat, tensors)
    then = {"architecture": "topk", "k": K, "apply_b_dec_to_input": True}
    same(canonical(s, x), reference(then, tensors, x))
    assert (s.place.site, s.place.model) == ("blocks.6.attn.hook_z", "gpt2")
    assert (s.place.context, s.place.prepend_bos) == (128, True)


@pytest.mark.parametrize(
    ("kind", "by_norm"), [*((kind, False) for kind in SAES[:4]), ("topk", True)]
)
def test_old_finetuning_factors_stand_between_latents_and_decoder(
    kind: str, by_norm: bool, file: Any, x: Any, draw: Any
) -> None:
    config, tensors = file(kind, rescale_acts_by_decoder_norm=by_norm)
    factors = 3 * draw(F, positive=True)
    named = tensors | {"finetuning_scaling_factor": factors}
    f, _ = reference(config, tensors, x)
    W_dec = tensors["W_dec"].double().numpy()
    f = f / np.linalg.norm(W_dec, axis=1) if by_norm else f
    y = (f * factors.double().numpy()) @ W_dec + tensors["b_dec"].double().numpy()
    found = dictionary_of(saelens.read(config, named))(torch.tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(found.detach(), y, rtol=1e-4, atol=1e-4)
    with pytest.raises(ArtifactCorruptError, match="contradict"):
        saelens.read(config | {"finetuning_scaling_factor": False}, named)


@pytest.mark.parametrize("kind", [*SAES[:4], *TRANSCODERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_read_is_written_bit_for_bit(kind: str, dtype: torch.dtype, file: Any) -> None:
    config, tensors = file(kind)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    again, weights = written(saelens.read(config, tensors))
    assert weights.keys() == tensors.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())
    stated = {"architecture", "d_in", "d_sae", "apply_b_dec_to_input", "k", "d_out"}
    for key in stated & config.keys():
        assert again[key] == config[key], key
    assert again["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("kind", [*SAES, *TRANSCODERS])
def test_a_folder_is_recognised_and_written_again(kind: str, file: Any, tmp_path: Path) -> None:
    config, tensors = file(kind)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, tmp_path / "sae_weights.safetensors")
    frequency = torch.full((F,), -3.0)
    frequency[:4] = -10.0
    safetensors.torch.save_file({"sparsity": frequency}, tmp_path / "sparsity.safetensors")
    assert saelens.FORMAT.recognises(Files.at(tmp_path))
    s = saelens.FORMAT.read(Files.at(tmp_path))
    assert "4 of 30 latents never fired" in s.remarks[-1]
    (tmp_path / "again").mkdir()
    saelens.FORMAT.write(s, tmp_path / "again")
    again = saelens.FORMAT.read(Files.at(tmp_path / "again"))
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip", "r_mag"):
        before, after = getattr(s, name), getattr(again, name)
        assert (before is None and after is None) or torch.equal(before, after), name
    assert (again.axes, again.place, again.k) == (s.axes, s.place, s.k)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "temporal"}, "attention"),
        ({"architecture": "matching_pursuit"}, "one latent after the other"),
        ({"architecture": "abstopk"}, "negative"),
        ({"architecture": "new"}, "`new`"),
        ({"d_sae": F + 1}, "`d_sae` is 31"),
        ({"d_in": "eight"}, "`d_in` is 'eight'"),
        ({"normalize_activations": "other"}, "`other`"),
        ({"normalize_activations": "covariance_whitening"}, "activation_whitening"),
        ({"activation_fn": "tanh-relu"}, "`tanh-relu`"),
        ({"architecture": "gated"}, "b_enc"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    change: dict[str, Any], says: str, file: Any
) -> None:
    config, tensors = file("standard")
    with pytest.raises(MonosemError, match=says):
        saelens.read(config | change, tensors)


def test_a_transcoder_does_not_subtract_what_it_writes(file: Any) -> None:
    config, tensors = file("transcoder", apply_b_dec_to_input=True)
    with pytest.raises(ConfigError, match="Set it to false"):
        saelens.read(config, tensors)


@pytest.mark.parametrize(
    ("version", "one", "says"),
    [
        ("6.54.8", True, "BatchTopK"),
        ("6.54.9", True, ""),
        ("6.47.0", False, "barely moved"),
        ("6.48.0", False, ""),
    ],
)
def test_versions_that_saved_wrong_thresholds_are_remarked(
    version: str, one: bool, says: str, file: Any
) -> None:
    metadata = METADATA | {"sae_lens_training_version": version}
    config, tensors = file("jumprelu", metadata=metadata)
    if one:
        tensors["threshold"] = torch.ones(F)
    remarks = " ".join(saelens.read(config, tensors).remarks)
    assert says in remarks
    assert bool(says) == bool(remarks)


def test_a_layout_of_a_later_version_is_refused_with_what_to_do(file: Any) -> None:
    config, tensors = file("standard", metadata={"sae_lens_version": "7.1.0"})
    with pytest.raises(ArtifactKindError, match=r"SAELens 7\.1\.0.*set `sae_lens_version`"):
        saelens.read(config, tensors)


@pytest.mark.parametrize(
    ("metadata", "site", "processing"),
    [
        ({"hook_name": "blocks.6.hook_resid_pre"}, "blocks.6.hook_resid_pre", "unknown"),
        ({"hook_name": "blocks.6.attn.hook_z", "hook_head_index": 3}, "", "unknown"),
        ({"hf_hook_name": "model.layers.4"}, "blocks.4.hook_resid_post", "unknown"),
        (
            {"hook_name": "hook_embed", "model_from_pretrained_kwargs": {}},
            "hook_embed",
            "none",
        ),
        (
            {
                "hook_name": "hook_embed",
                "model_from_pretrained_kwargs": {"center_writing_weights": True},
            },
            "hook_embed",
            "centred",
        ),
        (
            {
                "hook_name": "blocks.2.attn.hook_z",
                "model_from_pretrained_kwargs": {
                    **{"fold_ln": True, "center_writing_weights": True, "center_unembed": True},
                    **{"fold_value_biases": True, "refactor_factored_attn_matrices": False},
                },
            },
            "blocks.2.attn.hook_z",
            "centred, layer_norm_folded, value_biases_folded",
        ),
        (
            {
                "hook_name": "blocks.2.ln2.hook_normalized",  # without its gain
                "model_name": "google/gemma-2-2b",
                "model_from_pretrained_kwargs": {"refactor_factored_attn_matrices": True},
            },
            "blocks.2.ln2.hook_normalized",
            "layer_norm_folded, attention_refactored",
        ),
    ],
)
def test_places_are_in_the_houses_words(
    metadata: dict[str, Any], site: str, processing: str, file: Any
) -> None:
    config, tensors = file("standard", metadata={"sae_lens_version": "6.5.0", **metadata})
    place = saelens.read(config, tensors).place
    assert (place.site, place.processing) == (site, processing)
    again = saelens.read(*written(saelens.read(config, tensors)))
    assert (again.place.site, again.place.processing) == (site, processing)


def test_what_saelens_has_no_class_for_is_refused_with_the_reason(draw: Any) -> None:
    weights = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
    axes, to = Axes(subtract_b_dec=False), Wiring(kind="transcoder")
    cases = [
        (
            Specification(activation="topk", k=3, axes=axes, wiring=to, **weights),
            "relu and jumprelu",
        ),
        (
            Specification(
                activation="relu",
                axes=Axes(subtract_b_dec=False, normalisation="layer_norm"),
                wiring=to,
                **weights,
            ),
            "do not undo",
        ),
        (
            Specification(
                activation="relu",
                axes=axes,
                wiring=Wiring(kind="crosscoder", widths_in=(3, 5), widths_out=(3, 5)),
                **weights,
            ),
            "crosscoder",
        ),
    ]
    for specification, says in cases:
        with pytest.raises(ConfigError, match=says):
            written(specification)


def test_missing_and_misshapen_tensors_are_named(file: Any) -> None:
    config, tensors = file("jumprelu")
    for name in ("W_enc", "b_dec", "threshold"):
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        with pytest.raises(ArtifactCorruptError, match=name):
            saelens.read(config, rest)
        with pytest.raises((ArtifactCorruptError, ArtifactKindError), match=name):
            saelens.read(config, tensors | {name: tensors[name].int()})
    with pytest.raises(ArtifactCorruptError, match="W_dec"):
        saelens.read(config, tensors | {"W_dec": tensors["W_dec"].T})
