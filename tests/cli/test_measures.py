import json
import re
import shlex
from pathlib import Path

import pytest

from monosem.cli import main
from monosem.cli.measures import report
from monosem.core import artifact
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics.record import SURVEY
from monosem.metrics.subject import NAMES

SITE = "blocks.0.mlp.hook_post"
FEW = ["--n-tokens", "1500", "--n-units", "4"]


@pytest.fixture(scope="module")
def work(tmp_path_factory, written):
    """A store, a model and two dictionaries of it."""
    folder = tmp_path_factory.mktemp("work")
    model, store = written(folder)
    for seed, name in enumerate(("one", "two")):
        TopK(TopKConfig(d_in=24, n_latents=32, k=4, seed=seed)).save(
            folder / name, site=SITE, model=f"{model.name} {model.hash}", tokens=store.hash
        )
    return folder


def test_measures_are_printed_as_tables_with_their_reasons(work, capsys):
    chosen = ["--measures", "geometry", "mmcs", "probing", "--rules", "numbers=regex:[0-9]+"]
    against = ["--against", str(work / "two")]
    assert main(["evaluate", str(work / "one"), *chosen, *against, *FEW]) == 0
    shown = capsys.readouterr().out
    assert "encoder_decoder_cosine" in shown and "hungarian_cosine" in shown
    assert "neurons_all" in shown and "not applicable" in shown
    assert max(map(len, shown.splitlines())) < 400
    head = next(line for line in shown.splitlines() if line.startswith("geometry"))
    assert head.split() == ["geometry", "of", "value", "95", "%", "chance"]


def test_results_are_kept_and_used_again(work, tmp_path, capsys):
    command = ["evaluate", str(work / "one"), "--measures", "geometry", "density", *FEW, "--json"]
    command += ["--out", str(tmp_path / "kept"), "--no-neurons"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert list(first) == ["one"] and list(first["one"]) == ["geometry", "density"]
    assert first["one"]["geometry"]["largest_cosine"]["null"] > 0
    assert artifact.read(tmp_path / "kept", SURVEY).summary == first
    assert main(command) == 0 and json.loads(capsys.readouterr().out) == first
    assert main([*command, "--seed", "1"]) == 2
    assert "holds a finished survey with other `survey`" in capsys.readouterr().err
    assert "geometry" in report(first)


def test_what_cannot_be_measured_is_said_in_a_line(work, capsys):
    folder = str(work / "one")
    assert main(["evaluate", folder, "--measures"]) == 2
    assert "names none" in capsys.readouterr().err
    assert main(["evaluate", folder, "--measures", "geometri"]) == 2
    assert "Did you mean `geometry`" in capsys.readouterr().err
    assert main(["evaluate", folder, "--measures", "mmcs"]) == 2
    assert "`--against FOLDER`" in capsys.readouterr().err


def test_the_page_of_measures_does_what_it_says(work, monkeypatch, tmp_path, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs/measures.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in NAMES)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/tokens").symlink_to(work / "tokens")
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    few = ", n_tokens=1500, n_units=4)\nfound"
    short = {'"1L-a"': repr(str(work / "model")), "2048, 512": "40, 24", "zeros(512)": "zeros(24)"}
    for old, new in {**short, ")\nfound": few}.items():
        assert old in lines
        lines = lines.replace(old, new)
    exec(lines, {})  # noqa: S102
    assert "chance" in capsys.readouterr().out
    (command,) = re.findall(r"^```sh\n(.*?)\n```", page, re.S | re.M)
    places = {"runs/dictionaries/topk": "one", "runs/others/topk": "two"}
    for old, new in places.items():
        command = command.replace(old, str(work / new))
    assert main([*shlex.split(command)[1:], *FEW]) == 0
    assert "pca" in capsys.readouterr().out
