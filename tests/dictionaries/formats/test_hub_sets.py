"""Several dictionaries in one folder of the hub, by the names they have there; the hub is a folder here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import constants

import monosem
from monosem.core import hub
from monosem.core.errors import ArtifactMissingError, UnknownNameError

D, F = 6, 12
CONFIG: dict[str, Any] = {
    "model_name": "google/gemma-2-2b",
    "model_kind": "transcoder_set",
    "feature_input_hook": "ln2.hook_normalized",
    "feature_output_hook": "hook_mlp_out",
}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the folder of a repository in a cache, beside a hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "only_cached", lambda place: True)

    def make(repository: str) -> Path:
        commit = "0" * 40
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        return folder / "snapshots" / commit

    return make


def layer(draw: Any) -> dict[str, torch.Tensor]:
    return {"W_enc": draw(F, D), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}


def test_a_layer_of_a_set_is_found_by_its_name_without_its_ending(
    published: Any, draw: Any
) -> None:
    inner = published("org/sets") / "set"
    inner.mkdir()
    (inner / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    own = [layer(draw) for _ in range(11)]
    for i, tensors in enumerate(own):
        safetensors.torch.save_file(tensors, inner / f"layer_{i}.safetensors")
    for name in ("set/layer_10", "set/layer_10.safetensors", "set/layer_10@main"):
        found = monosem.load(f"org/sets/{name}")
        assert found.site == "blocks.10.ln2.hook_normalized"
        assert torch.equal(found.b_dec, own[10]["b_dec"])
    with pytest.raises(UnknownNameError, match="`layer_11`"):
        monosem.load("org/sets/set/layer_11")
    with pytest.raises(ArtifactMissingError, match=r"no `nothing/layer_1` in `org/sets`"):
        monosem.load("org/sets/nothing/layer_1")


def test_layers_of_openai_at_the_root_are_found_too(published: Any, draw: Any) -> None:
    root = published("org/openai")
    for i in (0, 1):
        names = {"pre_bias": draw(D), "encoder.weight": draw(F, D)}
        names |= {"latent_bias": draw(F), "decoder.weight": draw(D, F)}
        torch.save(names, root / f"{i}.pt")
    assert torch.equal(monosem.load("org/openai/1").b_dec, names["pre_bias"])


@pytest.fixture
def linked(published: Any, draw: Any) -> dict[str, Any]:
    """A set whose `config.yaml` lists files of Gemma Scope, of another repository and of its own."""
    theirs = published("google/scope") / "layer_0" / "average_l0_7"
    theirs.mkdir(parents=True)
    weights = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
    weights["threshold"] = draw(F, positive=True)
    np.savez(theirs / "params.npz", **{name: t.numpy() for name, t in weights.items()})
    second = {name.replace("W_", "w_"): tensor for name, tensor in weights.items()}
    second["affine_skip_connection"] = draw(D, D)
    safetensors.torch.save_file(second, theirs / "params.safetensors")
    others = published("org/layers")
    plain = layer(draw)
    safetensors.torch.save_file(plain, others / "layer_1.safetensors")
    links = [
        "hf://google/scope/layer_0/average_l0_7/params.npz",
        "hf://org/layers/layer_1.safetensors?revision=main",
        "hf://google/scope/layer_0/average_l0_7/params.safetensors@main",
        "hf://org/unknown/layer_3.safetensors",
        "../elsewhere.safetensors",
    ]
    own = published("org/linked")
    (own / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"transcoders": links}))
    return {"folder": own, "first": weights, "plain": plain, "second": second}


def test_links_of_a_set_are_followed_when_they_are_asked_for(linked: Any) -> None:
    first = monosem.load("org/linked/layer_0")
    weights = {name: tensor.double() for name, tensor in linked["first"].items()}
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(1)).double()
    pre = x @ weights["W_enc"] + weights["b_enc"]
    latents = pre.relu() * (pre > weights["threshold"])
    y = latents @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(first(x.float()).double(), y, atol=1e-4, rtol=1e-4)
    assert (first.site, first.origin.processing) == (
        "blocks.0.ln2.hook_normalized",
        "layer_norm_folded",
    )
    second = monosem.load(linked["folder"] / "layer_1")
    assert torch.equal(second.b_dec, linked["plain"]["b_dec"])
    assert second.site == "blocks.1.ln2.hook_normalized"
    third = monosem.load("org/linked/layer_2")
    skipped = y + x @ linked["second"]["affine_skip_connection"].double()
    torch.testing.assert_close(third(x.float()).double(), skipped, atol=1e-4, rtol=1e-4)


def test_links_that_lead_nowhere_are_named(linked: Any) -> None:
    with pytest.raises(ArtifactMissingError, match=r"`org/unknown` is not in the cache.*reached"):
        monosem.load("org/linked/layer_3")
    with pytest.raises(
        ArtifactMissingError, match=r"`\.\./elsewhere\.safetensors`, which is neither"
    ):
        monosem.load("org/linked/layer_4")
    file = linked["folder"] / "config.yaml"
    file.write_text(file.read_text().replace("transcoder_set", "cross_layer_transcoder"))
    with pytest.raises(ArtifactMissingError, match=r"no `W_enc_0\.safetensors`.*not followed"):
        monosem.load(linked["folder"])
