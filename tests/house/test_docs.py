"""Documents are executed: code, commands, help texts, links."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import monosem
from monosem import cli

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dev/LOG.md")
] + sorted((REPOSITORY / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def smaller(text: str, replacements: dict[str, str]) -> str:
    """Return the text at a size a test can afford; every replacement must apply."""
    for old, new in replacements.items():
        assert old in text, f"the document no longer says {old!r}"
        text = text.replace(old, new)
    return text


def test_the_page_of_help_texts_is_what_the_programs_say() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs/regenerate.py"))["page"]()
    found = (REPOSITORY / "docs/cli.md").read_text(encoding="utf-8")
    assert found == page, "run `python docs/regenerate.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    for target in set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))):
        done = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True)
        assert done.returncode == 0, f"{page.name} names `make {target}`"


def test_every_verb_that_is_named_exists() -> None:
    for page in PAGES:
        for verb in re.findall(r"`monosem ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            assert verb in cli.VERBS, f"{page.name} names `monosem {verb}`"


def test_every_public_name_has_a_docstring() -> None:
    for name in dir(monosem):
        assert getattr(monosem, name).__doc__, name


def test_the_guide_to_a_new_dictionary_works(tmp_path: Path) -> None:
    # In a process of its own: the class registers its name for good.
    file, use = blocks(REPOSITORY / "docs/add-a-dictionary.md", "python")
    check = """
assert after[0] < 0.25 * before[0], (before, after)
assert after[1] < 0.5 * before[1], (before, after)
from monosem.dictionaries.base import architectures, load
assert architectures()["root_relu"] is RootReLU
dictionary.folded(2.0).save("saved", site="hook_embed")
torch.testing.assert_close(load("saved")(2 * x), 2 * dictionary(x))
"""
    (tmp_path / "root_relu.py").write_text(file, encoding="utf-8")
    (tmp_path / "use.py").write_text(f"from root_relu import *\n{use}{check}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fvu ")


@pytest.fixture
def small(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds a small model and a folder of notes."""
    shutil.copytree(world.home / "corpus", tmp_path / "notes")
    (tmp_path / "small").symlink_to(world.home / "model/model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_of_python_work(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {
        '"1L-a"': '"./small"',
        'corpora=("python",)': 'corpora=("notes",), context=32',
        "k=16": "k=4, n_latents=64",
        "n_tokens=4_000_000": "n_tokens=40_000, batch_size=512, buffer_tokens=8192",
    }
    first, second = blocks(REPOSITORY / "README.md", "python")
    names: dict[str, object] = {}
    exec(smaller(first, short), names)  # noqa: S102
    assert "17" in names["features"][17]._repr_html_()  # type: ignore[index]
    capsys.readouterr()
    exec("run['topk']._repr_html_(); print(ms.evaluate(run['topk'], model, tokens)['l0'])", names)
    assert 0 < float(capsys.readouterr().out) <= 4
    for block in blocks(REPOSITORY / "docs/artifacts.md", "python"):
        exec(block, names)
    assert "blocks.0.mlp.hook_post" in capsys.readouterr().out
    recipe = """
from dataclasses import replace
recipe = replace(
    recipe,
    model="./small",
    tokens=replace(recipe.tokens, corpora=("notes",), tokenizer="./small", context=32),
    train=replace(recipe.train, site="blocks.0.hook_resid_post", n_tokens=4096, batch_size=512,
                  buffer_tokens=8192, dictionaries=(ms.TopKConfig(n_latents=64, k=4),)),
)
model = """
    exec(smaller(second, {"\nmodel = ": recipe}), {})


def test_baselines_are_made_as_their_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(REPOSITORY / "docs/dictionaries.md", "python")
    exec(block, {})  # noqa: S102
    assert "True" in capsys.readouterr().out


