"""Checkpoints that survive a kill at any moment: safetensors + JSON, written aside, then renamed.

FOLDER/state-NNNNNN/rank-00000.safetensors    what each rank has: whole tensors, or its part of them
FOLDER/state-NNNNNN/manifest.json             each file's hash, which slices it holds, and the JSON state

The newest two are kept. `open_checkpoint` takes the newest one that is whole; one whose checksum fails
falls back to the one before it. Parts are put together when they are read, so that any number of ranks
goes on from what any other number has written. All ranks see the same folder.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from monosem.core.artifact import file_entry, write_json
from monosem.core.config import Json, content_hash
from monosem.core.errors import ArtifactCorruptError, StorageFullError
from monosem.runtime.distributed import ALONE, World

KEPT = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Slice:
    """Which part of a tensor one rank has."""

    axis: int
    """The axis along which it is shared out."""
    start: int
    """Where the part begins."""


class Saved(Mapping[str, Tensor]):
    """The tensors of a checkpoint, on the CPU, each read when it is asked for."""

    def __init__(self, folder: Path, shards: Json) -> None:
        """`shards` is what the manifest says of each file."""
        self._files: dict[str, list[Path]] = {}
        self._parts: dict[str, dict[int, Path]] = {}
        self._axes: dict[str, int] = {}
        for file, entry in shards.items():
            for name, (axis, start) in entry["slices"].items():
                self._parts.setdefault(name, {})[start] = folder / file
                self._axes[name] = axis
            for name in entry["names"]:
                self._files.setdefault(name, []).append(folder / file)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._parts:
            return _tensor(self._files[name][0], name)
        parts = [_tensor(path, name) for _, path in sorted(self._parts[name].items())]
        return torch.cat(parts, self._axes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    state: Json,
    *,
    slices: Mapping[str, Slice] | None = None,
    world: World = ALONE,
) -> Path:
    """Write `tensors` and the JSON values `state` as the newest checkpoint of `folder`.

    Of several ranks each writes its own `tensors`, those in `slices` being slices; the state is that of
    the first. Returns its path. The two newest stay; a full disk raises `StorageFullError` and leaves
    the older ones whole.
    """
    folder = Path(folder)
    partial = Path(world.by_first(lambda: str(_begun(folder))))
    try:
        shards = world.all_do(lambda: _written(partial, tensors, slices or {}, world.rank))
        return Path(world.by_first(lambda: str(_finished(partial, shards, state))))
    finally:
        if world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Json] | None:
    """Return tensors (on the CPU) and state of the newest whole checkpoint, None where there is none."""
    found = open_checkpoint(folder)
    return None if found is None else (dict(found[0]), found[1])


def open_checkpoint(folder: Path, world: World = ALONE) -> tuple[Saved, Json] | None:
    """Return the tensors, not yet read, and the state of the newest whole checkpoint, None without any.

    Where checkpoints lie and none is whole, `ArtifactCorruptError`.
    """
    name = world.by_first(lambda: _newest(Path(folder)))
    if not name:
        return None
    manifest = json.loads((Path(folder) / name / _MANIFEST).read_text(encoding="utf-8"))
    return Saved(Path(folder) / name, manifest["shards"]), manifest["state"]


def _begun(folder: Path) -> Path:
    """Make the folder in which the next checkpoint is written; what a kill has left there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob(".state-*"):
        shutil.rmtree(stray)
    existing = _existing(folder)
    number = _number(existing[-1]) + 1 if existing else 1
    partial = folder / f".state-{number:06d}"
    partial.mkdir()
    return partial


def _written(
    partial: Path, tensors: Mapping[str, Tensor], slices: Mapping[str, Slice], rank: int
) -> Json:
    """Write one rank's file, and return what the manifest says of it."""
    path = partial / f"rank-{rank:05d}.safetensors"
    try:
        here = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        # to a file, not to bytes: those would be all weights and moments once more in memory
        safetensors.torch.save_file(here, path)
        _flush(path)
    except (OSError, safetensors.SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise StorageFullError(
                f"The disk is full: no checkpoint could be written to `{partial.parent}`. The one before "
                "it is whole; free some space and run the same command again."
            ) from error
        raise
    return {
        "file": path.name,
        "sha256": file_entry(path)["sha256"],
        "names": list(here),
        "slices": {name: [own.axis, own.start] for name, own in slices.items()},
    }


def _finished(partial: Path, shards: list[Json], state: Json) -> Path:
    """Make what all ranks have written a checkpoint, and remove the oldest ones."""
    named = {entry.pop("file"): entry for entry in shards}
    held: Json = {"shards": named, "state": state}
    write_json(partial / _MANIFEST, {**held, "hash": content_hash(held)})
    final = partial.with_name(partial.name.removeprefix("."))
    partial.rename(final)
    for old in _existing(final.parent)[:-KEPT]:
        shutil.rmtree(old)
    return final


def _newest(folder: Path) -> str:
    """Return the name of the newest checkpoint that is whole, "" where there is none."""
    existing = _existing(folder)
    for path in reversed(existing):
        if _is_whole(path):
            return path.name
    if existing:
        raise ArtifactCorruptError(
            f"No checkpoint in `{folder}` is whole, and of this version. Start again with `--fresh`, or "
            "remove that folder."
        )
    return ""


def _is_whole(path: Path) -> bool:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        shards = manifest["shards"]
        if manifest["hash"] != content_hash({"shards": shards, "state": manifest["state"]}):
            return False
        return all(file_entry(path / f)["sha256"] == shards[f]["sha256"] for f in shards)
    except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError):
        return False


def _tensor(path: Path, name: str) -> Tensor:
    with safetensors.safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _existing(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("state-*") if p.name.removeprefix("state-").isdigit()]
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("state-"))
