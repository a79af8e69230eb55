"""Every architecture goes the demo's road by the command line: train, evaluate, features, report, explore."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from monosem.dictionaries.base import architectures
from monosem.features.database import FeatureDatabase

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("architectures"),
]  # made once, by one worker
ALL = [name for name, kind in architectures().items() if kind.trainable]
N = 96


@pytest.fixture(scope="module")
def home(world, command_line) -> Path:
    """All architectures trained in one run beside the world's other folders, measured and described."""
    read = ["--model", "model/model", "--tokens", "tokens", "--device", "cpu"]
    train = ["--architecture", *ALL, "--n-latents", str(N), "--n-tokens", "60000"]
    train += ["--batch-size", "512", "--buffer-tokens", "8192", "--matmul", "fp32"]
    train += ["--k", "8", "--l0", "8", "--out", "every"]
    few = ["--n-loss-tokens", "2000", "--n-mean-tokens", "2000", "--n-density-tokens", "20000"]
    road = [
        ["train", *read, *train, "--site", "blocks.0.mlp.hook_post"],
        ["evaluate", "every", *read, *few, "--out", "every-measured"],
    ]
    for name in ALL:
        features, page = f"every-{name}", f"every-{name}.html"
        few = ["--device", "cpu", "--n-tokens", "20000"]
        road.append(["features", f"every/{name}", *few, "--out", features])
        road.append(["report", features, "--metrics", "every-measured", "--out", page])
    for arguments in road:
        done = command_line.run(arguments, world.home)
        assert done.code == 0, f"monosem {' '.join(arguments)}\n{done.err}"
    return world.home


@pytest.mark.parametrize("name", ALL)
def test_an_architecture_went_the_whole_road(name: str, home: Path) -> None:
    assert name in (home / f"every-{name}.html").read_text("utf-8")
    measured = json.loads((home / "every-measured/config.json").read_text("utf-8"))
    row = measured["summary"]["dictionaries"][name]
    assert 0 < row["fvu"] < 1
    assert row["n_latents"] == N
    assert FeatureDatabase.open(home / f"every-{name}").n_latents == N


def test_the_explorer_shows_them_all(home: Path, command_line) -> None:
    databases = [f"every-{name}" for name in ALL]
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
