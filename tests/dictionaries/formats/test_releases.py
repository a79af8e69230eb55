"""Well-known releases by name: where they lie, and what is known of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

import monosem
from monosem.core import hub
from monosem.core.errors import ArtifactMissingError, ConfigError
from monosem.dictionaries.formats import loading, releases, saelens_writing
from monosem.dictionaries.formats.conversion import convert
from monosem.dictionaries.formats.releases import release
from monosem.dictionaries.formats.specification import Axes, Place, Specification


@pytest.mark.parametrize(
    ("name", "repository", "inner", "model", "site", "processing"),
    [
        (
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            "google/gemma-scope-2b-pt-res",
            "layer_20/width_16k/average_l0_71",
            "google/gemma-2-2b",
            "blocks.20.hook_resid_post",
            "none",
        ),
        (
            "gemma-scope-9b-it-res/layer_20/width_131k/average_l0_81",
            "google/gemma-scope-9b-it-res",
            "layer_20/width_131k/average_l0_81",
            "google/gemma-2-9b-it",
            "blocks.20.hook_resid_post",
            "none",
        ),
        (
            "gemma-scope-2-270m-pt-mlp-all/layer_3_width_16k_l0_big",
            "google/gemma-scope-2-270m-pt",
            "mlp_out_all/layer_3_width_16k_l0_big",
            "google/gemma-3-270m",
            "blocks.3.hook_mlp_out",
            "none",
        ),
        (
            "llama_scope_lxm_32x/l15m_32x",
            "fnlp/Llama3_1-8B-Base-LXM-32x",
            "Llama3_1-8B-Base-L15M-32x",
            "meta-llama/Llama-3.1-8B",
            "blocks.15.hook_mlp_out",
            "none",
        ),
        (
            "gpt2-small-res-jb/blocks.8.hook_resid_pre",
            "jbloom/GPT2-Small-SAEs-Reformatted",
            "blocks.8.hook_resid_pre",
            "gpt2",
            "blocks.8.hook_resid_pre",
            "centred",
        ),
        (
            "gpt2-small-hook-z-kk/blocks.11.hook_z",
            "ckkissane/attn-saes-gpt2-small-all-layers",
            "gpt2-small_L11_Hcat_z_lr1.20e-03_l13.00e+00_ds24576_bs4096_dc3.16e-06_rsanthropic_rie25000_nr4_v9.pt",
            "gpt2",
            "blocks.11.attn.hook_z",
            "centred, layer_norm_folded, value_biases_folded",
        ),
        (
            "pythia-70m-deduped-res-sm/blocks.3.hook_resid_post",
            "ctigges/pythia-70m-deduped__res-sm_processed",
            "3-res-sm",
            "EleutherAI/pythia-70m-deduped",
            "blocks.3.hook_resid_post",
            "none",
        ),
    ],
)
def test_a_name_says_where_it_lies(name, repository, inner, model, site, processing):
    found = release(name)
    assert (found.named.repository, found.named.inner) == (repository, inner)
    assert (found.place.model, found.place.site) == (model, site)
    assert found.place.processing == processing


def test_other_names_are_none_of_ours(tmp_path):
    for name in ("runs/demo/train/topk", "google/gemma-scope-2b-pt-res/layer_20", "topk", ""):
        assert release(name) is None


def test_a_release_without_such_a_dictionary_says_what_its_names_look_like():
    with pytest.raises(ArtifactMissingError, match=r"look like `gpt2-small-res-jb/blocks.8.hook"):
        release("gpt2-small-res-jb/layer_8")
    with pytest.raises(ArtifactMissingError, match="layers 0 to 11"):
        release("gpt2-small-hook-z-kk/blocks.12.hook_z")


def test_without_the_hub_it_is_said_what_to_do():
    with pytest.raises(ArtifactMissingError, match=r"gemma-scope-2b-pt-res.*cannot be reached"):
        monosem.load("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")


def test_what_the_file_does_not_say_comes_from_the_table(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    inner = "layer_20/width_16k/average_l0_71"
    (tmp_path / inner).mkdir(parents=True)
    np.savez(
        tmp_path / inner / "params.npz",
        W_enc=random.normal(size=(6, 9)).astype("f"),
        W_dec=random.normal(size=(9, 6)).astype("f"),
        b_enc=random.normal(size=9).astype("f"),
        b_dec=random.normal(size=6).astype("f"),
        threshold=np.full(9, 0.3, dtype="f"),
    )
    asked = []
    monkeypatch.setattr(
        hub, "download", lambda named: asked.append(named) or tmp_path / named.inner
    )
    dictionary = monosem.load(f"gemma-scope-2b-pt-res/{inner}")
    assert asked[0].repository == "google/gemma-scope-2b-pt-res"
    assert dictionary.site == "blocks.20.hook_resid_post"
    assert "gemma-2-2b" in dictionary.origin.model
    assert loading.is_foreign(f"gemma-scope-2b-pt-res/{inner}")


def test_what_is_converted_keeps_what_the_table_knows(tmp_path, monkeypatch, draw):
    name = "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    place = Place(site="blocks.8.hook_resid_pre")
    weights = dict(W_enc=draw(4, 7), W_dec=draw(7, 4), b_enc=draw(7), b_dec=draw(4))
    axes = Axes(subtract_b_dec=True)
    s = Specification(activation="relu", axes=axes, place=place, **weights)
    (tmp_path / "hub").mkdir()
    saelens_writing.write(s, tmp_path / "hub")
    monkeypatch.setattr(hub, "download", lambda named: tmp_path / "hub")
    assert loading.specification(tmp_path / "hub").place.processing == "unknown"
    convert(name, tmp_path / "out", to="saelens")
    found = loading.specification(tmp_path / "out").place
    assert (found.model, found.processing) == ("gpt2", "centred")
    with pytest.raises(ConfigError, match="centred"):
        convert(name, tmp_path / "other", to="sparsify")


def test_a_folder_here_is_preferred_to_a_release(tmp_path, monkeypatch):
    (tmp_path / "gpt2-small-res-jb").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactMissingError, match="no such file or folder"):
        monosem.load("gpt2-small-res-jb/blocks.8.hook_resid_pre")


def test_the_table_agrees_with_sae_lens_where_that_is_installed():
    spec = importlib.util.find_spec("sae_lens")
    if spec is None or spec.origin is None:
        pytest.skip("sae-lens is not installed")
    theirs = yaml.safe_load((Path(spec.origin).parent / "pretrained_saes.yaml").read_text())
    checked = set()
    for name, row in theirs.items():
        if name.endswith("-canonical"):
            continue
        for sae in row["saes"]:
            try:
                found = release(f"{name}/{sae['id']}")
            except ArtifactMissingError:
                assert sae["id"].startswith("embedding/"), (name, sae["id"])
                continue
            if found is not None:
                assert found.named.repository == row["repo_id"], name
                assert found.named.inner == sae["path"], (name, sae["id"])
                checked.add(name)
    assert len(checked) > 60


def test_every_row_has_an_example_that_it_takes():
    for row in releases._rows():
        assert release_of_row(row).place.site


def release_of_row(row):
    import re

    name = re.sub(r"\(\?P<\w+>([\w-]+)(?:\|[^)]*)?\)\??", r"\1", row["release"])
    return release(f"{name}/{row['example']}")
