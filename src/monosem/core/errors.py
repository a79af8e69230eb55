"""The tree of errors. Each message says what is wrong with its value, what would be right, what to do.

MonosemError
├── ConfigError            (ValueError)         a setting that cannot work
├── UnknownNameError       (KeyError)           a name nobody registered; lists the nearest
├── ShapeMismatchError     (ValueError)         widths that do not fit together
├── CorpusError            (ValueError)         text that cannot be read, or is empty
├── TokenizerMismatchError (ValueError)         tokens of another vocabulary than the model's
├── UnsupportedModelError  (ValueError)         an architecture without a row in the table
├── SiteError              (RuntimeError)       a requested site that did not fire
├── ArtifactError          (OSError)
│   ├── ArtifactMissingError (FileNotFoundError)
│   ├── ArtifactKindError                        a folder that holds another kind of artifact
│   ├── ArtifactBusyError                        another process is writing there
│   ├── ArtifactCorruptError                     truncated, altered or half-written
│   └── StorageFullError                         the disk took no more
├── ResumeError            (RuntimeError)       a checkpoint of another run
├── RankLostError          (RuntimeError)       another rank of the same run has ended
└── MissingExtraError      (ImportError)        an optional dependency that is not installed
"""

import difflib
from collections.abc import Iterable


class MonosemError(Exception):
    """Root of every error that Monosem raises on purpose."""


class ConfigError(MonosemError, ValueError):
    """A setting that cannot work, found before any work starts."""


class UnknownNameError(MonosemError, KeyError):
    """A name that nothing is registered under."""

    def __str__(self) -> str:
        """Return the message itself, not its `repr` as `KeyError` would."""
        return str(self.args[0]) if self.args else ""


class ShapeMismatchError(MonosemError, ValueError):
    """Widths that do not fit together, such as a dictionary of another site."""


class CorpusError(MonosemError, ValueError):
    """Text that cannot be read, or holds nothing."""


class TokenizerMismatchError(MonosemError, ValueError):
    """Tokens of another vocabulary than the model's."""


class UnsupportedModelError(MonosemError, ValueError):
    """An architecture that has no row in `models/families.py`."""


class SiteError(MonosemError, RuntimeError):
    """A requested site that did not fire during the pass."""


class ArtifactError(MonosemError, OSError):
    """A folder that should hold an artifact and does not."""


class ArtifactMissingError(ArtifactError, FileNotFoundError):
    """No artifact at this path."""


class ArtifactKindError(ArtifactError):
    """The folder holds another kind of artifact than the one asked for."""


class ArtifactBusyError(ArtifactError):
    """Another process is writing to the same folder."""


class ArtifactCorruptError(ArtifactError):
    """A file of the artifact is truncated, altered or missing."""


class StorageFullError(ArtifactError):
    """The disk took no more; what was finished before is whole."""


class ResumeError(MonosemError, RuntimeError):
    """A checkpoint that belongs to another run than the one that wants to go on."""


class RankLostError(MonosemError, RuntimeError):
    """Another rank of the same run has ended, so that this one cannot go on."""


class MissingExtraError(MonosemError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean `x` or `y`?" for the nearest known names, or nothing.

    >>> suggestion("topq", ["relu", "topk"])
    ' Did you mean `topk`?'
    >>> suggestion("zzz", ["relu", "topk"])
    ''
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return (not raise) the error for a name nobody registered, with the nearest ones and the list.

    >>> str(unknown_name("architecture", "topq", ["relu", "topk"]))
    'Unknown architecture `topq`. Did you mean `topk`? Known: relu, topk.'
    """
    names = sorted(known)
    listed = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
    return UnknownNameError(f"Unknown {what} `{name}`.{suggestion(name, names)} Known: {listed}.")


def missing_extra(module: str, extra: str, purpose: str) -> MissingExtraError:
    """Return (not raise) the error for an optional dependency.

    >>> str(missing_extra("datasets", "hub", "streams data sets"))
    "`datasets` is not installed; it streams data sets. Install it with `pip install 'monosem[hub]'`."
    """
    return MissingExtraError(
        f"`{module}` is not installed; it {purpose}. Install it with `pip install 'monosem[{extra}]'`."
    )
