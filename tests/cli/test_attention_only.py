"""`monosem attention-only` and `monosem study` from the command line."""

import json
import sys

import pytest

from monosem import cli
from monosem.cli import attention_only, study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama on disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(place)
    return place


def test_a_folder_is_converted_compared_and_loads(folder, tmp_path, capsys):
    import monosem

    out = tmp_path / "heads"
    given = [str(folder), "--out", str(out), "--n-contexts", "2", "--json"]
    assert attention_only.main(given) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["size"]["heads_before"] == 4
    assert report["size"]["heads_added"] == 2 * (20 * 2 + 20 * 3)
    assert report["size"]["columns_added"] == 42
    assert report["compared"]["argmax_agreement"] == 1.0
    assert report["compared"]["largest_difference"] < 1e-4
    assert json.loads((out / "provenance.json").read_text())["model"] == str(folder)
    assert not list(tmp_path.glob("*.partial"))
    assert monosem.LanguageModel.load(out, device="cpu").n_layers == 2
    assert cli.main(["attention-only", *given]) == 2  # the folder is taken


def test_the_report_is_a_table_without_json(folder, tmp_path, capsys):
    given = [str(folder), "--out", str(tmp_path / "x"), "--n-contexts", "1", "--dtype", "float64"]
    assert attention_only.main(given) == 0
    shown = capsys.readouterr().out
    assert "heads added" in shown
    assert "argmax agreement" in shown


@pytest.mark.parametrize(
    ("extra", "says"), [(["--dtype", "int8"], "`dtype`"), (["--n-contexts", "0"], "`n_contexts`")]
)
def test_what_cannot_work_is_said_before_a_model_is_read(tmp_path, capsys, extra, says):
    given = ["attention-only", "nowhere", "--out", str(tmp_path / "y"), *extra]
    assert cli.main(given) == 2
    assert says in capsys.readouterr().err


def test_text_that_cannot_be_read_is_said(tmp_path, capsys):
    given = ["1L-a", "--out", str(tmp_path / "z"), "--text", str(tmp_path / "none.txt")]
    assert cli.main(["attention-only", *given]) == 2
    assert "cannot be read as text" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()


def test_every_claim_of_the_study_holds_of_a_model_of_ones_own_too(folder, capsys, monkeypatch):
    from monosem.studies.attention_only import models

    module = sys.modules[models.__module__]
    monkeypatch.setattr(module, "embedded_names", tuple)  # those of the package: tests/studies
    given = ["attention-only", "--scale", "small", "--model", str(folder), "--json"]
    assert study.main(given) == 0
    claims = json.loads(capsys.readouterr().out)
    assert sum(c["claim"].startswith(folder.name) for c in claims) == 2
    assert len(claims) >= 12
    assert all(set(c) == {"claim", "dtype", "measured", "bound", "holds"} for c in claims)
    assert all(c["holds"] for c in claims)


def test_an_unknown_study_or_scale_is_answered(capsys):
    assert cli.main(["study", "attention"]) == 2
    assert "attention-only" in capsys.readouterr().err
    assert cli.main(["study", "attention-only", "--scale", "huge"]) == 2
    assert "small, full" in capsys.readouterr().err
