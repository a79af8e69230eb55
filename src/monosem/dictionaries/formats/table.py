"""All formats, in the order in which they are asked whether files are theirs."""

from pathlib import Path

from monosem.core.errors import ArtifactError, ArtifactKindError, ConfigError, unknown_name
from monosem.dictionaries.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    llamascopium,
    openai,
    own,
    plain,
    saelens,
    sparsify,
)
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format

FORMATS: tuple[Format, ...] = (
    own.FORMAT,
    saelens.FORMAT,
    sparsify.FORMAT,
    circuit_tracer.FORMAT,
    llamascopium.FORMAT,
    llama_scope.FORMAT,
    gemma_scope.FORMAT,
    dictionary_learning.FORMAT,
    openai.FORMAT,
    plain.FORMAT,
)
"""The more certain its signs, the earlier a format stands."""


def named(name: str) -> Format:
    """The format called `name`; `UnknownNameError` lists the nearest."""
    known = {format.name: format for format in FORMATS}
    if name not in known:
        raise unknown_name("format", name, known)
    return known[name]


def detect(path: Path | str) -> Format:
    """The format of the files at `path`, a folder or one file."""
    return _of(Files.at(path))


def read(path: Path | str, *, format: str = "") -> Contents:
    """What the files at `path` hold, in the format they look like, or the one that is named."""
    files = Files.at(path)
    return opened(named(format) if format else _of(files), files)


def opened(format: Format, files: Files) -> Contents:
    """What `files` hold in this format; an error that does not say which files it is about is told."""
    try:
        return format.read(files)
    except (ArtifactError, ConfigError) as error:
        place = files.path / files.only
        if str(files.path) in str(error):
            raise
        raise type(error)(f"`{place}`, read as `{format.name}`: {error}") from error


def _of(files: Files) -> Format:
    found = next((format for format in FORMATS if format.recognises(files)), None)
    if found is None:
        shown = ", ".join(f"`{name}`" for name in files.names[:12]) or "nothing"
        raise ArtifactKindError(
            f"`{files.path / files.only}` is no dictionary in a known layout: it holds {shown}. Known are "
            f"{', '.join(format.name for format in FORMATS)}. If it is one of these under other names, "
            "pass its name as `format`."
        )
    return found
