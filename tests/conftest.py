"""One torch thread, no network, silent progress; skips that `MONOSEM_REQUIRE` turns into failures."""

import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("MONOSEM_PROGRESS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

torch.set_num_threads(1)

REQUIRED = set(filter(None, os.environ.get("MONOSEM_REQUIRE", "").split(",")))


def skip_or_fail(what: str, reason: str) -> None:
    """Skip for `reason`, unless `MONOSEM_REQUIRE` lists `what`."""
    if what in REQUIRED:
        pytest.fail(f"{reason} (MONOSEM_REQUIRE asks for {what})", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and corpora, from `MONOSEM_TEST_DATA`."""
    folder = os.environ.get("MONOSEM_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        skip_or_fail("data", "MONOSEM_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to drive."""
    import shutil

    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None:
        skip_or_fail("chromium", "no Chromium on this machine")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> object:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
