"""The run log: one JSON object a line, flushed as it is written, cut back when a run resumes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from monosem.core.config import Json


class RunLog:
    """Appends lines to `path`; every line has a `step`.

    Lines of later steps than `resume_step`, which the resumed run will write again, and a last line
    that a kill left half-written are dropped first; a new run (`resume_step` 0) starts empty.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self.path = Path(path)
        self.followers: list[Callable[[Json], None]] = []
        """Called with each line after it is written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(self.path) if line["step"] <= resume_step]
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text("".join(_line(k) for k in kept), encoding="utf-8")
        temporary.replace(self.path)

    def write(self, **values: Any) -> None:
        """Append one line; numbers that JSON cannot hold (inf, nan) become null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(values))
        for follow in self.followers:
            follow(values)


def read_log(path: Path) -> list[Json]:
    """Return the whole lines of a run log, none where there is no file."""
    if not path.is_file():
        return []
    lines: list[Json] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break  # a kill cut this line short; nothing follows it
    return lines


def _line(values: Json) -> str:
    return json.dumps(_finite(values), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in cast(dict[str, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in cast(list[object], value)]
    return value
