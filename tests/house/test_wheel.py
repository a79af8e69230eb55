"""The built wheel in an empty environment: it is whole, small, and its demo works there."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "monosem"
TINY = ["--n-latents", "64", "--n-tokens", "40000", "--n-density-tokens", "20000"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # one worker makes it once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(REPOSITORY)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment that holds the wheel, and borrows its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*command, "--no-index", str(wheel)], check=True, capture_output=True)
    # A path in a .pth file is searched, but the .pth files in that folder are not read: so the
    # dependencies are found there, and the editable install of this repository is not.
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin"


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=cwd, env=settings, check=True, capture_output=True, text=True
    )


def test_the_wheel_is_at_most_twelve_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size <= 12_000_000


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "src/monosem"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    expected = {line.removeprefix("src/") for line in tracked.stdout.splitlines()}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_help_and_version_answer(environment: Path, tmp_path: Path) -> None:
    program = str(environment / "monosem")
    assert "usage: monosem VERB" in run([program, "--help"], tmp_path).stdout
    assert run([program, "--version"], tmp_path).stdout.startswith("monosem ")


def test_the_embedded_model_is_found_in_the_installed_package(
    environment: Path, tmp_path: Path
) -> None:
    code = (
        "import monosem; print(monosem.__file__); "
        "print(monosem.LanguageModel.load('1L-a', device='cpu').width('blocks.0.mlp.hook_post'))"
    )
    shown = run([str(environment / "python"), "-c", code], tmp_path).stdout.splitlines()
    assert Path(shown[0]).is_relative_to(environment.parent)
    assert shown[1] == "512"


def test_the_demo_works_without_make_and_without_the_repository(
    environment: Path, tmp_path: Path
) -> None:
    run([str(environment / "monosem"), "demo", *TINY], tmp_path)
    metrics = json.loads((tmp_path / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    assert {"topk", "relu", "neurons"} <= set(metrics["dictionaries"])
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 10_000
