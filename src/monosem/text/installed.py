"""Corpora that every machine has already: the interpreter's standard library, and docstrings.

`python`: prose and source of the running interpreter's own standard library. `topics/…` are the
language reference pages of `pydoc_data`; `stdlib/json/decoder.py` is a module's source;
`stdlib/json/decoder.py#docstrings` its docstrings as prose. Left out: tests, installed packages,
and modules that are tables written by a program (code pages, build variables).

`docstrings`: the prose of every installed package, read from source files without importing them.
A docstring found twice (vendored copies, generated classes) is kept the first time only.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monosem.text.document import STEM_END, Document

PYTHON_LICENCE = "PSF-2.0"
TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing", "_tests"})
LEFT_OUT_FOLDERS = TEST_FOLDERS | {"site-packages", "dist-packages", "lib-dynload", "__pycache__"}
SHORTEST_DOCSTRING = 40
SHORTEST_DOCUMENT = 200

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class PythonCorpus:
    """The standard library of the running interpreter, as source and as prose."""

    name: str = "python"

    def documents(self) -> Iterator[Document]:
        """Yield the topics, then each module's source and its docstrings, by name."""
        source = f"CPython {platform.python_version()}"
        for topic, text in _topics():
            yield Document(name=f"topics/{topic}", text=text, source=source, licence=PYTHON_LICENCE)
        root = Path(sysconfig.get_paths()["stdlib"])
        for path in _modules(root):
            text = _source(path)
            if text is None or _is_table(path, text):
                continue
            name = f"stdlib/{path.relative_to(root).as_posix()}"
            yield Document(name=name, text=text, source=source, licence=PYTHON_LICENCE)
            prose = "\n\n".join(docstrings(text)) + "\n"
            if len(prose) >= SHORTEST_DOCUMENT:
                yield Document(
                    name=f"{name}{STEM_END}docstrings",
                    text=prose,
                    source=source,
                    licence=PYTHON_LICENCE,
                )

    def fingerprint(self) -> str:
        """Return the interpreter's version: its library does not change under it."""
        return f"python {platform.python_version()}"

    def size(self) -> int:
        """Return the bytes of the modules' sources."""
        root = Path(sysconfig.get_paths()["stdlib"])
        return sum(path.stat().st_size for path in _modules(root))


@dataclass(frozen=True)
class DocstringsCorpus:
    """The prose of installed packages, one document a module."""

    name: str = "docstrings"

    def documents(self) -> Iterator[Document]:
        """Yield one document a module, packages and modules by name."""
        seen: set[bytes] = set()
        for distribution in _distributions():
            package = distribution.metadata["Name"]
            licence = _licence(distribution)
            for file in sorted(distribution.files or (), key=str):
                if file.suffix != ".py" or not _wanted(file.parts[:-1], file.name):
                    continue
                text = _source(Path(str(distribution.locate_file(file))))
                prose = "\n\n".join(_new(docstrings(text or ""), seen)) + "\n"
                if len(prose) >= SHORTEST_DOCUMENT:
                    yield Document(
                        name=f"docstrings/{file.as_posix()}",
                        text=prose,
                        source=f"{package} {distribution.version}",
                        licence=licence,
                    )

    def fingerprint(self) -> str:
        """Return a hash of the names and versions of the installed packages."""
        names = [f"{d.metadata['Name']}=={d.version}" for d in _distributions()]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def size(self) -> int:
        """Return 0: not known before the sources are read."""
        return 0


def docstrings(source: str) -> list[str]:
    """Return a module's docstrings in order, cleaned of indentation; [] if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return []  # templates and Python 2 files are not modules
    found = (inspect.cleandoc(text) for text in _raw_docstrings(tree))
    return [text for text in found if len(text) >= SHORTEST_DOCSTRING]


def _raw_docstrings(tree: ast.Module) -> Iterator[str]:
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            yield text
        # Only statements are looked into: expressions define nothing, and are most of a tree.
        parts = (getattr(node, name, ()) for name in ("finalbody", "orelse", "handlers", "body"))
        inner = [child for part in parts if isinstance(part, list) for child in reversed(part)]
        stack.extend(child for child in inner if isinstance(child, ast.AST))


def _topics() -> list[tuple[str, str]]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return sorted(topics.items())


def _modules(root: Path) -> list[Path]:
    found: list[Path] = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if relative.parts[0].startswith("config-") or relative.as_posix() == "pydoc_data/topics.py":
            continue
        if _wanted(relative.parts[:-1], relative.name):
            found.append(path)
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def _wanted(folders: tuple[str, ...], file: str) -> bool:
    tests = file.startswith("test_") or file.endswith(("_test.py", "_tests.py"))
    return not tests and not LEFT_OUT_FOLDERS.intersection(folders) and ".." not in folders


def _is_table(path: Path, text: str) -> bool:
    code_page = path.parent.name == "encodings" and (
        "decoding_table" in text or "decoding_map" in text
    )
    return code_page or path.name.startswith("_sysconfigdata")


def _source(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None  # a few old modules are latin-1 on purpose; they are no prose


def _distributions() -> list[importlib.metadata.Distribution]:
    named = {str(d.metadata["Name"]).lower(): d for d in importlib.metadata.distributions()}
    return [named[name] for name in sorted(named) if name not in ("monosem", "none")]


def _licence(distribution: importlib.metadata.Distribution) -> str:
    metadata = distribution.metadata
    if expression := metadata.json.get("license_expression"):
        return str(expression)
    for classifier in metadata.get_all("Classifier") or []:
        if str(classifier).startswith("License :: OSI Approved :: "):
            return str(classifier).rpartition(" :: ")[2]
    first = str(metadata.json.get("license") or "").strip().partition("\n")[0]
    return first[:80] or "unstated"


def _new(texts: list[str], seen: set[bytes]) -> list[str]:
    kept: list[str] = []
    for text in texts:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(text)
    return kept
