"""Loading: a dictionary by its folder, file or name on the hub, whoever wrote it.

load("runs/demo/train/topk")                                  our own
load("trainer_0/ae.pt"), load("layer_20/width_16k/params.npz")  a file of another library
load("openai-layers/6")                                       one of several that lie in a folder
load("org/repository/folder")                                 on the hub, where no such folder is here
load("org/repository/layer_6")                                one of several that lie there in a folder
load("gpt2-small-res-jb/blocks.8.hook_resid_pre")             a well-known release (releases.json)
"""

from pathlib import Path
from typing import Any

from monosem.core import artifact, hub
from monosem.core.errors import ArtifactKindError, ArtifactMissingError, ConfigError
from monosem.dictionaries import base
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.formats import table
from monosem.dictionaries.formats.build import dictionary_of
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.releases import Release, release
from monosem.dictionaries.formats.specification import Specification
from monosem.dictionaries.saving import KIND, WEIGHTS


def load(place: Path | str, *, format: str = "") -> Dictionary[Any]:
    """The dictionary at `place`, on the CPU: a folder, a file, or a name on the hub.

    `format` names the layout (`table.FORMATS`) where the files do not say it by themselves.
    """
    known = known_release(place)
    if known is not None:
        read = specification(hub.download(known.named), format=format)
        return dictionary_of(known.completed(read))
    path, name = found(place)
    own = _kind(path) == KIND or (path / WEIGHTS).is_file()  # which is damaged, then
    if own and not name and not format:
        return base.load(path)
    return dictionary_of(specification(path, name, format=format))


def specification(path: Path, name: str = "", *, format: str = "") -> Specification:
    """What lies at `path` computes; `name` says which, where there are several."""
    kind = _kind(path)
    if kind not in ("", KIND):
        raise ArtifactKindError(
            f"`{path}` holds a {kind}, not a dictionary. Pass the folder of one of its dictionaries."
        )
    contents = table.read(path, format=format)
    if isinstance(contents, Specification):
        if name:
            raise ArtifactMissingError(
                f"`{path}` holds one dictionary, and none called `{name}`. Pass `{path}`."
            )
        return contents
    if name:
        return contents[name]
    if len(contents) == 1:
        return next(iter(contents.values()))
    names = ", ".join(f"`{path / n}`" for n in list(contents)[:6])
    raise ConfigError(
        f"`{path}` holds {len(contents)} dictionaries. Name one: {names}"
        f"{', …' if len(contents) > 6 else ''}."
    )


def found(place: Path | str) -> tuple[Path, str]:
    """Where `place` is on this machine, fetched from the hub if need be, and a name within a set."""
    path = Path(place)
    if path.exists():
        return path, ""
    if path.parent.is_dir() and str(path.parent) != "." and _is_set(path.parent):
        return path.parent, path.name
    known = known_release(place)
    if known is not None:
        return hub.download(known.named), ""
    name = None if _is_here(path) else hub.named(str(place))
    if name is None:
        raise ArtifactMissingError(
            f"There is no dictionary at `{place}`: no such file or folder, and it is no name on the hub "
            "(`organisation/name/folder`). Pass the folder of one."
        )
    return _on_hub(name)


def _on_hub(name: hub.Named) -> tuple[Path, str]:
    """A folder or file of the hub; or a folder that is a set, and the name of one in it."""
    try:
        return hub.download(name), ""
    except ArtifactMissingError:
        folder = hub.around(name)
        if not name.inner or not folder.is_dir() or not _is_set(folder):
            raise
        return folder, name.inner.rpartition("/")[2]


def known_release(place: Path | str) -> Release | None:
    """The well-known release that `place` names, where nothing of that name lies here."""
    return None if _is_here(Path(place)) else release(str(place))


def is_foreign(place: Path | str) -> bool:
    """Whether other libraries' files lie at `place`, or it is a name on the hub; nothing is fetched."""
    path = Path(place)
    if path.exists():
        files = Files.at(path)
        return not _kind(path) and any(f.recognises(files) for f in table.FORMATS)
    if path.parent.is_dir() and str(path.parent) != ".":
        return _is_set(path.parent)
    return known_release(place) is not None or (
        not _is_here(path) and hub.named(str(place)) is not None
    )


def _is_set(folder: Path) -> bool:
    if _kind(folder):
        return False
    files = Files.at(folder)
    return any(format.recognises(files) for format in table.FORMATS)


def _is_here(path: Path) -> bool:
    """Whether the first part of a path exists: then it means a place on this machine."""
    return path.is_absolute() or Path(path.parts[0]).exists() if path.parts else True


def _kind(path: Path) -> str:
    return artifact.peek(path)[0] if path.is_dir() else ""
