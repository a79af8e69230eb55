import json

import pytest

from monosem import cli
from monosem.cli.train import _all_arguments, configurations, main
from monosem.core.errors import ConfigError, TokenizerMismatchError, UnknownNameError
from monosem.text.tokens import TokensConfig, build_token_store


@pytest.fixture(scope="module")
def folder(model, store, tmp_path_factory):
    """The model as a folder."""
    path = tmp_path_factory.mktemp("cli") / "model"
    model.model.save_pretrained(path)
    store.tokenizer.save_pretrained(path)
    return path


def options(folder, tokens, out) -> list[str]:
    words = f"--model {folder} --tokens {tokens} --out {out} --n-tokens 1024 --batch-size 128"
    return f"{words} --buffer-tokens 1024 --matmul fp32 --device cpu --n-latents 32".split()


def given(**knobs):
    kind = _all_arguments()
    return kind(**knobs)


def test_two_architectures_train_side_by_side(folder, store, tmp_path, capsys):
    arguments = options(folder, store.path, tmp_path / "run")
    chosen = ["--dictionaries", "topk", "relu", "--k", "4", "--l1", "0.02"]
    assert main([*arguments, *chosen]) == 0
    table = capsys.readouterr().out
    assert "topk" in table
    assert "1,024 tokens" in table
    assert main([*arguments, *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["dictionaries"]) == {"topk", "relu"}
    assert found["dictionaries"]["topk"]["l0"] <= 4


def test_a_knob_reaches_the_architectures_that_have_it():
    topk, relu = configurations(
        given(dictionaries=("topk", "relu"), n_latents=64, k=8, l1=0.5, seed=3)
    )
    assert (topk.k, topk.n_latents, topk.seed) == (8, 64, 3)
    assert (relu.l1, relu.n_latents, relu.seed) == (0.5, 64, 3)
    assert relu.resample_at == type(relu)().resample_at


def test_a_knob_that_no_architecture_has_is_refused():
    with pytest.raises(ConfigError, match=r"No `l1` in topk\. Leave `--l1` out"):
        configurations(given(dictionaries=("topk",), l1=0.1))


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("topq",), UnknownNameError, "Did you mean `topk`"),
        (("neurons",), UnknownNameError, "Unknown architecture `neurons`"),
    ],
)
def test_an_unknown_architecture_is_refused_with_the_nearest(names, error, words):
    with pytest.raises(error, match=words):
        configurations(given(dictionaries=names))


def test_k_above_the_latents_is_refused_before_anything_is_opened(capsys):
    code = cli.main(["train", "--tokens", "/nowhere", "--n-latents", "8", "--k", "9"])
    assert code == 2
    assert "1..n_latents=8" in capsys.readouterr().err


def test_tokens_of_another_tokenizer_are_refused(folder, tmp_path):
    (tmp_path / "text.txt").write_text("one two three four five six seven. " * 400)
    config = TokensConfig(
        corpora=(str(tmp_path / "text.txt"),),
        tokenizer="train:290",
        context=32,
        heldout_share=0.0,
    )
    store = build_token_store(config, tmp_path / "other")
    with pytest.raises(TokenizerMismatchError, match="monosem tokens --tokenizer"):
        main(options(folder, store.path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
