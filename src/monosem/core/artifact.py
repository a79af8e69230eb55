"""An artifact: one folder with `config.json`, the files it lists, and where they came from.

Every stage is folder in, folder out. A folder is written beside its final place and renamed when
it is whole, so that a reader finds either the old artifact, or the new one, or none; a process
killed at any moment leaves at most a hidden `.NAME.partial-PID` folder, which the next writer
removes. `config.json` lists each file's size and SHA-256; `read` checks them.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar, cast

from monosem.core.config import Json, content_hash, from_json, read_json, to_json
from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactKindError,
    ArtifactMissingError,
    ConfigError,
    StorageFullError,
)

T = TypeVar("T")

FORMAT = 1
CONFIG_NAME = "config.json"
MADE_BY = {
    **{"language model": "pretrain", "token store": "tokens", "activation store": "capture"},
    **dict.fromkeys(("training run", "suite", "dictionary"), "train"),
    **{"evaluation": "evaluate", "survey": "evaluate", "feature database": "features"},
}
"""The verb that makes each kind, for who has none yet; with `--fresh` it does so anew."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What `config.json` of one artifact says."""

    path: Path
    kind: str
    config: Json
    """The stage's own configuration, as `to_json` wrote it."""
    summary: Json
    """Results worth reading without opening the files (counts, losses)."""
    provenance: Json
    files: Json
    hash: str
    """Hash of kind, configuration and files; what a later stage records as its input."""


