import dataclasses
import errno
import json
import os
import subprocess
from dataclasses import dataclass

import pytest

from monosem.core import artifact
from monosem.core.artifact import (
    check_target,
    configuration,
    is_artifact,
    peek,
    peek_summary,
    read,
    writing,
)
from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactKindError,
    ArtifactMissingError,
    StorageFullError,
)


def make(path, kind="thing", content=b"12345678"):
    with writing(path, kind=kind, config={"a": 1}, inputs={"x": "h"}, seed=3) as folder:
        (folder / "data.bin").write_bytes(content)
    return read(path, kind)


def test_written_artifact_reads_back(tmp_path):
    found = make(tmp_path / "a")
    assert found.config == {"a": 1}
    assert found.provenance["inputs"] == {"x": "h"}
    assert found.files["data.bin"]["bytes"] == 8
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_exception_leaves_nothing_behind_and_keeps_the_old_one(tmp_path):
    before = make(tmp_path / "a")
    with pytest.raises(RuntimeError), writing(tmp_path / "a", kind="thing", config={}) as folder:
        (folder / "data.bin").write_bytes(b"half")
        raise RuntimeError
    assert read(tmp_path / "a", "thing").hash == before.hash
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_killed_writer_are_swept(tmp_path):
    stray = tmp_path / ".a.partial-99999999"
    stray.mkdir()
    (stray / "half").write_bytes(b"x")
    make(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["partial", "old"])
def test_a_killed_writer_may_have_had_our_own_process_number(tmp_path, kind):
    stray = tmp_path / f".a.{kind}-{os.getpid()}"
    stray.mkdir()
    (stray / "half").write_bytes(b"x")
    make(tmp_path / "a")
    make(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_sweeping_keeps_to_its_own_name(tmp_path):
    make(tmp_path / "a.b")
    (tmp_path / "a.b").rename(tmp_path / ".a.b.old-99999999")
    make(tmp_path / "a")
    make(tmp_path / "[a]*")
    assert (tmp_path / ".a.b.old-99999999").is_dir()
    assert read(tmp_path / "[a]*", "thing").path.name == "[a]*"


def test_the_commit_is_that_of_this_package_and_of_no_repository_around_it(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    copy = tmp_path / "artifact.py"
    copy.write_text("")
    monkeypatch.setattr(artifact, "__file__", str(copy))
    assert make(tmp_path / "a").provenance["git_commit"] is None


def test_kill_between_the_two_renames_loses_nothing(tmp_path):
    old = make(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / ".a.old-99999999")
    with pytest.raises(RuntimeError), writing(tmp_path / "a", kind="thing", config={}):
        raise RuntimeError
    assert read(tmp_path / "a", "thing").hash == old.hash


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "config"])
def test_damage_is_named(tmp_path, damage):
    make(tmp_path / "a")
    file = tmp_path / "a" / "data.bin"
    if damage == "truncate":
        file.write_bytes(b"123")
    elif damage == "alter":
        file.write_bytes(b"12345679")
    elif damage == "remove":
        file.unlink()
    else:
        (tmp_path / "a" / "config.json").write_text('{"kind"')
    with pytest.raises(ArtifactCorruptError, match="again"):
        read(tmp_path / "a", "thing")


def test_a_damaged_configuration_may_be_written_over_where_it_still_says_what_it_was(tmp_path):
    whole = make(tmp_path / "a", kind="token store")
    config = tmp_path / "a" / "config.json"
    text = config.read_text()
    for damaged in (text[: len(text) // 2], text.replace('"bytes"', '"byte"'), f"{text}}}"):
        config.write_text(damaged)
        with pytest.raises(ArtifactCorruptError, match="with `monosem tokens` and `--fresh`"):
            is_artifact(tmp_path / "a", "token store")
        with pytest.raises(ArtifactKindError, match="already holds a token store; a dictionary"):
            check_target(tmp_path / "a", "dictionary")
        assert make(tmp_path / "a", kind="token store").hash == whole.hash
    for damaged in ("", "{", "\0" * 9_000):
        config.write_text(damaged)
        with pytest.raises(ArtifactKindError, match="holds a damaged artifact of no known kind"):
            make(tmp_path / "a", kind="token store")
        assert config.read_text() == damaged


def test_peeking_tells_kind_and_hash_and_reads_no_other_file(tmp_path):
    made = make(tmp_path / "a")
    (tmp_path / "a" / "data.bin").unlink()
    assert peek(tmp_path / "a") == ("thing", made.hash)
    (tmp_path / "a" / "config.json").write_text("[1]")
    assert peek(tmp_path / "a") == peek(tmp_path / "none") == ("", "")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "\0"])
