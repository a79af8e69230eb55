"""Bad input through the command line: exit code 2, the value and the remedy named, nothing written."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from monosem import cli
from monosem.core import artifact

SITE = "blocks.0.mlp.hook_post"
Refused = Callable[..., None]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Refused:
    """Run a command in an empty folder; it must say all of `says`, and leave nothing there."""
    monkeypatch.chdir(tmp_path)

    def run(command: list[str | Path], *says: str, keeps: tuple[str, ...] = ()) -> None:
        code = cli.main([str(word) for word in command])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.startswith(f"monosem {command[0]}: ")
        assert "Traceback" not in err
        for words in says:
            assert words in err, err
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keeps), "it wrote"

    return run


def train(world, *more: str | Path, tokens: Path | None = None) -> list[str | Path]:
    given = {"--model": world.home / "model/model", "--tokens": tokens or world.home / "tokens"}
    read = [word for pair in given.items() for word in pair]
    sizes = ["--n-latents", "32", "--n-tokens", "1024", "--batch-size", "256"]
    return ["train", *read, "--device", "cpu", *sizes, *more, "--out", "new"]


def tokens(corpus: str | Path, *more: str) -> list[str | Path]:
    return ["tokens", "--corpora", corpus, "--tokenizer", "train:300", *more, "--out", "new"]


def test_an_empty_folder_is_no_corpus(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tokens("empty"), "`empty`", keeps=("empty",))


def test_an_empty_file_is_no_corpus(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    refused(tokens("empty.txt"), "empty.txt", keeps=("empty.txt",))


def test_a_missing_file_is_named(refused: Refused) -> None:
    refused(tokens("missing.txt"), "`missing.txt`", "Name a path that exists")


def test_a_misspelt_corpus_is_answered_with_the_nearest(refused: Refused) -> None:
    refused(tokens("pyton"), "Did you mean `python`?")


def test_a_binary_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    refused(tokens("binary.txt"), "binary.txt", keeps=("binary.txt",))


def test_a_file_of_an_unknown_kind_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    refused(tokens("picture.png"), "picture.png", ".txt", keeps=("picture.png",))


def test_tokens_of_another_vocabulary_are_refused(
    world, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["tokens", "--corpora", str(world.home / "corpus"), "--tokenizer", "train:280"]
    assert cli.main([*other, "--context", "32", "--out", str(world.home / "other")]) == 0
    capsys.readouterr()
    refused(train(world, tokens=world.home / "other"), "280", "300")


def test_an_unknown_site_is_answered_with_the_nearest(world, refused: Refused) -> None:
    refused(train(world, "--site", "blocks.0.mlp.hook_pots"), f"Did you mean `{SITE}`")


def test_a_layer_that_the_model_has_not_is_refused(world, refused: Refused) -> None:
    refused(train(world, "--site", "blocks.7.mlp.hook_post"), "`blocks.7.mlp.hook_post`")


def test_an_unknown_dictionary_is_answered_with_the_nearest(world, refused: Refused) -> None:
    refused(train(world, "--dictionaries", "topq"), "`topq`", "Did you mean `topk`?")


def test_a_model_of_an_unknown_architecture_is_refused(world, refused: Refused, tmp_path: Path):
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "n_layer": 1}))
    command = [folder if word == world.home / "model/model" else word for word in train(world)]
    refused(command, "bloom", keeps=("strange",))


def test_more_active_latents_than_there_are_is_refused(world, refused: Refused) -> None:
    refused(train(world, "--k", "33"), "`k` must be in 1..n_latents=32, got 33")


def test_a_dictionary_of_another_site_is_refused(world, refused: Refused) -> None:
    command = ["evaluate", world.home / "sae/topk", "--site", "blocks.0.hook_resid_post"]
    read = ["--model", world.home / "model/model", "--tokens", world.home / "tokens"]
    refused([*command, *read, "--out", "new"], f"`{SITE}`", "`blocks.0.hook_resid_post`")


def test_a_dictionary_of_another_width_is_refused(
    world, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = world.home / "wider"
    short = ["--n-tokens", "512", "--batch-contexts", "4", "--precision", "fp32"]
    command = ["pretrain", "1L", *short, "--tokens", str(world.home / "tokens"), "--out", str(wide)]
    assert cli.main(command) == 0
    capsys.readouterr()
    for verb in ("evaluate", "features"):
        read = ["--model", wide / "model", "--tokens", world.home / "tokens", "--out", "new"]
        refused([verb, world.home / "sae/topk", *read], "64", "512")


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_artifact_is_refused(
    damage: str, world, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(world.home / "tokens", tmp_path / "tokens")
    name = next(iter(json.loads((tmp_path / "tokens/config.json").read_text())["files"]))
    file = tmp_path / "tokens" / name
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        file.unlink()
    refused(train(world, tokens=tmp_path / "tokens"), name, "again", keeps=("tokens",))


def test_a_truncated_configuration_is_refused(world, refused: Refused, tmp_path: Path) -> None:
    shutil.copytree(world.home / "sae/topk", tmp_path / "sae")
    config = tmp_path / "sae/config.json"
    config.write_text(config.read_text()[:100])
    command = ["features", tmp_path / "sae", "--model", world.home / "model/model"]
    refused([*command, "--tokens", world.home / "tokens", "--out", "new"], keeps=("sae",))


def test_another_kind_of_artifact_is_refused_as_input(world, refused: Refused) -> None:
    refused(train(world, tokens=world.home / "features"), "feature database", "token store")
    refused(["report", world.home / "tokens", "--out", "new.html"], "token store")


def test_another_kind_of_artifact_is_never_overwritten(
    world, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(world.home / "evaluation", tmp_path / "new")
    before = (tmp_path / "new/config.json").read_bytes()
    for command in (train(world), tokens(world.home / "corpus")):
        refused(command, "evaluation", "Choose another", keeps=("new",))
        refused([*command, "--fresh"], "evaluation", "Choose another", keeps=("new",))
    assert (tmp_path / "new/config.json").read_bytes() == before


def test_foreign_files_are_never_overwritten(world, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/thesis.tex").touch()
    for command in (train(world), tokens(world.home / "corpus", "--fresh")):
        refused(command, "other files", "Choose", keeps=("new",))


@pytest.mark.parametrize("verb", ["tokens", "pretrain", "train", "evaluate", "features", "report"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    verb: str,
    world,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for path in world.home.iterdir():
        if path.name != world.folder(verb).name:
            (tmp_path / path.name).symlink_to(path)
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)

    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "_seal", full)
    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(world.commands[verb]) == 2
    err = capsys.readouterr().err
    assert "full" in err
    assert "free some" in err
    after = {path.name for path in tmp_path.iterdir()}
    # A checkpoint of what was already learnt stays; nothing else does.
    assert after - set(before) <= {f"{world.folder(verb).name}.checkpoint"}
