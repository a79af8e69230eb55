"""Loading by name or folder: what works, and what each broken folder says."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    UnknownNameError,
    UnsupportedModelError,
)
from monosem.models import loading
from monosem.models.language_model import LanguageModel


@pytest.fixture
def folder(make, tmp_path):
    path = tmp_path / "lm"
    make("gpt2").save_pretrained(path)
    return path


def test_a_folder_without_a_tokenizer_loads_frozen_and_in_evaluation_mode(make, folder, tokens):
    model = LanguageModel.load(folder, device="cpu")
    assert model.tokenizer is None
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())
    assert torch.equal(model.logits(tokens), LanguageModel(make("gpt2")).logits(tokens))


def test_weights_stored_in_float16_are_float32_in_memory(folder, tokens):
    weights = {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    model = LanguageModel.load(folder, device="cpu")
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}
    assert model.logits(tokens).dtype == torch.float32
    half = LanguageModel.load(folder, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


def test_an_embedded_model_is_found_by_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "EMBEDDED", tmp_path)
    model = LanguageModel.load("lm", device="cpu")
    assert model.name == "lm"
    with pytest.raises(UnknownNameError, match="Did you mean `lm`"):
        LanguageModel.load("lmm", device="cpu")


def test_the_hash_is_of_the_content_not_of_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = (LanguageModel.load(p, device="cpu") for p in (folder, tmp_path / "elsewhere"))
    assert here.hash == there.hash and len(here.hash) == 16
    with torch.no_grad():
        there.model.transformer.h[0].mlp.c_fc.bias[3] += 1e-6
    assert LanguageModel(there.model).hash != here.hash


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no-such-model", UnknownNameError, "no folder has that name"),
        ("no/such", UnknownNameError, "no folder has that name"),
        ("./no/such/folder", ArtifactMissingError, "does not exist"),
    ],
)
def test_an_unknown_name_says_so(name, error, message):
    with pytest.raises(error, match=message):
        LanguageModel.load(name)


def test_a_folder_without_a_configuration_says_so(tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"no `config\.json`"):
        LanguageModel.load(tmp_path)


def damage_truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def damage_gone(folder):
    (folder / "model.safetensors").unlink()


def damage_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def damage_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def damage_config(folder):
    (folder / "config.json").write_text("{not json")


def damage_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{not json")


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncated,
        damage_gone,
        damage_tensor,
        damage_shape,
        damage_config,
        damage_tokenizer,
    ],
)
def test_a_damaged_folder_is_refused(folder, damage):
    damage(folder)
    with pytest.raises(ArtifactCorruptError, match="lm`"):
        LanguageModel.load(folder, device="cpu")


def test_an_unsupported_family_is_refused_before_its_weights_are_read(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bloom"}))
    damage_truncated(folder)
    with pytest.raises(UnsupportedModelError, match="`bloom`"):
        LanguageModel.load(folder, device="cpu")


def test_a_model_says_in_a_line_what_it_is(folder):
    said = repr(LanguageModel.load(folder, device="cpu"))
    assert said.startswith(f"<LanguageModel {folder}: ")
    assert said.endswith(", on cpu>")


def test_a_preset_without_weights_says_how_to_make_them() -> None:
    with pytest.raises(UnknownNameError, match="monosem pretrain 2L-gelu"):
        LanguageModel.load("2L-gelu")
