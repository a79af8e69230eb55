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
Refused = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Refused:
    """Run a command in an empty folder; it must refuse, and leave nothing there; what it says."""
    monkeypatch.chdir(tmp_path)

    def run(command: list[str | Path], keeps: tuple[str, ...] = ()) -> str:
        code = cli.main([str(word) for word in command])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.startswith(f"monosem {command[0]}: ")
        assert "Traceback" not in err
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keeps), "it wrote"
        return err

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
    assert "`empty`" in refused(tokens("empty"), keeps=("empty",))


def test_an_empty_file_is_no_corpus(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert "empty.txt" in refused(tokens("empty.txt"), keeps=("empty.txt",))


def test_a_missing_file_is_named(refused: Refused) -> None:
    said = refused(tokens("missing.txt"))
    assert "`missing.txt`" in said
    assert "Name a path that exists" in said


def test_a_misspelt_corpus_is_answered_with_the_nearest(refused: Refused) -> None:
    assert "Did you mean `python`?" in refused(tokens("pyton"))


def test_a_binary_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    assert "binary.txt" in refused(tokens("binary.txt"), keeps=("binary.txt",))


def test_a_file_of_an_unknown_kind_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    said = refused(tokens("picture.png"), keeps=("picture.png",))
    assert "picture.png" in said
    assert ".txt" in said


def test_tokens_of_another_vocabulary_are_refused(
    world, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["tokens", "--corpora", str(world.home / "corpus"), "--tokenizer", "train:280"]
    assert cli.main([*other, "--context", "32", "--out", str(world.home / "other")]) == 0
    capsys.readouterr()
    said = refused(train(world, tokens=world.home / "other"))
    assert "280" in said
    assert "300" in said


def test_an_unknown_site_is_answered_with_the_nearest(world, refused: Refused) -> None:
    assert f"Did you mean `{SITE}`" in refused(train(world, "--site", "blocks.0.mlp.hook_pots"))


def test_a_layer_that_the_model_has_not_is_refused(world, refused: Refused) -> None:
    said = refused(train(world, "--site", "blocks.7.mlp.hook_post"))
    assert "`blocks.7.mlp.hook_post`" in said


def test_an_unknown_dictionary_is_answered_with_the_nearest(world, refused: Refused) -> None:
    said = refused(train(world, "--architecture", "topq"))
    assert "`topq`" in said
    assert "Did you mean `topk`?" in said


def test_a_model_of_an_unknown_architecture_is_refused(world, refused: Refused, tmp_path: Path):
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "n_layer": 1}))
    command = [folder if word == world.home / "model/model" else word for word in train(world)]
    assert "bloom" in refused(command, keeps=("strange",))


def test_more_active_latents_than_there_are_is_refused(world, refused: Refused) -> None:
    assert "`k` must be in 1..n_latents=32, got 33" in refused(train(world, "--k", "33"))


def test_a_dictionary_of_another_site_is_refused(world, refused: Refused) -> None:
    command = ["evaluate", world.home / "sae/topk", "--site", "blocks.0.hook_resid_post"]
    read = ["--model", world.home / "model/model", "--tokens", world.home / "tokens"]
    said = refused([*command, *read, "--out", "new"])
    assert f"`{SITE}`" in said
    assert "`blocks.0.hook_resid_post`" in said


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
        said = refused([verb, world.home / "sae/topk", *read])
        assert "64" in said
        assert "512" in said


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
    said = refused(train(world, tokens=tmp_path / "tokens"), keeps=("tokens",))
    assert name in said
    assert "again" in said


def test_a_truncated_configuration_is_refused(world, refused: Refused, tmp_path: Path) -> None:
    shutil.copytree(world.home / "sae/topk", tmp_path / "sae")
    config = tmp_path / "sae/config.json"
    config.write_text(config.read_text()[:100])
    command = ["features", tmp_path / "sae", "--model", world.home / "model/model"]
    rest = ["--tokens", world.home / "tokens", "--out", "new"]
    assert "is not readable JSON" in refused([*command, *rest], keeps=("sae",))


def test_another_kind_of_artifact_is_refused_as_input(world, refused: Refused) -> None:
    said = refused(train(world, tokens=world.home / "features"))
    assert "feature database" in said
    assert "token store" in said
    assert "token store" in refused(["report", world.home / "tokens", "--out", "new.html"])


def test_another_kind_of_artifact_is_never_overwritten(
    world, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(world.home / "evaluation", tmp_path / "new")
    before = (tmp_path / "new/config.json").read_bytes()
    for command in (train(world), tokens(world.home / "corpus")):
        for asked in (command, [*command, "--fresh"]):
            said = refused(asked, keeps=("new",))
            assert "evaluation" in said
            assert "Choose another" in said
    assert (tmp_path / "new/config.json").read_bytes() == before


def test_foreign_files_are_never_overwritten(world, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/thesis.tex").touch()
    for command in (train(world), tokens(world.home / "corpus", "--fresh")):
        said = refused(command, keeps=("new",))
        assert "other files" in said
        assert "Choose" in said


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
