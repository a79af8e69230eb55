"""Which device a name means, and which names are refused at the door."""

import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.runtime.device import resolve


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cpu"])
def test_a_device_that_is_there_is_taken_by_its_name(name: str, two_gpus: None) -> None:
    assert resolve(name) == torch.device(name)
    assert resolve("auto") == torch.device("cuda")


def test_a_number_beyond_the_last_device_is_refused_with_how_many_there_are(two_gpus: None) -> None:
    with pytest.raises(ConfigError, match=r"no device `cuda:99`.* has 2 .*`cuda:0`, `cuda:1`\."):
        resolve("cuda:99")
    with pytest.raises(ConfigError, match="no device `cpu:1`"):
        resolve("cpu:1")


def test_a_machine_without_the_kind_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="This machine has no `cuda` device"):
        resolve("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:one", "auto:0", ""])
def test_what_is_no_name_of_a_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown device"):
        resolve(name)
