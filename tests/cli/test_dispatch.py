"""The front door: help at once, did-you-mean, and one place where errors become exit codes."""

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from monosem import cli
from monosem.cli import evaluate
from monosem.core.errors import ConfigError
from monosem.dictionaries.linear import Linear, LinearConfig


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb `tokens` whose `main` the test decides."""
    module = types.ModuleType("monosem.cli.tokens")
    monkeypatch.setitem(sys.modules, "monosem.cli.tokens", module)
    return module


def raising(error: BaseException):
    def main(arguments: list[str]) -> int:
        raise error

    return main


def test_every_verb_of_the_table_is_a_module_and_every_module_with_a_main_a_verb() -> None:
    modules = [path for path in Path(cli.__file__).parent.glob("*.py") if path.stem != "__init__"]
    verbs = {
        path.stem.replace("_", "-")
        for path in modules
        if "\ndef main(" in path.read_text(encoding="utf-8")
    }
    assert verbs == set(cli.VERBS)


def test_the_verbs_stand_in_the_order_of_the_data() -> None:
    order = ["demo", "pretrain", "tokens", "capture", "train", "evaluate", "features"]
    assert [verb for verb in cli.VERBS if verb in order] == order


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, purpose in cli.VERBS.items():
        assert f"  {name:<16}{purpose}" in shown


def test_no_verb_at_all_is_a_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: monosem VERB" in capsys.readouterr().out


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evalute"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "unknown verb `evalute`. Did you mean `evaluate`" in err


def test_ranks_may_only_start_what_they_can_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["evaluate", "somewhere"]) == 2
    said = capsys.readouterr().err
    assert "2 ranks were started" in said
    assert "only `capture`, `train`, `features` share" in said
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "usage: monosem train" in capsys.readouterr().out


def test_an_address_of_the_hub_reaches_the_loader_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"hf://org/name/layer_6": Linear(LinearConfig(d_in=2, n_latents=3))}
    monkeypatch.setattr(evaluate, "load_any", found.__getitem__)
    assert list(evaluate.open_dictionaries(Path("hf://org/name/layer_6"))) == ["layer_6"]


def test_models_is_not_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 2


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("monosem 0.")


def test_arguments_reach_the_verb_and_its_code_comes_back(verb: types.ModuleType) -> None:
    seen: list[list[str]] = []
    verb.main = lambda arguments: seen.append(arguments) or 7
    assert cli.main(["tokens", "--out", "x"]) == 7
    assert seen == [["--out", "x"]]


def test_a_user_error_is_one_message_and_exit_code_2(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.main = raising(ConfigError("`k` must be positive, got 0."))
    assert cli.main(["tokens"]) == 2
    assert capsys.readouterr() == ("", "monosem tokens: `k` must be positive, got 0.\n")


def test_a_full_disk_is_said_plainly(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.main = raising(OSError(errno.ENOSPC, "No space left on device"))
    assert cli.main(["tokens"]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_file_without_rights_is_named(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.main = raising(PermissionError(errno.EACCES, "Permission denied", "/shelf/run"))
    assert cli.main(["tokens"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "monosem tokens: `/shelf/run` may not be read or written: Permission denied."
    )


def test_an_error_of_ours_keeps_its_traceback(verb: types.ModuleType) -> None:
    verb.main = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["tokens"])


def test_an_interruption_ends_with_130(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.main = raising(KeyboardInterrupt())
    assert cli.main(["tokens"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_reader_who_leaves_early_causes_no_noise() -> None:
    command = (
        "import sys, types\n"
        "module = types.ModuleType('monosem.cli.tokens')\n"
        "module.main = lambda arguments: print('x\\n' * 1_000_000) or 0\n"
        "sys.modules['monosem.cli.tokens'] = module\n"
        "from monosem.cli import main\n"
        "sys.exit(main(['tokens']))\n"
    )
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", command], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    os.close(reading)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")


def test_help_answers_in_half_a_second_without_torch() -> None:
    program = str(Path(sys.executable).with_name("monosem"))
    seconds: list[float] = []
    for _ in range(5):
        start = os.times()
        subprocess.run([program, "--help"], check=True, capture_output=True)
        end = os.times()  # of the processor: what else a machine does is not the program's time
        spent = end.children_user + end.children_system
        seconds.append(spent - start.children_user - start.children_system)
    assert min(seconds) < 0.5
    shown = "import sys; from monosem.cli import main; main(['--help'])"
    check = f"{shown}; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
