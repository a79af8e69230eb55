"""Versions of the studies' figures, and the sources that were recorded with them.

A figure that lies in a study's folder is shown as it is for as long as the `VERSION` in the study's package
stays the same. So whoever changes what a figure says must raise it, and `versions.json` remembers with which
sources each version goes. Comments, docstrings and layout do not count; constants and texts do.

    python tests/house/versions.py                    what differs
    python tests/house/versions.py --write            record the packages whose VERSION was raised
    python tests/house/versions.py --same PACKAGE …   record others too: their figures say what they said
"""

import argparse
import ast
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import monosem.studies

RECORD = Path(__file__).with_name("versions.json")
COMMAND = "python tests/house/versions.py"
STUDIES = Path(monosem.studies.__file__).parent
VERSION = "VERSION"
LEFT_OUT = ("ctx", "kind", "type_comment", "type_ignores", "type_params")
"""Fields of the syntax tree that say nothing, or that only some versions of Python have."""


@dataclass(frozen=True)
class Package:
    """A study as it is, or as it was recorded."""

    version: dict[str, int]
    """Of each module that has one."""
    sources: str
    """A hash of all that its modules do, their versions left out."""


def packages(studies: Path = STUDIES) -> dict[str, Package]:
    """Return the studies that have a version, by name."""
    found: dict[str, Package] = {}
    for folder in sorted(path for path in studies.iterdir() if (path / "__init__.py").is_file()):
        trees = {p.stem: ast.parse(p.read_text("utf-8")) for p in sorted(folder.glob("*.py"))}
        version = {name: n for name, tree in trees.items() if (n := version_of(tree)) is not None}
        if version:
            said = json.dumps({name: plain(tree) for name, tree in trees.items()})
            found[folder.name] = Package(version, hashlib.sha256(said.encode()).hexdigest()[:16])
    return found


def version_of(tree: ast.Module) -> int | None:
    """Return the number that a module has as its `VERSION`."""
    for node in tree.body:
        if is_version(node):
            return ast.literal_eval(node.value)
    return None


def is_version(node: ast.AST) -> bool:
    """Whether a statement is `VERSION = …`."""
    targets = node.targets if isinstance(node, ast.Assign) else ()
    return any(isinstance(target, ast.Name) and target.id == VERSION for target in targets)


def plain(node: object) -> object:
    """Return a syntax tree as lists, without docstrings and versions, alike in all versions of Python."""
    if isinstance(node, list):
        return [plain(each) for each in node if not (is_docstring(each) or is_version(each))]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in LEFT_OUT]
    said = [[name, plain(value)] for name, value in fields if value is not None and value != []]
    return [type(node).__name__, *said]


def is_docstring(node: object) -> bool:
    """Whether a statement is a text that nobody reads at run time."""
    alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return alone and isinstance(node.value.value, str)


def read() -> dict[str, Package]:
    """Return what was recorded."""
    recorded = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    return {name: Package(**package) for name, package in recorded.items()}


def differing(recorded: dict[str, Package], now: dict[str, Package]) -> dict[str, str]:
    """Return what to do about each study that is not as it was recorded, by name."""
    told: dict[str, str] = {}
    for name in sorted({*recorded, *now}):
        before, here = recorded.get(name), now.get(name)
        if before is None or here is None or before.version != here.version:
            told[name] = f"a new version. Record it: `{COMMAND} --write`"
        elif is_unraised(before, here):
            places = " and ".join(f"{name}/{module}.py" for module in here.version)
            told[name] = (
                "its sources changed and its VERSION did not: folders that hold its figures would go on "
                f"showing the old ones. If a figure now says anything else, raise VERSION in {places} and "
                f"`{COMMAND} --write`; if none does, `{COMMAND} --same {name}`"
            )
    return told


def is_unraised(before: Package | None, here: Package | None) -> bool:
    """Whether a study's sources are others than were recorded, and its version is the same."""
    if before is None or here is None or before.version != here.version:
        return False
    return before.sources != here.sources


def write(same: list[str]) -> list[str]:
    """Record studies whose version moved, and those in `same`; return the names of the others."""
    recorded, now = read(), packages()
    unraised = [name for name in sorted(now) if is_unraised(recorded.get(name), now[name])]
    left = [name for name in unraised if name not in same]
    kept = {name: recorded[name] if name in left else package for name, package in now.items()}
    said = json.dumps({name: asdict(package) for name, package in kept.items()}, indent=2)
    RECORD.write_text(said + "\n", "utf-8")
    return left


def main() -> int:
    """Say what differs, or record it; 1 where something is left to do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--same", nargs="+", default=[], metavar="PACKAGE")
    given = parser.parse_args()
    unknown = [name for name in given.same if name not in packages()]
    if unknown:
        parser.error(f"no study has the name {unknown[0]}: {', '.join(packages())}")
    if given.write or given.same:
        write(given.same)
    told = differing(read(), packages())
    sys.stdout.write("".join(f"{name}: {what}\n" for name, what in told.items()))
    return int(bool(told))


if __name__ == "__main__":
    raise SystemExit(main())
