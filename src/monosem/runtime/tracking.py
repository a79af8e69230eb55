"""Tracking: a run log sent on, line by line, to whoever draws it (wandb, trackio, tensorboard).

    run log ──line──> numbers by flat name, `topk/l0` ──> each Tracker

The log is what is true: trackers read it, know nothing else of the run, and cannot stop it. One that
fails is dropped with one line on stderr. Beside the log, `tracking.json` holds the run's id and
the last step that each tracker was sent, so that a resumed run goes on as the same tracked run,
no step is sent twice, and what a tracker missed is sent when it comes back.
"""

import contextlib
import json
import math
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast, runtime_checkable

from monosem.core.artifact import write_json
from monosem.core.config import Json, content_hash
from monosem.runtime.runlog import RunLog, read_log

MARKS = "tracking.json"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run before its first line."""

    id: str
    """Name of the run that no other run has; the same whenever it is resumed."""
    name: str
    """Name for people: that of the folder it is written to."""
    out: Path
    """The folder it is written to."""
    config: Json
    """What the run is asked to do."""
    last_step: int
    """Last step that this tracker was sent; 0 where the run is new to it."""


@runtime_checkable
class Tracker(Protocol):
    """Whoever is sent the lines of a run log; any exception it raises drops it."""

    @property
    def name(self) -> str:
        """Name under which `tracking.json` remembers it."""
        ...

    def start(self, run: TrackedRun) -> None:
        """Begin to track `run`, or go on."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one line of the log; steps grow."""
        ...

    def finish(self, summary: Mapping[str, float]) -> None:
        """End for now: the run is done, or was stopped (and `summary` is empty)."""
        ...


class Tracking:
    """Follows `log` while the block runs; set `summary` before it ends, once the run is done."""

    def __init__(self, trackers: Sequence[Tracker], log: RunLog, out: Path, config: Json) -> None:
        self.summary: Json = {}
        self._trackers, self._log = list(trackers), log
        self._marks_at = log.path.with_name(MARKS)
        self._out, self._config, self._hash = out, config, content_hash(config)
        self._id, self._sent = _read_marks(self._marks_at, self._hash)

    def __enter__(self) -> "Tracking":
        if self._trackers:
            self._remember()
        for tracker in list(self._trackers):
            run = TrackedRun(
                id=self._id,
                name=self._out.resolve().name,
                out=self._out,
                config=self._config,
                last_step=self._sent.get(tracker.name, 0),
            )
            self._ask(tracker, lambda t=tracker, r=run: t.start(r))
        for line in read_log(self._log.path) if self._trackers else []:
            self._send(line)
        self._log.followers.append(self._send)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.followers.remove(self._send)
        summary = numbers(self.summary)
        for tracker in list(self._trackers):
            self._ask(tracker, lambda t=tracker: t.finish(summary))

    def _send(self, line: Json) -> None:
        step, values = _split(line)
        for tracker in list(self._trackers):
            if step <= self._sent.get(tracker.name, 0):  # the resumed run writes this line again
                continue
            if self._ask(tracker, lambda t=tracker: t.log(step, values)):
                self._sent[tracker.name] = step
                self._remember()

    def _remember(self) -> None:
        marks = {"id": self._id, "config": self._hash, "sent": self._sent}
        write_json(self._marks_at, marks)

    def _ask(self, tracker: Tracker, call: Callable[[], None]) -> bool:
        """Return whether `call` went well; if not, `tracker` is dropped."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the verb's result
                call()
        # Other people's code, over a network: whatever it raises, the run is worth more.
        except Exception as error:
            self._trackers.remove(tracker)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            sys.stderr.write(
                f"`{tracker.name}` failed and is not sent anything more ({reason}). The run goes on; "
                f"`{self._log.path.name}` stays whole.\n"
            )
            return False
        return True


def replay(
    log: Path | str,
    tracker: Tracker,
    *,
    config: Json | None = None,
    summary: Json | None = None,
) -> None:
    """Send a finished log to `tracker` as a run of its own; what it raises is raised."""
    log = Path(log)
    out = log.resolve().parent
    tracker.start(
        TrackedRun(id=_new_id(), name=out.name, out=out, config=config or {}, last_step=0)
    )
    for line in read_log(log):
        tracker.log(*_split(line))
    tracker.finish(numbers(summary or {}))


def numbers(values: Json) -> dict[str, float]:
    """Return the finite numbers in `values` by flat name.

    >>> numbers({"epoch": 0.5, "topk": {"l0": 16, "fvu": None}, "policy": "fp32", "done": True})
    {'epoch': 0.5, 'topk/l0': 16.0}
    """
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            inner = numbers(cast(Json, value))
            flat |= {f"{name}/{key}": number for key, number in inner.items()}
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        elif math.isfinite(value):
            flat[name] = float(value)
    return flat


def _split(line: Json) -> tuple[int, dict[str, float]]:
    return line["step"], numbers({k: v for k, v in line.items() if k != "step"})


def _read_marks(path: Path, config_hash: str) -> tuple[str, dict[str, int]]:
    """Return the run's id and each tracker's last step; a new id for a run of another configuration.

    Such a run may lie there without a checkpoint, and is then not resumed but begun anew.
    """
    marks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if marks.get("config") != config_hash:
        return _new_id(), {}
    return marks["id"], marks["sent"]


def _new_id() -> str:
    return secrets.token_hex(4)
