"""One writer a folder: a lock that the operating system takes back when its holder dies."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from monosem.core.errors import ArtifactBusyError

LOCK = ".writer"


@contextlib.contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Hold `folder` for writing, made if it is not there; `ArtifactBusyError` where another process does."""
    place = _locked(folder)
    try:
        os.ftruncate(place, 0)
        os.pwrite(place, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(place)  # which lets go of the lock


def _locked(folder: Path) -> int:
    """Return the lock file of `folder`, opened and held."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            place = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder went to its final place meanwhile
            continue
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(place, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(place)
            raise ArtifactBusyError(
                f"`{folder}` is being written by another process (number {who}). Wait until it has "
                "ended, or write to another folder."
            ) from error
        if _is_at(place, folder / LOCK):
            return place
        os.close(place)  # its writer has finished, and taken it along with the folder


def _is_at(place: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(place), path.stat())
    except FileNotFoundError:
        return False
