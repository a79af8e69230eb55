import json

import pytest

from monosem.cli import evaluate as verb
from monosem.cli import main
from monosem.core import artifact
from monosem.core.errors import ArtifactKindError, ConfigError, ShapeMismatchError
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics.evaluate import EvaluateConfig
from monosem.metrics.record import KIND, evaluation
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

SITE = "blocks.0.mlp.hook_post"
FEW = ["--n-loss-tokens", "200", "--n-mean-tokens", "200", "--n-density-tokens", "500"]


@pytest.fixture(scope="module")
def work(tmp_path_factory, written):
    """A folder with text, a token store, a language model, and a dictionary that records both."""
    folder = tmp_path_factory.mktemp("work")
    model, store = written(folder)
    save(folder / "topk", model, store, d_in=24)
    return folder


def save(path, model, store, d_in):
    TopK(TopKConfig(d_in=d_in, n_latents=32, k=4)).save(
        path, site=SITE, model=f"{model.name} {model.hash}", tokens=store.hash
    )


def test_a_dictionary_folder_is_enough_to_find_model_and_tokens(work, capsys):
    assert main(["evaluate", str(work / "topk"), "--json", *FEW]) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results["dictionaries"]) == ["topk", "neurons", "neurons_all"]
    assert set(results["language_model"]) == {"loss", "unigram", "bigram", "trigram"}
    for name, (low, high) in results["language_model_intervals"].items():
        assert low < results["language_model"][name] < high
    assert set(results["language_model_intervals"]) == set(results["language_model"])
    assert 500 <= results["dictionaries"]["topk"]["n_density_tokens"] < 500 + 16


def test_many_dictionaries_stand_below_one_another(work, tmp_path, capsys):
    model = LanguageModel.load(work / "model")
    store = TokenStore.open(work / "tokens")
    runs = {f"topk-k{k}": TopK(TopKConfig(d_in=24, n_latents=32, k=k)) for k in (1, 2, 3)}
    config = EvaluateConfig(n_loss_tokens=200, n_mean_tokens=200, n_density_tokens=500)
    results = evaluation(runs, model, store, config, site=SITE, language_model=False)
    table = verb.report(results).split("\n\n")
    assert [line.split()[0] for line in table[0].splitlines()[2:]] == [
        *runs,
        "neurons",
        "neurons_all",
    ]
    assert table[1].startswith("dictionary") and "delta CE" in table[1]
    assert max(map(len, (*table[0].splitlines(), *table[1].splitlines()))) <= 100
    two = {name: results["dictionaries"][name] for name in ("topk-k1", "topk-k2")}
    beside = verb.report({**results, "dictionaries": two}).splitlines()[0].split()
    assert beside == ["topk-k1", "topk-k2"]


def test_results_are_kept_used_again_and_made_anew_only_on_request(work, capsys, tmp_path):
    command = ["evaluate", str(work / "topk"), *FEW, "--out", str(tmp_path / "kept")]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "loss recovered (zero)" in first.out
    assert "ordinary positions only" in first.out
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "is already there" in again.err
    assert main([*command, "--seed", "1"]) == 2
    assert "`--fresh`" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--fresh"]) == 0
    kept = artifact.read(tmp_path / "kept", KIND).summary
    assert kept["dictionaries"]["topk"]["l0"] == pytest.approx(4, abs=1)


def test_fresh_throws_a_damaged_evaluation_away_and_without_it_the_message_says_so(
    work, capsys, tmp_path
):
    command = ["evaluate", str(work / "topk"), *FEW, "--out", str(tmp_path / "kept")]
    assert main(command) == 0
    config = tmp_path / "kept" / "config.json"
    whole = artifact.read(tmp_path / "kept", KIND)
    config.write_text(config.read_text()[:-300])
    capsys.readouterr()
    assert main(command) == 2
    assert "again with `monosem evaluate` and `--fresh`" in capsys.readouterr().err
    assert main([*command, "--fresh"]) == 0
    assert artifact.read(tmp_path / "kept", KIND).summary == whole.summary


def test_a_dictionary_of_another_width_is_refused(work, tmp_path):
    model, store = LanguageModel.load(work / "model"), verb.TokenStore.open(work / "tokens")
    save(tmp_path / "wide", model, store, d_in=32)
    with pytest.raises(ShapeMismatchError, match="reads width 32"):
        verb.main([str(tmp_path / "wide"), "--tokens", str(work / "tokens"), *FEW])


def test_a_dictionary_of_another_site_is_refused(work):
    with pytest.raises(ConfigError, match=r"was trained at `blocks.0.mlp.hook_post`, not at"):
        verb.main([str(work / "topk"), "--site", "blocks.0.hook_resid_post", *FEW])


def test_tokens_of_another_tokenizer_are_refused(work, tmp_path):
    config = TokensConfig(
        corpora=(str(work / "text"),), tokenizer="train:270", context=16, heldout_share=0.3
    )
    build_token_store(config, tmp_path / "tokens")
    assert main(["evaluate", str(work / "topk"), "--tokens", str(tmp_path / "tokens"), *FEW]) == 2


def test_a_missing_token_store_is_named_before_the_model_is_loaded(work, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(work / "topk", tmp_path / "alone" / "deep" / "topk")
    monkeypatch.setattr(LanguageModel, "load", None)
    with pytest.raises(ConfigError, match="Pass `--tokens`"):
        verb.main([str(tmp_path / "alone" / "deep" / "topk")])


def test_other_folders_and_targets_are_refused(work, tmp_path):
    with pytest.raises(ArtifactKindError, match="holds a token store"):
        verb.main([str(work / "tokens")])
    with pytest.raises(ArtifactKindError, match="already holds a token store"):
        verb.main([str(work / "topk"), "--out", str(work / "tokens")])
    assert main(["evaluate", str(tmp_path)]) == 2
