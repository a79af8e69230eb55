"""Progress: silent when told, a line now and then in a log, a bar on a terminal."""

import io
import sys
from types import SimpleNamespace

import pytest

from monosem.core import progress as progress_module
from monosem.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_is_silent_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONOSEM_PROGRESS", "0")
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", -1.0)
    with progress("reading", 10) as bar:
        bar.advance(10, loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_lines_on_stderr_and_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONOSEM_PROGRESS", "1")
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", -1.0)
    with progress("reading", 2_000) as bar:
        bar.advance(1_500, loss=0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "reading: 1,500/2,000  loss 0.5\n"


def test_a_quick_loop_does_not_flood_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONOSEM_PROGRESS", "1")
    with progress("reading", 1_000) as bar:
        for _ in range(1_000):
            bar.advance(1)
    assert capsys.readouterr().err == ""


def test_lines_of_a_long_loop_come_more_and_more_rarely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setenv("MONOSEM_PROGRESS", "1")
    monkeypatch.setattr(
        progress_module, "time", SimpleNamespace(monotonic=lambda: 0.5 * next(clock))
    )
    with progress("reading", 7_200) as bar:
        for _ in range(7_200):
            bar.advance(1)  # about an hour
    assert 10 < len(capsys.readouterr().err.splitlines()) < 25


def test_a_terminal_gets_a_bar_with_the_newest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEM_PROGRESS", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("training", 4) as bar:
        bar.advance(4, loss=0.25)
    assert "training" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
