"""Progress of long work on stderr: a bar on a terminal, a line now and then in a log, or nothing.

with progress("training", total=1000) as bar:
    bar.advance(1, loss=0.31, l0=16.0)
"""

import contextlib
import os
import sys
import time
from collections.abc import Generator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 15.0
LONGEST_SECONDS = 240.0
"""Lines of a log come after the first time, then after twice as long each, up to the second."""


class Bar:
    """One running task: `advance` moves it and shows the newest values beside it."""

    def __init__(self, description: str, total: int, display: Progress | None) -> None:
        """Start at zero; without a `display` it writes a line every few seconds, or nothing."""
        self._description, self._total, self._display = description, total, display
        self._done = 0
        self._spoken, self._wait = time.monotonic(), LINE_EVERY_SECONDS
        self._task = display.add_task(description, total=total, values="") if display else None
        self._lines = display is None and os.environ.get("MONOSEM_PROGRESS", "1") != "0"

    def advance(self, steps: int = 1, **values: float) -> None:
        """Move by `steps`; `values` are already on the host (no device is asked for them here)."""
        self._done += steps
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._display is not None and self._task is not None:
            self._display.advance(self._task, steps)
            if shown:
                self._display.update(self._task, values=shown)
        elif self._lines and time.monotonic() - self._spoken > self._wait:
            self._spoken, self._wait = time.monotonic(), min(2 * self._wait, LONGEST_SECONDS)
            sys.stderr.write(f"{self._description}: {self._done:,}/{self._total:,}  {shown}\n")


@contextlib.contextmanager
def progress(description: str, total: int) -> Generator[Bar]:
    """Show `description` and a bar of `total` steps until the block ends.

    `MONOSEM_PROGRESS=0` silences it.
    """
    if os.environ.get("MONOSEM_PROGRESS", "1") == "0" or not sys.stderr.isatty():
        yield Bar(description, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield Bar(description, total, display)
