"""Where an input of an artifact lay when it was read: a hint for finding it again.

It stands in the artifact's summary, not in its configuration: what an artifact *is* follows from
what its inputs hold, not from where they lie. Whoever follows a hint checks the hash.
"""

import os
from pathlib import Path

from monosem.core.config import Json


def whereabouts(path: Path, seen_from: Path) -> Json:
    """Return where `path` lies, by itself and as seen from the folder `seen_from`."""
    there = path.resolve()
    return {"path": str(there), "relative": os.path.relpath(there, seen_from.resolve())}


def candidates(hint: Json, seen_from: Path) -> list[Path]:
    """Return the places a hint names: both may have moved together, or neither; {} names none."""
    if not hint:
        return []
    here = os.path.normpath(seen_from.resolve() / hint["relative"])
    return list(dict.fromkeys([Path(here), Path(hint["path"])]))
