"""Writes docs/cli.md from the help texts of the verbs: `python docs/regenerate.py`."""

import contextlib
import io
import os
import re
from pathlib import Path
from unittest import mock

from monosem import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Verbs in the order of the data; each is folder in, folder out. Results go to stdout (`--json` for
machines), progress to stderr. A finished stage of the same settings and inputs is used again, an
interrupted one goes on; `--fresh` starts anew. Exit code 2: something was asked that cannot work,
and stderr says what to do. 130: interrupted; the same command goes on.

This page is written by `python docs/regenerate.py` from what the programs say of themselves; a test
compares them.
"""


def page() -> str:
    """Return the page as it should be."""
    parts = [HEAD, f"```\n{cli.usage()}\n```\n"]
    for verb in cli.VERBS:
        parts.append(f"## monosem {verb}\n\n```\n{help_text(verb)}\n```\n")
    return "\n".join(parts)


def help_text(verb: str) -> str:
    """Return what `monosem VERB --help` prints on a terminal of a hundred columns."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1", "LINES": "40"}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        cli.main([verb, "--help"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return "\n".join(line.rstrip() for line in plain.strip().splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
