"""The hub is asked once, and quickly, whether it is there."""

import socket
import ssl
import time
import urllib.error
import urllib.request

import pytest
from huggingface_hub import constants

from monosem.core import hub
from monosem.core.errors import ConfigError


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Let the hub be asked, in vain unless a test says otherwise; return what was asked."""
    asked = []

    def ask(request: urllib.request.Request, timeout: float) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(urllib.request, "urlopen", ask)
    hub._reachable.cache_clear()
    yield asked
    hub._reachable.cache_clear()


def test_an_unreachable_hub_is_asked_once_and_leaves_the_cache(asked) -> None:
    assert hub.only_cached("gpt2")
    assert hub.only_cached("gpt2-medium")
    assert asked == [constants.ENDPOINT]


def test_a_hub_that_answered_once_in_vain_is_asked_again_later(asked, monkeypatch) -> None:
    for minute in (3, 3.5, 4):
        monkeypatch.setattr(time, "monotonic", lambda minute=minute: minute * hub.AGAIN)
        assert hub.only_cached("gpt2")
    assert len(asked) == 2


def test_a_folder_of_many_dictionaries_is_refused_before_it_is_fetched(monkeypatch) -> None:
    class File:
        will_download, file_size = True, hub.MOST_BYTES // 2 + 1

        def __init__(self, filename: str) -> None:
            self.filename = filename

    def fetch(repository, *, dry_run=False, allow_patterns, **_):
        assert dry_run, "nothing is fetched"
        assert "layer_20/*" in allow_patterns
        return [File(f"layer_20/width_{i}k/params.npz") for i in (16, 65)]

    monkeypatch.setattr(hub, "only_cached", lambda place: False)
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(
        ConfigError, match=r"`o/scope/layer_20` holds 20 GiB.*`o/scope/layer_20/width"
    ):
        hub.download(hub.Named(repository="o/scope", inner="layer_20"))


def test_a_folder_is_read_without_asking_the_hub(asked, tmp_path) -> None:
    assert not hub.only_cached(str(tmp_path))
    assert asked == []


def test_a_hub_that_must_not_be_asked_is_not_asked(asked, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.only_cached("gpt2")
    assert asked == []


@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.HTTPError("", 403, "Forbidden", None, None),  # type: ignore[arg-type]
        urllib.error.URLError(ssl.SSLCertVerificationError("unknown authority")),
    ],
)
def test_any_answer_means_that_the_hub_is_there(monkeypatch, answer) -> None:
    def ask(request: urllib.request.Request, timeout: float) -> None:
        raise answer

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    assert not hub.only_cached("gpt2")


def test_a_silent_hub_is_given_up(monkeypatch) -> None:
    def ask(request: urllib.request.Request, timeout: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    assert hub.only_cached("gpt2")
