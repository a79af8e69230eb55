"""The hub is asked once, and quickly, whether it is there."""

import socket
import ssl
import urllib.error
import urllib.request

import pytest
from huggingface_hub import constants

from monosem.core import hub


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
