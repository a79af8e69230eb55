"""`monosem features`: the table, the JSON, what it finds by itself and what it refuses."""

import json
from pathlib import Path

import pytest

from monosem.cli import main
from monosem.dictionaries.topk import TopK
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore


@pytest.fixture(scope="module")
def model_folder(
    model: LanguageModel, store: TokenStore, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.model.save_pretrained(folder)
    store.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dictionary_folder(
    dictionary: TopK, model_folder: Path, store: TokenStore, tmp_path: Path
) -> Path:
    loaded = LanguageModel.load(model_folder, device="cpu")
    dictionary.save(
        tmp_path / "sae" / "topk",
        site="blocks.0.mlp.hook_post",
        model=f"{model_folder} {loaded.hash}",
        tokens=store.hash,
    )
    return tmp_path / "sae" / "topk"


SMALL = ["--n-tokens", "300", "--batch-tokens", "128", "--matmul", "fp32"]


def test_it_builds_from_a_dictionary_folder_and_prints_a_table(
    dictionary_folder: Path, store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "features"), "--device", "cpu"]
    given = ["features", str(dictionary_folder), "--tokens", str(store.path), *out, *SMALL]
    assert main(given) == 0
    shown = capsys.readouterr()
    for word in ("alive", "ultralow", "dead", "bytes a latent", "bytes a token", "monosem explore"):
        assert word in shown.out
    assert main([*given, "--json"]) == 0
    shown = capsys.readouterr()
    counts = json.loads(shown.out)
    assert counts["n_alive"] + counts["n_ultralow"] + counts["n_dead"] == counts["n_latents"] == 40
    assert "already there" in shown.err
    assert main([*given, "--n-top", "3"]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert main([*given, "--n-top", "3", "--fresh"]) == 0


def test_it_describes_the_neurons_of_a_site(
    model_folder: Path, store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = ["--neurons", "blocks.1.mlp.hook_post", "--model", str(model_folder)]
    rest = ["--tokens", str(store.path), "--out", str(tmp_path / "neurons"), "--device", "cpu"]
    assert main(["features", *site, *rest, *SMALL, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["dictionary"], counts["n_latents"]) == ("neurons", 24)


def test_what_cannot_work_is_one_sentence_on_stderr(
    dictionary_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, words in (
        ([], "one of the two"),
        (["--neurons", "blocks.0.mlp.hook_post"], "needs `--model` and `--tokens`"),
        ([str(tmp_path / "nothing")], "There is no"),
        ([str(dictionary_folder), "--tokens", str(dictionary_folder)], "not a token store"),
        ([str(dictionary_folder), "--out", str(dictionary_folder)], "already holds a dictionary"),
    ):
        assert main(["features", *given]) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