def test_the_commands_work(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo, commands = blocks(REPOSITORY / "README.md", "sh")
    assert demo == "make demo\n"
    short = {
        "gpt2": "./small",
        "--out runs/notes\n": "--context 32 --out runs/notes\n",
        "blocks.6": "blocks.0",
        "4_000_000": "20000 --n-latents 64 --k 4 --batch-size 512 --buffer-tokens 8192",
    }
    *steps, explore = smaller(commands, short).splitlines()
    for step in steps:
        program, *arguments = shlex.split(step)
        assert program == "monosem"
        assert cli.main(arguments) == 0, step
    assert (small / "runs/notes.html").is_file()
    assert explore == "monosem explore runs/notes-features"


def test_the_commands_of_sweeps_and_suites_work(small: Path) -> None:
    (small / "runs").mkdir()
    (small / "runs/tokens").symlink_to((small / "small").resolve().parents[1] / "tokens")
    few = "4096 --n-latents 64 --batch-size 512 --buffer-tokens 8192 --matmul fp32"
    evaluate = "--n-loss-tokens 500 --n-mean-tokens 500 --n-density-tokens 2000 --no-language-model"
    short = {
        "train": {"1L-a": "./small", "2000000": few},
        "evaluate": {"--out": f"{evaluate} --out"},
        "features": {"--out": "--n-tokens 2000 --out"},
        "report": {},
    }
    sweep, suite = blocks(REPOSITORY / "docs/sweeps.md", "sh")
    for line in (sweep + suite).splitlines():
        verb = shlex.split(line)[1]
        arguments = shlex.split(smaller(line, short[verb]))[1:]
        assert cli.main(arguments) == 0, line
    assert "<polyline" in (small / "runs/sweep.html").read_text("utf-8")
    assert (small / "runs/suite/index.json").is_file()


def test_the_commands_of_wirings_work(small: Path) -> None:
    (small / "runs").mkdir()
    (small / "runs/notes").symlink_to((small / "small").resolve().parents[1] / "tokens")
    few = "2048 --n-latents 64 --k 4 --batch-size 512 --buffer-tokens 8192 --matmul fp32"
    evaluate = "--n-loss-tokens 500 --n-mean-tokens 500 --n-density-tokens 2000 --no-language-model"
    short = {
        "train": {"gpt2": "./small", "2000000": few},
        "evaluate": {"--out": f"{evaluate} --out"},
        "features": {"--out": "--n-tokens 2000 --out"},
    }
    (commands,) = blocks(REPOSITORY / "docs/wirings.md", "sh")
    for line in commands.splitlines():
        line = line.replace("blocks.7.ln2", "blocks.0.ln1").replace("7.hook_mlp", "0.hook_attn")
        line = line.replace("blocks.6", "blocks.0")  # the model has one layer
        verb = shlex.split(line)[1]
        arguments = shlex.split(smaller(line, short[verb]))[1:]
        assert cli.main(arguments) == 0, line


def test_the_commands_of_activations_work(small: Path) -> None:
    (small / "runs").mkdir()
    (small / "runs/tokens").symlink_to((small / "small").resolve().parents[1] / "tokens")
    few = "--n-tokens 2048 --n-latents 64 --k 4 --batch-size 512 --buffer-tokens 8192 --matmul fp32"
    (commands,) = blocks(REPOSITORY / "docs/activations.md", "sh")
    capture, train = (line.replace("1L-a", "./small") for line in commands.splitlines())
    assert cli.main(shlex.split(capture)[1:]) == 0
    assert cli.main(shlex.split(f"{train} {few}")[1:]) == 0
    assert (small / "runs/dictionaries/topk/weights.safetensors").is_file()


def test_the_citation_names_the_version_that_is_installed() -> None:
    assert cli.main(["--version"]) == 0
    version = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), re.M)
    assert version is not None
    assert f'version = "{version[1]}"' in (REPOSITORY / "pyproject.toml").read_text()
    assert f"## [{version[1]}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_toy_models_of_the_page_of_studies_do_what_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair, world = blocks(REPOSITORY / "docs/studies.md", "python")
    names: dict[str, object] = {}
    exec(pair, names)  # noqa: S102
    W = names["models"].W  # type: ignore[attr-defined]
    rare, dense = names["dimensionality"](W)  # type: ignore[operator]
    assert float(W[0, 0] * W[0, 1]) < -0.7
    assert rare.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert float(dense.min()) < 0.15 and float(dense.max()) > 0.85
    capsys.readouterr()
    exec(world, names)  # noqa: S102
    assert capsys.readouterr().out == "[]\n"
