"""The page on neurons says nothing that is not so."""

import re
import shlex
from pathlib import Path

from monosem import cli
from monosem.circuits import congruence, neurons

PAGE = Path(__file__).resolve().parents[2] / "docs/neurons.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)


def test_the_python_of_the_page_runs(capsys):
    names = {}
    exec(compile("".join(blocks("python")), PAGE.name, "exec"), names)
    shown = capsys.readouterr().out
    assert "logit of ' np' − mean logit" in shown
    assert names["found"].found == ()
    said = [repr(names["model"].tokenizer.decode([w.token])) for w in names["found"].writers[:4]]
    assert said == ["' the'", "' sele'", "':`~'", "' of'"]
    assert names["neuron"].kind == "several meanings"
    assert names["uses"].verdict == "not alike"
    assert sum(one.area is not None for one in names["uses"].tokens) >= 2
    space = names["shifts"]["space", "W_U"]
    assert f"| {space.n} |" in PAGE.read_text("utf-8")
    assert round(space.shared, 2) == 0.16
    intrinsic = {m.matrix: m for m in names["measured"] if m.measure == "intrinsic"}
    assert (round(intrinsic["W_E"].value), round(intrinsic["W_U"].value)) == (22, 24)


def test_the_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [f"x_{i} = {i}  # the {i}th\n" for i in range(2000)]
    Path("notes.txt").write_text("".join(lines), "utf-8")
    (block,) = blocks("bash")
    for line in block.splitlines():
        given = shlex.split(line)[1:]
        assert cli.main([*given, "--n-contexts", "2", "--device", "cpu"]) == 0
    assert "Neuron 0.76 writes several meanings" in capsys.readouterr().out


def test_the_neuron_of_the_is_hardly_used(tmp_path):
    import argparse
    import inspect

    from monosem.cli.texts import rows_of_text
    from monosem.models.language_model import LanguageModel

    model = LanguageModel.load("1L-a", device="cpu")
    first = congruence.search(model).writers[0]
    assert (first.layer, first.index) == (0, 250)
    (tmp_path / "code.txt").write_text(inspect.getsource(argparse), "utf-8")
    rows = rows_of_text(model, tmp_path / "code.txt", 40)
    assert float((neurons.activations(model, rows, 0, 250) > 0).double().mean()) < 0.01
    (the,) = neurons.use(model, rows, 0, 250, [first.token]).tokens
    assert the.n >= neurons.FEWEST
    assert the.high < 0.55