@contextlib.contextmanager
def writing(
    path: Path,
    *,
    kind: str,
    config: object,
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
    summary: Json | None = None,
) -> Generator[Path]:
    """Yield a folder to fill; on a clean exit it becomes the artifact at `path`, else it is removed.

    `summary` may be filled while the folder is open. A full disk raises `StorageFullError`.
    An artifact of another kind at `path` is never replaced (`ArtifactKindError`).
    """
    path = Path(path)
    check_target(path, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        _seal(partial, kind, config, inputs or {}, seed, summary or {}, {})
        _swap(partial, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(
                f"The disk is full: `{path}` could not be written. Nothing that was finished is lost; "
                "free some space and run the same command again."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def adopt(
    folder: Path,
    path: Path,
    *,
    kind: str,
    config: object,
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
    summary: Json | None = None,
    known: Mapping[str, Json] | None = None,
) -> None:
    """Make a folder that was filled over a long time the artifact at `path`; both are on one disk.

    `known` are entries of files (`file_entry`) that were made when they were written. Hidden files
    stay in the folder and are not part of it.
    """
    check_target(path, kind)
    _sweep(path)
    _seal(folder, kind, config, inputs or {}, seed, summary or {}, known or {})
    _swap(folder, path)


def read(path: Path, kind: str, *, hashes: bool = True) -> Artifact:
    """Return the artifact at `path`, its files checked against their recorded size and SHA-256.

    Without `hashes` against their size alone: for whoever checks a large file when it is first read.
    """
    path = Path(path)
    data = _parse(path, kind)
    if data["kind"] != kind:
        raise ArtifactKindError(
            f"`{path}` holds a {data['kind']}, not a {kind}. Pass the folder of a {kind}."
        )
    files = cast(Json, data["files"])
    for name, entry in files.items():
        _check_size(path, name, entry)
        if hashes:
            check_hash(path, name, entry)
    return Artifact(
        path=path,
        kind=kind,
        config=data["config"],
        summary=data.get("summary", {}),
        provenance=data["provenance"],
        files=files,
        hash=_identity(kind, data),
    )


def configuration(found: Artifact, kind: type[T], data: Json) -> T:
    """Return the configuration that `data`, a part of an artifact's, holds; `from_json` with its origin.

    Settings come and go between versions: what this one does not know is not left out in silence.
    """
    try:
        return from_json(kind, data)
    except ConfigError as error:
        commit = found.provenance.get("git_commit")
        by = f"Monosem {found.provenance.get('monosem')}" + (f" at {commit[:12]}" if commit else "")
        raise ArtifactKindError(
            f"The {found.kind} at `{found.path}` was written by {by}, and this is {_version('monosem')}, "
            f"which reads other settings, or it was altered: {error} Read it with the version that wrote it, "
            "or make it again."
        ) from error


def peek(path: Path) -> tuple[str, str]:
    """Return kind and hash of the artifact at `path` as its `config.json` says; "" for both if none.

    Nothing is checked and no other file is read: for looking around among folders.
    """
    found = _glance(path)
    return (str(found["kind"]), _identity(str(found["kind"]), found)) if found else ("", "")


def peek_summary(path: Path, kind: str) -> Json:
    """Return the summary of the artifact of `kind` at `path`, as unchecked as `peek`; {} if none."""
    found = _glance(path)
    return cast(Json, found.get("summary", {})) if found.get("kind") == kind else {}


def is_artifact(path: Path, kind: str) -> bool:
    """Whether `path` holds a whole artifact of `kind`; another kind, or damage, raises as `read` does."""
    there = (Path(path) / CONFIG_NAME).is_file()
    if there:
        read(path, kind)
    return there


def check_target(path: Path, kind: str) -> None:
    """Refuse to write `kind` at `path` where a file, foreign files or another kind of artifact lie.

    A damaged one of the same kind may be written anew: whoever would use it again finds that by `read`.
    A new place where no folder can be made is refused too, before an hour's work rather than after.
    """
    path = Path(path)
    if path.is_file():
        raise ArtifactKindError(f"`{path}` is a file; a {kind} is a folder. Choose another path.")
    if not path.is_dir() or not any(path.iterdir()):
        _check_writable(path, kind)
        return
    if not (path / CONFIG_NAME).is_file():
        raise ArtifactKindError(
            f"`{path}` is a folder that holds other files, not a {kind}. Choose a new or empty folder."
        )
    try:
        found = str(_parse(path, kind)["kind"])
    except ArtifactCorruptError:
        with (path / CONFIG_NAME).open("rb") as file:  # its first lines may still say what it was
            said = re.search(rb'"kind": "([^"]+)"', file.read(4096))
        found = said[1].decode(errors="replace") if said else "damaged artifact of no known kind"
    if found != kind:
        raise ArtifactKindError(
            f"`{path}` already holds a {found}; a {kind} would overwrite it. Choose another folder."
        )


def _check_writable(path: Path, kind: str) -> None:
    """Raise `ArtifactError` unless a folder can be made beside where `path` is to lie."""
    near = next(place for place in path.absolute().parents if place.exists())
    try:
        # Rights are asked by trying: what they say is not what every file system does.
        tempfile.TemporaryDirectory(prefix=".monosem-", dir=near).cleanup()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ArtifactError(
            f"A {kind} cannot be written at `{path}`: no folder can be made in `{near}` "
            f"({error.strerror}). Choose another path, or see to the rights of that folder."
        ) from error


def provenance(inputs: Mapping[str, str], seed: int | None) -> Json:
    """Return versions, platform, git commit, hashes of the inputs, seed and time."""
    return {
        "monosem": _version("monosem"),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "inputs": dict(inputs),
        "seed": seed,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def file_entry(path: Path) -> Json:
    """Return size and SHA-256 of one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_json(path: Path, data: object) -> None:
    """Write `data` to `path` as indented JSON, flushed to the disk and renamed into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(to_json(data), file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _glance(path: Path) -> Json:
    """Return what `config.json` at `path` says, {} where it is not that of an artifact."""
    try:
        data = read_json(Path(path) / CONFIG_NAME)
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(data, dict) and {"kind", "config", "files"} <= set(cast(Json, data))
    return cast(Json, data) if whole else {}


def _seal(
    folder: Path,
    kind: str,
    config: object,
    inputs: Mapping[str, str],
    seed: int | None,
    summary: Json,
    known: Mapping[str, Json],
) -> None:
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    paths = {str(p.relative_to(folder)): p for p in found}
    files = {name: known.get(name) or file_entry(p) for name, p in paths.items()}
    data = {
        "format": FORMAT,
        "kind": kind,
        "config": to_json(config),
        "summary": summary,
        "provenance": provenance(inputs, seed),
        "files": files,
    }
    write_json(folder / CONFIG_NAME, data)


def _swap(partial: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _sweep(path: Path) -> None:
    name = re.compile(rf"\.{re.escape(path.name)}\.(partial|old)-(\d+)")
    for stray in list(path.parent.iterdir()):
        found = name.fullmatch(stray.name)
        if found is None or _alive(int(found[2])):
            continue
        if found[1] == "old" and not path.exists() and (stray / CONFIG_NAME).is_file():
            stray.rename(path)
        else:
            shutil.rmtree(stray, ignore_errors=True)


def _alive(process: int) -> bool:
    if process == os.getpid():  # a killed writer had our number, as the first in a container
        return False
    try:
        with contextlib.suppress(PermissionError):  # it is somebody else's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _parse(path: Path, kind: str) -> Json:
    verb = f"`monosem {MADE_BY[kind]}`" if kind in MADE_BY else "a verb of `monosem --help`"
    again = f"Make the {kind} again with {verb} and `--fresh` (`fresh=True`)."
    if not (path / CONFIG_NAME).is_file():
        lacks = f"it has no `{CONFIG_NAME}`" if path.is_dir() else "the folder does not exist"
        raise ArtifactMissingError(
            f"There is no {kind} at `{path}`: {lacks}. Pass the folder of one, or make it first with {verb}."
        )
    try:
        data = read_json(path / CONFIG_NAME)
    except (ValueError, RecursionError) as error:
        raise ArtifactCorruptError(
            f"`{path / CONFIG_NAME}` is not readable JSON ({error}). {again}"
        ) from error
    needed = {"kind", "config", "files", "provenance"}
    if not isinstance(data, dict) or not needed <= set(cast(Json, data)):
        raise ArtifactKindError(
            f"`{path}` is not a Monosem artifact: its `{CONFIG_NAME}` has no `kind`. "
            f"Pass the folder of a {kind}."
        )
    found = cast(Json, data)
    if found.get("format") != FORMAT:
        raise ArtifactKindError(
            f"`{path}` has format {found.get('format')!r}; this version reads format {FORMAT}. "
            "Read it with the version that wrote it, or make it again."
        )
    parts = [found.get(name, {}) for name in ("config", "summary", "provenance", "files")]
    parts += list(parts[-1].values()) if isinstance(parts[-1], dict) else []
    if not all(isinstance(p, dict) for p in parts) or any("bytes" not in e for e in parts[4:]):
        raise ArtifactCorruptError(f"`{path / CONFIG_NAME}` is damaged. {again}")
    return found


def _identity(kind: str, data: Json) -> str:
    return content_hash([kind, data["config"], data["files"]])


def _check_size(folder: Path, name: str, entry: Json) -> None:
    file = folder / name
    if not file.is_file():
        raise ArtifactCorruptError(f"`{file}` is missing. Make `{folder}` again, with `--fresh`.")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactCorruptError(
            f"`{file}` has {size:,} bytes, its `{CONFIG_NAME}` says {entry['bytes']:,}: it is truncated "
            f"or altered. Make `{folder}` again, with `--fresh`."
        )


def check_hash(folder: Path, name: str, entry: Json) -> None:
    """Raise `ArtifactCorruptError` unless a file of an artifact is what its entry says."""
    if file_entry(folder / name)["sha256"] != entry.get("sha256"):
        raise ArtifactCorruptError(
            f"`{folder / name}` does not match its SHA-256: a bit of it has changed. "
            f"Make `{folder}` again, with `--fresh`."
        )


def _version(package: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _git_commit() -> str | None:
    """Return the commit this file is part of; None where it is installed, even inside a checkout."""
    here = Path(__file__).resolve()
    command = ["git", "-C", str(here.parent), "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split()[0] if done.returncode == 0 else None
