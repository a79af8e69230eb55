"""Conversion: dictionaries from one format into another, exactly or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from monosem.core import artifact
from monosem.core.errors import ArtifactKindError, ConfigError
from monosem.dictionaries.formats import loading, own, table
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format, one
from monosem.dictionaries.formats.releases import Release
from monosem.dictionaries.formats.specification import Specification

UNPROCESSED = ("dictionary_learning", "sparsify")
"""Targets that cannot say that a model was processed, and mean that it was not."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written."""

    out: Path
    """The folder."""
    read_as: str
    """Format it was read from."""
    written_as: str
    """Format it was written in."""
    files: dict[str, int]
    """Its files and their sizes in bytes."""
    remarks: tuple[str, ...]
    """What was doubtful about what was read."""


def convert(place: Path | str, out: Path | str, *, to: str, format: str = "") -> Converted:
    """Write the dictionary at `place` (folder, file, name on the hub) into the new folder `out`.

    `format` names the layout it is in, where its files do not say it. The folder appears whole or not at
    all. What `to` cannot express raises `ConfigError` with the reason. What the files of a well-known release
    do not say of themselves is written too.
    """
    target, out = table.named(to), Path(out)
    write = target.write
    if write is None:
        able = ", ".join(f.name for f in table.FORMATS if f.write is not None)
        raise ConfigError(f"`{to}` is read and not written. Choose one of {able}.")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ArtifactKindError(f"`{out}` is already there. Choose a new folder.")
    artifact.check_target(out, "dictionary")  # a folder can be made there
    path, name = loading.found(place)
    known = loading.known_release(place)
    source = table.named(format) if format else table.detect(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        remarks = _written(source, path, name, known, target, partial)
        if out.is_dir():
            out.rmdir()  # an empty one
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    names = (p for p in sorted(out.rglob("*")) if p.is_file())
    files = {p.relative_to(out).as_posix(): p.stat().st_size for p in names}
    return Converted(
        out=out, read_as=source.name, written_as=target.name, files=files, remarks=remarks
    )


def _written(
    source: Format, path: Path, name: str, known: Release | None, target: Format, folder: Path
) -> tuple[str, ...]:
    assert target.write is not None
    if source is target is own.FORMAT:  # with everything that only training needs
        loading.load(path).save_pretrained(folder)
        return ()
    contents: Contents = table.opened(source, Files.at(path))
    if name and not isinstance(contents, Specification):
        contents = contents[name]
    if known is not None:
        contents = known.completed(one(contents, target.name))
    target.write(contents, folder)
    if not isinstance(contents, Specification):
        return ()
    trained_here = source is own.FORMAT and not loading.load(path).origin.source
    if trained_here or contents.place.processing != "unknown" or target.name not in UNPROCESSED:
        return contents.remarks
    doubt = (
        "whether the model's weights were processed is not recorded, and what is written is read as of a "
        "model that is as it comes"
    )
    return (*contents.remarks, doubt)