def test_what_is_no_configuration_is_nobodys_artifact_and_damaged_if_it_should_be(tmp_path, text):
    config = tmp_path / "config.json"
    config.write_text(text)
    for _ in range(2):
        assert peek(tmp_path) == ("", "")
        with pytest.raises(ArtifactCorruptError, match="not readable JSON"):
            read(tmp_path, "thing")
        with config.open("wb") as file:
            file.truncate(2**33)


def test_peeking_at_a_summary_asks_for_its_kind(tmp_path):
    with writing(tmp_path / "a", kind="thing", config={}, summary={"n": 3}):
        pass
    assert peek_summary(tmp_path / "a", "thing") == {"n": 3}
    assert peek_summary(tmp_path / "a", "other") == peek_summary(tmp_path, "thing") == {}


def test_another_kind_is_refused_to_read_and_to_overwrite(tmp_path):
    make(tmp_path / "a", kind="token store")
    with pytest.raises(ArtifactKindError, match="holds a token store, not a dictionary"):
        read(tmp_path / "a", "dictionary")
    with pytest.raises(ArtifactKindError, match="already holds"):
        make(tmp_path / "a", kind="dictionary")


def test_foreign_folders_and_missing_ones_are_named(tmp_path):
    with pytest.raises(ArtifactMissingError, match="does not exist"):
        read(tmp_path / "none", "thing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(ArtifactKindError, match="other files"):
        make(tmp_path / "photos")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ArtifactKindError, match="not a Monosem artifact"):
        read(tmp_path / "hf", "thing")
    assert not is_artifact(tmp_path / "photos", "thing")


def test_a_place_where_no_folder_can_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"thing cannot be written at .*notes\.txt.*Choose"):
        check_target(tmp_path / "notes.txt" / "deep" / "run", "thing")
    check_target(tmp_path / "new" / "deep" / "run", "thing")
    assert [place.name for place in tmp_path.iterdir()] == ["notes.txt"]


def test_an_artifact_that_only_is_used_again_may_lie_where_nothing_can_be_written(
    tmp_path, monkeypatch
):
    make(tmp_path / "a")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    check_target(tmp_path / "a", "thing")
    with pytest.raises(ArtifactError, match="Permission denied"):
        check_target(tmp_path / "b", "thing")


def test_a_full_disk_is_a_clear_error(tmp_path):
    with (
        pytest.raises(StorageFullError, match="disk is full"),
        writing(tmp_path / "a", kind="thing", config={}),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True, kw_only=True)
class Settings:
    width: int
    depth: int = 1


def test_settings_of_another_version_are_named_with_who_wrote_them(tmp_path):
    found = make(tmp_path / "a")
    assert configuration(found, Settings, {"width": 3}) == Settings(width=3)
    found = dataclasses.replace(found, provenance={"monosem": "0.0.7", "git_commit": "abcdef" * 7})
    with pytest.raises(
        ArtifactKindError, match=r"thing at .*a` was written by Monosem 0\.0\.7"
    ) as e:
        configuration(found, Settings, {"width": 3, "hight": 1})
    assert "no field `hight`" in str(e.value)
    assert "Read it with the version" in str(e.value)
    with pytest.raises(ArtifactKindError, match=r"abcdefabcdef, .* needs the field `width`"):
        configuration(found, Settings, {})
