"""Every architecture goes the demo's road by the command line: train, evaluate, features, report, explore."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from monosem.dictionaries.base import architectures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("architectures"),
]  # made once, by one worker
ALL = [name for name, kind in architectures().items() if kind.trainable]
N = 96


@pytest.fixture(scope="module")
def home(world, command_line) -> Path:
    """All architectures trained in one run beside the world's other folders, and measured."""
    read = ["--model", "model/model", "--tokens", "tokens", "--device", "cpu"]
    train = ["--architecture", *ALL, "--n-latents", str(N), "--n-tokens", "60000"]
    train += ["--batch-size", "512", "--buffer-tokens", "8192", "--matmul", "fp32"]
    train += ["--k", "8", "--l0", "8", "--out", "every"]
    few = ["--n-loss-tokens", "2000", "--n-mean-tokens", "2000", "--n-density-tokens", "20000"]
    for arguments in (
        ["train", *read, *train, "--site", "blocks.0.mlp.hook_post"],
        ["evaluate", "every", *read, *few, "--out", "every-measured"],
    ):
        done = command_line.run(arguments, world.home)
        assert done.code == 0, done.err
    return world.home


@pytest.mark.parametrize("name", ALL)
def test_an_architecture_goes_the_whole_road(name: str, home: Path, command_line) -> None:
    features, page = f"every-{name}", f"every-{name}.html"
    for arguments in (
        ["features", f"every/{name}", "--device", "cpu", "--n-tokens", "20000", "--out", features],
        ["report", features, "--metrics", "every-measured", "--out", page],
    ):
        done = command_line.run(arguments, home)
        assert done.code == 0, done.err
    assert name in (home / page).read_text("utf-8")
    measured = json.loads((home / "every-measured/config.json").read_text("utf-8"))
    assert name in json.dumps(measured)


def test_the_explorer_shows_them_all(home: Path, command_line) -> None:
    databases = [f"every-{name}" for name in ALL if (home / f"every-{name}").is_dir()]
    assert databases == [f"every-{name}" for name in ALL], "the tests above made them"
    process, log = command_line.start(
        ["explore", *databases, "--metrics", "every-measured", "--port", "0"], home
    )
    said = log.with_name(log.name + ".err"), log.with_name(log.name + ".out")
    try:
        address = _address(said)
        with urllib.request.urlopen(address, timeout=20) as answer:
            page = answer.read().decode("utf-8")
        assert all(name in page for name in ALL)
    finally:
        process.kill()
        process.join()


def _address(said: tuple[Path, Path]) -> str:
    """Return the address that the explorer prints, once it does."""
    text = ""
    for _ in range(300):
        text = "".join(path.read_text("utf-8") for path in said if path.exists())
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        if found:
            return found.group()
        time.sleep(0.2)
    raise AssertionError(f"the explorer printed no address, but: {text}")
