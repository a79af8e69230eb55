"""Rows of an evaluation that are kept: one file a dictionary, named by all that its numbers hang on."""

import json
from collections.abc import Sequence
from pathlib import Path

from monosem.core.config import Json, content_hash
from monosem.core.errors import ArtifactCorruptError

VERSION = 5
"""Of what is measured: rows of another version are measured again."""
NUMBERS = ("n_latents", "n_dead", "l0", "fvu", "loss_recovered_zero")
"""What figures read of a row; a number, or null where the measure is void."""


def place_of(out: Path, ratio: int, hangs_on: Sequence[object]) -> Path:
    """Return where the row of a dictionary lies, `ratio` times as wide as the site."""
    return out / f"evaluation-{ratio}x-{content_hash(list(hangs_on))[:8]}.json"


def read(place: Path) -> Json:
    """Return the row at `place`; `ArtifactCorruptError` where it is none."""
    try:
        row: object = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(place, str(error)) from error
    if not isinstance(row, dict):
        raise _unreadable(place, f"a {type(row).__name__}, not an object")
    found: Json = row
    for name in NUMBERS:
        if name not in found:
            raise _unreadable(place, f"no `{name}`")
        if not isinstance(found[name], int | float | None):
            raise _unreadable(place, f"`{name}` is {found[name]!r}")
    return found


def _unreadable(place: Path, why: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"`{place}` is no readable evaluation ({why}). Remove it, or pass `--fresh` to measure again."
    )
