"""The command line: `monosem VERB`, one verb a stage, in the order of the data.

A verb's module is imported only when it is called, so that `monosem --help` answers at once. Each
offers `main(arguments) -> int`: it parses, calls one function and prints one result on stdout.
What goes wrong is said here, once: a `MonosemError` is one message on stderr and exit code 2.
"""

import errno
import importlib
import os
import sys
from collections.abc import Callable

from monosem.core.errors import MonosemError, suggestion

VERBS = {
    "demo": "the whole road on one small model, from text to a page of features",
    "pretrain": "train a small language model and save it as a Hugging Face folder",
    "tokens": "read corpora into a token store",
    "capture": "keep a model's activations on disk",
    "train": "train dictionaries on live activations of a model",
    "evaluate": "measure a dictionary on held-out text",
    "features": "build the feature database of a dictionary",
    "explore": "browse a feature database on 127.0.0.1",
    "report": "write feature databases into one self-contained HTML file",
    "convert": "read a dictionary in one library's format and write it in another's",
    "neurons": "find the neurons that write a token, and look at the embeddings",
    "attention-only": "turn a language model's neurons into attention heads",
    "toy": "toy models of superposition, figure by figure",
    "study": "recompute the claims of a paper",
}
"""The verbs and what each does; `monosem VERB --help` lists its options."""

SHARED = ("capture", "train", "features")
"""Verbs whose work ranks share; any other would be done once by each, into one folder."""

MISUSED, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What a file system says where rights are missing: the user's to mend, and no fault of ours."""


def main(arguments: list[str] | None = None) -> int:
    """Run the verb that `arguments` (or the command line) name and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else MISUSED
    if given[0] in ("-V", "--version"):
        print(f"monosem {_version()}")
        return 0
    verb = given[0]
    if verb not in VERBS:
        known = f"Verbs: {', '.join(VERBS)}."
        return _say(f"monosem: unknown verb `{verb}`.{suggestion(verb, VERBS)} {known}", MISUSED)
    if verb not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1":
        return _say(
            f"monosem {verb}: {os.environ['WORLD_SIZE']} ranks were started (`WORLD_SIZE`), and only "
            f"{', '.join(f'`{v}`' for v in SHARED)} share their work. Run it without `torchrun`.",
            MISUSED,
        )
    return _run(verb, given[1:])


def usage() -> str:
    """Return what `monosem --help` prints."""
    lines = [f"  {verb:<16}{purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(
        [
            "usage: monosem VERB [options]",
            "",
            "Sparse dictionary learning on language models, from text to features.",
            "",
            "verbs, in the order of the data:",
            *lines,
            "",
            "`monosem VERB --help` lists the options of a verb; `monosem --version` the version.",
        ]
    )


def load(verb: str) -> Callable[[list[str]], int]:
    """Import the module of `verb` and return its `main`."""
    return importlib.import_module(f"monosem.cli.{verb.replace('-', '_')}").main


def _run(verb: str, arguments: list[str]) -> int:
    try:
        code = load(verb)(arguments)
        sys.stdout.flush()
    except MonosemError as error:
        return _say(f"monosem {verb}: {error}", MISUSED)
    except KeyboardInterrupt:
        return _say(
            f"monosem {verb}: interrupted. What was finished is kept; the same command goes on.",
            INTERRUPTED,
        )
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone: nothing more to say, nor where to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        if error.errno in REFUSED and error.filename is not None:
            return _say(
                f"monosem {verb}: `{error.filename}` may not be read or written: {error.strerror}. "
                "See to its rights, or choose another path.",
                MISUSED,
            )
        if error.errno != errno.ENOSPC:
            raise
        return _say(
            f"monosem {verb}: the disk is full ({error}). What was finished is kept; free some "
            "space and run the same command again.",
            MISUSED,
        )
    return code


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


def _version() -> str:
    # Imported here for start-up time: it is needed by this answer only.
    from importlib.metadata import version

    return version("monosem")
