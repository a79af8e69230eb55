"""Versions: no study's figures change without its VERSION, or without somebody saying that none did."""

import dataclasses
import runpy
from pathlib import Path

import pytest

versions = runpy.run_path(str(Path(__file__).with_name("versions.py")), run_name="versions")
MODULE = '''"""What it is."""
VERSION = 3
"""Of figures."""
LEAST = 30  # tokens


def figure(n: int) -> str:
    """Return a sentence."""
    return f"{n} of {LEAST} tokens"
'''


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of one study."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__init__.py").write_text("")
    (tmp_path / "some" / "study.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("VERSION = 1")
    return tmp_path


def test_every_study_is_as_it_was_recorded_with_its_version() -> None:
    told = versions["differing"](versions["read"](), versions["packages"]())
    if told:
        said = "\n".join(f"{name}: {what}." for name, what in told.items())
        pytest.fail(said, pytrace=False)


def test_words_beside_the_code_do_not_count(studies: Path) -> None:
    before = versions["packages"](studies)
    (package,) = before.values()
    assert package.version == {"study": 3} and list(before) == ["some"]
    changed = MODULE.replace("What it is", "Another").replace("Return a", "Make a")
    changed = (
        changed.replace("  # tokens", "").replace("Of figures", "Moved").replace("= 30", "=30")
    )
    (studies / "some" / "study.py").write_text(changed)
    assert changed != MODULE and versions["packages"](studies) == before


@pytest.mark.parametrize(
    ("old", "new"), [("= 30", "= 50"), ("of {LEAST}", "from {LEAST}"), ("{n} of", "{n + 1} of")]
)
def test_constants_texts_and_code_count(studies: Path, old: str, new: str) -> None:
    before = versions["packages"](studies)
    (studies / "some" / "study.py").write_text(MODULE.replace(old, new))
    now = versions["packages"](studies)
    (said,) = versions["differing"](before, now).values()
    assert "raise VERSION in some/study.py and" in said
    assert "`python tests/house/versions.py --same some`" in said
    (studies / "some" / "study.py").write_text(MODULE.replace(old, new).replace("= 3\n", "= 4\n"))
    (said,) = versions["differing"](before, versions["packages"](studies)).values()
    assert said.startswith("a new version. Record it")


def test_what_is_not_raised_is_recorded_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = versions["write"].__globals__
    monkeypatch.setitem(run, "RECORD", tmp_path / "versions.json")
    now = versions["packages"]()
    name, package = next(iter(now.items()))
    assert versions["write"]([]) == [] and versions["read"]() == now
    older = dataclasses.replace(package, sources="other")
    monkeypatch.setitem(run, "packages", lambda: {**now, name: older})
    assert versions["write"]([]) == [name] and versions["read"]() == now
    assert versions["write"]([name]) == [] and versions["read"]()[name] == older


def test_what_is_recorded_hangs_on_versions_and_sources_and_not_on_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = versions["write"].__globals__
    monkeypatch.setitem(run, "RECORD", tmp_path / "versions.json")
    monkeypatch.setitem(run, "COMMAND", "what did not differ")
    made = run["Package"]
    recorded = {"alike": made({"study": 1}, "a"), "raised": made({"study": 1}, "b")}
    recorded |= {"unraised": made({"study": 1}, "c"), "gone": made({"study": 1}, "d")}
    now = {"alike": recorded["alike"], "raised": made({"study": 2}, "B")}
    now |= {"unraised": made({"study": 1}, "C"), "new": made({"study": 1}, "E")}
    monkeypatch.setitem(run, "packages", lambda: recorded)
    versions["write"]([])
    monkeypatch.setitem(run, "packages", lambda: now)
    assert versions["write"]([]) == ["unraised"]
    assert versions["read"]() == {**now, "unraised": recorded["unraised"]}
    monkeypatch.setitem(run, "differing", lambda *_: {"unraised": "Something else is said."})
    assert versions["write"](["alike"]) == ["unraised"]
