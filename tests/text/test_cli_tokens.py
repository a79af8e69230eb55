"""`monosem tokens`: what it prints, what it reuses, what it refuses."""

import json

import pytest

from monosem.cli.tokens import main
from monosem.core.errors import ArtifactKindError, ConfigError, UnknownNameError
from monosem.text.tokens import TokenStore


def test_it_writes_a_store_and_prints_its_counts_as_table_and_json(
    folder, tmp_path, capsys
) -> None:
    out = tmp_path / "tokens"
    given = ["--corpora", str(folder), "--tokenizer", "train:300", "--context", "16"]
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    store = TokenStore.open(out)
    assert "train documents" in printed.out
    assert f"{store.n_tokens('train'):,}" in printed.out
    assert printed.err == ""
    assert main([*given, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    counts = json.loads(printed.out)
    assert counts["splits"]["train"]["tokens"] == store.n_tokens("train")
    assert counts["corpora"][str(folder)]["heldout"]["tokens"] == store.n_tokens("heldout")
    assert counts["policy"] == {"bos": 0, "separator": 0, "special": [0]}
    assert "already there" in printed.err


def test_text_too_little_to_hold_any_out_is_said_at_once(folder, tmp_path, capsys) -> None:
    given = ["--corpora", str(folder), "--tokenizer", "train:300"]
    main([*given, "--out", str(tmp_path / "all"), "--heldout-share", "0"])
    assert "No document is held out" in capsys.readouterr().out
    main([*given, "--out", str(tmp_path / "half"), "--heldout-share", "0.5"])
    assert "No document" not in capsys.readouterr().out


def test_another_config_is_refused_until_it_is_asked_for_afresh(folder, tmp_path) -> None:
    given = [
        "--corpora",
        str(folder),
        "--tokenizer",
        "train:300",
        "--out",
        str(tmp_path / "tokens"),
    ]
    main(given)
    with pytest.raises(ConfigError, match="--fresh"):
        main([*given, "--context", "16"])
    assert TokenStore.open(tmp_path / "tokens").context == 128
    main([*given, "--context", "16", "--fresh"])
    assert TokenStore.open(tmp_path / "tokens").context == 16


def test_a_folder_of_another_kind_is_never_written_over(folder, tmp_path) -> None:
    given = ["--corpora", str(folder), "--tokenizer", "train:300", "--out", str(folder), "--fresh"]
    with pytest.raises(ArtifactKindError, match="holds other files"):
        main(given)


def test_an_unknown_tokenizer_is_refused_before_anything_is_written(folder, tmp_path) -> None:
    given = ["--corpora", str(folder), "--tokenizer", "no-such-tokenizer"]
    with pytest.raises(UnknownNameError, match="`no-such-tokenizer`"):
        main([*given, "--out", str(tmp_path / "tokens")])
    assert not (tmp_path / "tokens").exists()
