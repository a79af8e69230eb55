"""Dictionaries by folder, file and name on the hub, from and into every format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

import monosem
from monosem import cli
from monosem.cli.evaluate import open_dictionaries, open_model
from monosem.core import hub
from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactKindError,
    ArtifactMissingError,
    ConfigError,
    UnknownNameError,
)
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.formats import table
from monosem.dictionaries.formats.build import dictionary_of
from monosem.dictionaries.formats.conversion import convert
from monosem.dictionaries.formats.loading import is_foreign, load, specification
from monosem.dictionaries.formats.specification import Axes, Place, Specification
from monosem.dictionaries.relu import ReLU
from monosem.dictionaries.topk import TopK
from monosem.dictionaries.wiring import Wiring

D, F, K = 8, 24, 3
PLACE = Place(
    model="gpt2",
    site="blocks.2.hook_resid_post",
    processing="none",
    context=64,
    prepend_bos=True,
)
TRANSCODED = dataclasses.replace(
    PLACE, site="blocks.2.hook_resid_mid", target="blocks.2.hook_mlp_out"
)


@pytest.fixture
def foreign(draw: Any, tmp_path: Path) -> Path:
    """A TopK in SAELens' layout."""
    W_dec = torch.nn.functional.normalize(draw(F, D), dim=1)
    s = Specification(
        activation="topk",
        axes=Axes(subtract_b_dec=True),
        k=K,
        W_enc=draw(D, F),
        W_dec=W_dec,
        b_enc=draw(F),
        b_dec=draw(D),
        place=PLACE,
    )
    (tmp_path / "theirs").mkdir()
    table.named("saelens").write(s, tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def hub_cache(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that cannot be reached, and a cache that holds `org/dicts` with one dictionary in a folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "only_cached", lambda place: True)
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--org--dicts"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    inner = repository / "snapshots" / commit / "layers" / "2"
    inner.parent.mkdir(parents=True)
    foreign.rename(inner)
    return repository


def rows() -> torch.Tensor:
    return torch.randn(10, D, generator=torch.Generator().manual_seed(3))


def test_a_foreign_folder_becomes_an_ordinary_dictionary(foreign: Path) -> None:
    dictionary = monosem.load(foreign)
    assert isinstance(dictionary, TopK)
    assert (dictionary.site, dictionary.origin.model) == (PLACE.site, "gpt2")
    assert (dictionary.origin.context, dictionary.origin.prepend_bos) == (64, True)
    assert dictionary.origin.source == "saelens topk"
    assert dictionary.conventions.folded
    assert ("read from", "saelens topk") in dictionary.summary()


def test_our_own_are_loaded_as_they_are(build: Any, tmp_path: Path) -> None:
    own = build("jumprelu")
    own.save(tmp_path / "own", site="hook_embed")
    again = monosem.load(tmp_path / "own")
    assert again.config == own.config
    assert not is_foreign(tmp_path / "own")
    weights = tmp_path / "own" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactCorruptError, match="truncated"):
        monosem.load(tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text("{")
    with pytest.raises(ArtifactCorruptError, match="not readable JSON"):
        monosem.load(tmp_path / "own")


def test_what_is_written_for_publishing_comes_back_with_its_card(
    foreign: Path, tmp_path: Path
) -> None:
    dictionary = monosem.load(foreign)
    dictionary.save_pretrained(tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text("utf-8")
    for said in ('base_model: "gpt2"', PLACE.site, "saelens topk", "| k | 3 |", "library_name"):
        assert said in card
    (tmp_path / "published" / "README.md").write_text("Edited since, as cards are.")
    again = Dictionary.from_pretrained(tmp_path / "published")
    assert torch.equal(again(rows()), dictionary(rows()))
    assert again.origin == dictionary.origin
    assert isinstance(TopK.from_pretrained(tmp_path / "published"), TopK)
    with pytest.raises(ArtifactKindError, match="`topk`, not a `ReLU`"):
        ReLU.from_pretrained(tmp_path / "published")


def test_a_set_is_loaded_by_the_names_in_it(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    s = specification(foreign)
    for layer in range(3):
        contents = {
            "pre_bias": s.b_dec + layer,
            "encoder.weight": s.W_enc.T.contiguous(),
            "latent_bias": s.b_enc,
            "decoder.weight": s.W_dec.T.contiguous(),
        }
        torch.save(contents, tmp_path / "layers" / f"{layer}.pt")
    second = monosem.load(tmp_path / "layers" / "2")
    assert torch.equal(second.b_dec, s.b_dec + 2)
    assert torch.equal(monosem.load(tmp_path / "layers" / "1.pt").b_dec, s.b_dec + 1)
    with pytest.raises(ConfigError, match="holds 3 dictionaries"):
        monosem.load(tmp_path / "layers")
    with pytest.raises(UnknownNameError, match="`7`"):
        monosem.load(tmp_path / "layers" / "7")


def test_what_is_nowhere_and_what_is_no_dictionary_is_said(tmp_path: Path, build: Any) -> None:
    for place in ("nowhere", tmp_path / "nothing", f"{tmp_path.name}/nothing/at/all@"):
        with pytest.raises(ArtifactMissingError, match="no such file or folder"):
            monosem.load(place)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ArtifactKindError, match=r"`notes\.txt`"):
        monosem.load(tmp_path)
    build("relu").save(tmp_path / "own", site="")
    with pytest.raises(UnknownNameError, match="`saelense`.*Did you mean `saelens`"):
        load(tmp_path / "own", format="saelense")


def test_a_name_on_the_hub_is_found_in_the_cache(hub_cache: Path) -> None:
    assert isinstance(monosem.load("org/dicts/layers/2"), TopK)
    assert isinstance(monosem.load("hf://org/dicts/layers/2@main"), TopK)
    with pytest.raises(
        ArtifactMissingError, match=r"no `layers/3` in `org/dicts`.*without reaching"
    ):
        monosem.load("org/dicts/layers/3")
    with pytest.raises(ArtifactMissingError, match="not in the cache.*cannot be reached"):
        monosem.load("org/others/layers/2")


def test_uploading_is_of_the_folder_that_was_written(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Made:
        repo_id, url = "org/name", "https://hub/org/name"

    class Api:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Made:
            seen["made"] = (name, private, exist_ok)
            return Made()

        def upload_folder(self, *, repo_id: str, folder_path: Path, path_in_repo: Any) -> None:
            names = sorted(p.name for p in folder_path.iterdir())
            seen["sent"] = (repo_id, names, path_in_repo)

    monkeypatch.setattr(hub.huggingface_hub, "HfApi", Api)
    address = monosem.load(foreign).push_to_hub("org/name", folder="layer_2", private=True)
    assert address == "https://hub/org/name/tree/main/layer_2"
    assert seen["made"] == ("org/name", True, True)
    files = ["README.md", "config.json", "weights.safetensors"]
    assert seen["sent"] == ("org/name", files, "layer_2")


WRITING = [format.name for format in table.FORMATS if format.write is not None]


@pytest.mark.parametrize("target", WRITING)
@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "gated"])
def test_every_format_gives_back_bit_for_bit_what_it_can_express(
    target: str, activation: str, draw: Any, tmp_path: Path
) -> None:
    own: dict[str, Any] = {
        "topk": {"k": K},
        "jumprelu": {"threshold": draw(F, positive=True)},
        "gated": {"r_mag": draw(F), "b_mag": draw(F)},
    }.get(activation, {})
    weights = {
        "W_enc": draw(D, F),
        "W_dec": torch.nn.functional.normalize(draw(F, D), dim=1),
        "b_enc": draw(F),
        "b_dec": draw(D),
    }
    transcodes = target == "circuit_tracer"  # it has nothing else
    direct = (target, activation) == ("dictionary_learning", "jumprelu")
    s = Specification(
        activation=activation,
        axes=Axes(subtract_b_dec=not (transcodes or direct)),
        wiring=Wiring(kind="transcoder") if transcodes else Wiring(),
        place=TRANSCODED if transcodes else PLACE,
        **weights,
        **own,
    )
    (tmp_path / "it").mkdir()
    try:
        table.named(target).write(s, tmp_path / "it")
    except ConfigError as error:
        assert target in str(error)
        assert (target, activation) in {
            ("sparsify", "jumprelu"),
            ("sparsify", "gated"),
            ("circuit_tracer", "gated"),
        }
        return
    again = specification(tmp_path / "it")
    assert again.axes == s.axes
    for name in ("W_enc", "W_dec", "b_dec", "b_enc", *own):
        before, after = getattr(s, name), getattr(again, name)
        if isinstance(before, torch.Tensor):
            assert torch.equal(before, after), name
        else:
            assert before == after
    assert torch.equal(dictionary_of(again)(rows()), dictionary_of(s)(rows()))


def test_conversion_by_the_command_line(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for to in ("dictionary_learning", "monosem", "sparsify"):
        out = tmp_path / "out" / to
        assert cli.main(["convert", str(foreign), "--to", to, "--out", str(out)]) == 0
        assert f"saelens → {to}" in capsys.readouterr().out
        assert torch.equal(monosem.load(out)(rows()), monosem.load(foreign)(rows()))
    again = tmp_path / "again"
    given = ["convert", str(out), "--to", "saelens", "--out", str(again), "--json"]
    assert cli.main(given) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["read_as"], done["written_as"]) == ("sparsify", "saelens")
    before = safetensors.torch.load_file(foreign / "sae_weights.safetensors")
    after = safetensors.torch.load_file(again / "sae_weights.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_what_is_wrong_with_files_is_said_with_their_place(foreign: Path, tmp_path: Path) -> None:
    config = json.loads((foreign / "cfg.json").read_text())
    (foreign / "cfg.json").write_text(json.dumps(config | {"k": None}))
    for attempt in (monosem.load, lambda place: convert(place, tmp_path / "out", to="sparsify")):
        with pytest.raises(
            ArtifactCorruptError, match=r"`.*theirs`, read as `saelens`: `k` is missing"
        ):
            attempt(foreign)


def test_a_conversion_that_cannot_be_leaves_nothing(
    foreign: Path, tmp_path: Path, draw: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gated = {"architecture": "gated", "d_in": D, "d_sae": F, "dtype": "float32"}
    gated |= {"metadata": {"sae_lens_version": "6.0.0"}}
    tensors = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_dec": draw(D)}
    tensors |= {name: draw(F) for name in ("b_gate", "b_mag", "r_mag")}
    (foreign / "cfg.json").write_text(json.dumps(gated))
    safetensors.torch.save_file(tensors, foreign / "sae_weights.safetensors")
    with pytest.raises(ConfigError, match="gated"):
        convert(foreign, tmp_path / "out", to="sparsify")
    with pytest.raises(ConfigError, match="read and not written"):
        convert(foreign, tmp_path / "out", to="openai")
    with pytest.raises(ArtifactKindError, match="already there"):
        convert(foreign, foreign, to="saelens")
    assert cli.main(["convert", str(foreign), "--to", "sparsify", "--out", "x"]) == 2
    assert "monosem convert: " in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theirs"]


def test_verbs_take_a_foreign_folder_where_they_take_a_dictionary(
    foreign: Path, tmp_path: Path, hub_cache: Path
) -> None:
    inner = next((hub_cache / "snapshots").iterdir()) / "layers" / "2"
    for place in (inner, Path("org/dicts/layers/2")):
        found = open_dictionaries(place)
        assert list(found) == ["2"]
        assert found["2"].site == PLACE.site
    with pytest.raises(ArtifactMissingError, match="no training run or dictionary"):
        open_dictionaries(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="does not record its language model"):
        open_model("", {"it": without_model(found["2"])}, "cpu")


def without_model(dictionary: Dictionary[Any]) -> Dictionary[Any]:
    dictionary.origin = dataclasses.replace(dictionary.origin, model="")
    return dictionary


def test_one_of_ours_converted_to_ours_keeps_what_training_needs(
    build: Any, tmp_path: Path
) -> None:
    own = build("matryoshka")
    own.save(tmp_path / "own", site="hook_embed")
    convert(tmp_path / "own", tmp_path / "again", to="monosem")
    assert monosem.load(tmp_path / "again").config == own.config


def test_the_radio_classifiers_dictionary_loads(data: Path) -> None:
    dictionary = monosem.load(data / "saes" / "rf-topk-sae" / "sae.pt")
    file = torch.load(data / "saes/rf-topk-sae/sae.pt", map_location="cpu", weights_only=True)
    t = {name: tensor.double().numpy() for name, tensor in file["state_dict"].items()}
    x = np.random.default_rng(0).normal(size=(30, 256)) * 3
    centred = x - file["mean"].double().numpy()
    pre = (centred - t["decoder.bias"]) @ t["encoder.weight"].T + t["encoder.bias"]
    kept = pre >= np.sort(pre, axis=1)[:, -file["config"]["k"]][:, None]
    latents = np.maximum(pre, 0) * kept
    found = dictionary.encode(torch.tensor(x, dtype=torch.float32)).detach()
    norms = np.linalg.norm(t["decoder.weight"], axis=0)
    assert dictionary.conventions.unit_rows == bool((np.abs(norms - 1) < 1e-6).all())
    np.testing.assert_allclose(found, latents, rtol=1e-3, atol=1e-4)


def test_the_routing_dictionary_gives_back_its_published_numbers(data: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = data / "saes" / "routing-sae"
    expected = json.loads((folder / "expected.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(data / "models" / "routing-gpt2")
    g = np.random.default_rng(7)
    slots, chosen = g.integers(0, 8, (20000, 4)), g.integers(0, 4, 20000)
    ids = torch.tensor(np.concatenate([slots, 8 + chosen[:, None]], axis=1))
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    after: list[torch.Tensor] = []
    hook = model.transformer.ln_f.register_forward_pre_hook(lambda _, args: after.append(args[0]))
    with torch.no_grad():
        model(ids)
    hook.remove()
    streams = {"before block 0": states[0], "after block 0": states[1], "after block 1": after[0]}
    for file in ("sae.pt", "sae.safetensors"):
        dictionary = monosem.load(folder / file)
        for name, stream in streams.items():
            x = stream.reshape(-1, 32)
            with torch.no_grad():
                latents = dictionary.encode(x)
                x_hat = dictionary.decode(latents)
            fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
            wanted = expected["measured"][name]
            assert float(fvu) == pytest.approx(wanted["fvu"], rel=2e-4)
            assert float((latents > 0).sum(1).double().mean()) == pytest.approx(
                wanted["l0"], abs=2e-4
            )
            relative = (x - x_hat).norm(dim=1) / x.norm(dim=1)
            assert float(relative.mean()) == pytest.approx(wanted["rel"], abs=2e-5)
