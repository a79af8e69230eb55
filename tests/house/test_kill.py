"""SIGKILL at any moment, in any verb: a rerun of the same command ends with whole artifacts.

The command is killed at a random moment of the time it takes undisturbed, then run again. What it
leaves is compared with what the undisturbed run left: the same files, whole, and nothing beside them.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS = ["tokens", "pretrain", "capture", "train", "evaluate", "features", "report"]
INPUTS = {
    "tokens": ["corpus"],
    "pretrain": ["tokens"],
    "capture": ["tokens", "model"],
    "train": ["tokens", "model"],
    "evaluate": ["tokens", "model", "sae"],
    "features": ["tokens", "model", "sae"],
    "report": ["tokens", "model", "sae", "features", "evaluation"],
}


@pytest.fixture
def place(world, tmp_path: Path) -> Callable[[str], Path]:
    """A folder that holds the inputs of a verb, and nothing it writes."""

    def prepare(verb: str) -> Path:
        for name in INPUTS[verb]:
            (tmp_path / name).symlink_to(world.home / name)
        return tmp_path

    return prepare


def beside(place: Path, verb: str) -> set[str]:
    return {path.name for path in place.iterdir()} - set(INPUTS[verb])


def artifacts(path: Path) -> list[Path]:
    return sorted(
        p.parent for p in path.rglob("config.json") if "kind" in json.loads(p.read_text())
    )


def check(world, verb: str, made: Path, content: Callable[[Path], dict[str, str]]) -> None:
    expected = world.folder(verb)
    if expected.is_file():
        assert made.read_bytes() == expected.read_bytes()
        return
    names = [p.relative_to(expected) for p in artifacts(expected)]
    assert [p.relative_to(made) for p in artifacts(made)] == names
    for name in names:
        assert set(content(made / name)) == set(content(expected / name))
        for file, digest in content(made / name).items():
            if file.endswith((".safetensors", ".npy", ".bin")):
                assert digest == content(expected / name)[file], f"{name}/{file} differs"


def kill_and_rerun(
    verb: str, world, place: Path, command_line, chance: random.Random, n_kills: int
) -> Path:
    arguments = world.commands[verb]
    for _ in range(n_kills):
        after = chance.uniform(0.0, world.seconds[verb])
        running = command_line.kill(arguments, place, after)
        print(f"{verb}: killed after {after:.3f} s, {'running' if running else 'ended'}")
    done = command_line.run(arguments, place)
    assert done.code == 0, done.err
    assert beside(place, verb) == {world.folder(verb).name}, "something was left behind"
    return place / world.folder(verb).name


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_was_killed_once_finishes_when_it_is_run_again(
    verb: str, world, place, command_line, randomness: random.Random, content
) -> None:
    made = kill_and_rerun(verb, world, place(verb), command_line, randomness, 1)
    check(world, verb, made, content)


def test_a_capture_that_was_killed_has_whole_shards_and_goes_on_after_them(
    world, place, command_line, randomness: random.Random, content
) -> None:
    folder = place("capture")
    capturing, made = folder / "activations.capturing", folder / "activations"
    whole: dict[str, int] = {}
    n_shards = len(list((world.folder("capture") / "shards").iterdir()))

    for _ in range(10):
        wanted = randomness.randint(1, n_shards)  # the last: between shards and the artifact's end
        print(f"killed after {wanted} of {n_shards} shards")
        command_line.kill_when(
            world.commands["capture"],
            folder,
            lambda wanted=wanted: len(noted(capturing / ".shards.jsonl")) >= wanted,
            randomness.uniform(0, 0.02),
        )
        if made.exists():  # it was too late; anew
            shutil.rmtree(made)
        for number, line in enumerate(noted(capturing / ".shards.jsonl")):
            shard = capturing / "shards" / f"{number:05}.safetensors"
            assert hashlib.sha256(shard.read_bytes()).hexdigest() == line["sha256"]
            assert shard.stat().st_size == line["bytes"]
            whole[shard.name] = shard.stat().st_mtime_ns
        if whole:
            break
    assert whole, "no kill came between two shards"
    done = command_line.run(world.commands["capture"], folder)
    assert done.code == 0, done.err
    assert beside(folder, "capture") == {"activations"}
    for name, written in whole.items():
        assert (made / "shards" / name).stat().st_mtime_ns == written, (
            "a whole shard was made again"
        )
    check(world, "capture", made, content)


def noted(path: Path) -> list[dict[str, Any]]:
    """The lines of a record of whole shards that were written to their end."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("repetition", range(6))
def test_a_verb_that_was_killed_three_times_finishes_when_it_is_run_again(
    verb: str, repetition: int, world, place, command_line, randomness: random.Random, content
) -> None:
    made = kill_and_rerun(verb, world, place(verb), command_line, randomness, 3)
    check(world, verb, made, content)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("repetition", range(3))
def test_an_artifact_that_is_being_replaced_is_the_old_one_or_the_new_one(
    verb: str, repetition: int, world, place, command_line, randomness: random.Random, content
) -> None:
    folder = place(verb)
    made = folder / world.folder(verb).name
    if world.folder(verb).is_file():
        shutil.copyfile(world.folder(verb), made)
    else:
        shutil.copytree(world.folder(verb), made)
    fresh = [] if verb == "report" else ["--fresh"]  # a report is always written anew
    arguments = [*world.commands[verb], *fresh]
    command_line.kill(arguments, folder, randomness.uniform(0.0, world.seconds[verb]))
    if made.exists():
        check(world, verb, made, content)
    done = command_line.run(arguments, folder)
    assert done.code == 0, done.err
    check(world, verb, made, content)
