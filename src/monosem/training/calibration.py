"""Calibration: short runs of a configuration, from which time and memory of the whole are told.

    T(n) = T(few) + (T(more) - T(few)) / (more - few) * (n - few)

What a run costs once, sampling and its first, dense steps, is in both runs, and does not count for each
step. `more` takes about as long as is wanted. For that both must do as often what is done a few times a run,
whatever its length, where so many steps take less than twice what is wanted (else the shorter run does it
less often, and the plan is the worse for it); and rows that are
captured for a sample alone, at most `SAMPLE_ROWS` in any run, are counted apart.

Runs are made in a folder `.plan-PID-…` beside where the whole will be written, and removed. One that was
killed leaves its folder, which the next removes: its lock (lock.py) tells that nobody is there.
"""

import contextlib
import dataclasses
import os
import re
import resource
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.activations.blocks import BlockSource
from monosem.activations.store import ActivationStore
from monosem.core.errors import ArtifactBusyError, ConfigError
from monosem.models.language_model import LanguageModel
from monosem.runtime.lock import LOCK, only_writer
from monosem.text.tokens import TokenStore
from monosem.training.settings import TrainConfig
from monosem.training.sources import source_of
from monosem.training.trainer import SAMPLE_ROWS, train, train_suite

FEWEST_STEPS = 4
EVENTFUL_STEPS = 36
"""From so many steps on `relu` resamples as often as in a long run (relu.py): four times."""
TIMED_ROWS = 8192
"""Rows whose capture for a sample alone is timed, where a run has such."""
ATTEMPTS = 3
"""Pairs of runs, of which the longer may be stretched less by other work than the shorter."""
PREFIX = ".plan-"
OURS = re.compile(rf"{re.escape(PREFIX)}\d+-[0-9a-f]{{8}}")
"""Names of folders that are made here, and of no others."""


@dataclasses.dataclass(eq=False)
class Calibration:
    """Short runs of a configuration, how long they take and how much memory they have left needed."""

    config: TrainConfig
    model: LanguageModel
    store: TokenStore
    sites: Sequence[str]
    activations: ActivationStore | None
    device: str | None
    out: Path | str | None
    clock: Callable[[], float]
    longest: int = 0
    """Steps of the longest run so far."""

    def seconds(self, wanted: float) -> float:
        """Time two short runs, the longer for about `wanted` seconds, and draw the line through them."""
        n_steps = self.config.n_steps
        few = min(FEWEST_STEPS, n_steps)
        once = self._run(few)  # warms caches, and lets the machine choose its arithmetic
        enough = (EVENTFUL_STEPS, -(-SAMPLE_ROWS // self.config.batch_size))
        quick = [n for n in enough if n * once < 2 * wanted * few]
        few = min(max([few, *quick]), n_steps)
        first = self._run(few)
        more = few + max(few // 2, FEWEST_STEPS, round(wanted * few / first))
        if more >= n_steps:  # it is short enough to be made
            return self._run(n_steps)
        second = self._run(more)
        for _ in range(ATTEMPTS - 1):
            if second > first:
                break
            first, second = min(first, self._run(few)), self._run(more)
        each = (second - first) / (more - few)
        if not each > 0:
            raise ConfigError(
                f"{more} steps took {second:.2f} s, {few} took {first:.2f} s: the machine has too much "
                "other work for an estimate. Ask again."
            )
        return first + self._beyond(few, more, each)

    def _beyond(self, few: int, more: int, each: float) -> float:
        """Return the time of a whole run beyond that of `few` steps, where `more` add `each` a step.

        Rows of a sample that the first block lacks are captured for it alone: in a short run with small
        blocks nearly all rows, in a long one few. They are told apart from steps. A step captures its rows
        too: half of what short runs add, or more, is its own, however far off the time of a row may be.
        """
        alone = [self._alone(n) for n in (few, more, self.config.n_steps)]
        row = self._of_row() if alone[2] > alone[0] else 0.0
        own = max(each - row * (alone[1] - alone[0]) / (more - few), each / 2)
        return own * (self.config.n_steps - few) + row * (alone[2] - alone[0])

    def peak(self, source: BlockSource) -> int:
        """Return what the process would have at most, whose source would be `source`."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        here = own if sys.platform == "darwin" else own * 2**10
        return here + (self._missing(source) if source.device.type == "cpu" else 0)

    def device_peak(self, source: BlockSource) -> int:
        """Return what tensors on the device of `source` would have at most."""
        if source.device.type != "cuda":
            return 0
        return torch.cuda.max_memory_allocated(source.device) + self._missing(source)

    def _missing(self, source: BlockSource) -> int:
        """Return what a block of the whole run has more than one of the longest short run."""
        return source.block_bytes - self._source(self.longest).block_bytes

    def _alone(self, n_steps: int) -> int:
        """Return how many rows of a run's sample are not of its first block."""
        rows = n_steps * self.config.batch_size
        return max(0, min(rows, SAMPLE_ROWS) - min(rows, self.config.buffer_tokens))

    def _of_row(self) -> float:
        """Return the time of a row that is captured for a sample alone."""
        with contextlib.closing(self._source(self.longest)) as source:
            source.sample(1)  # the block is made
            times, rows = [self.clock()], list[int]()
            for more in (0, TIMED_ROWS):
                rows.append(len(source.sample(self.config.buffer_tokens + more)))
                times.append(self.clock())
        spent = times[2] - times[1] - (times[1] - times[0])
        return max(0.0, spent / max(1, rows[1] - rows[0]))

    def _source(self, n_steps: int) -> BlockSource:
        names = [str(self.model.check_site(site)) for site in (self.sites or self.config.sites)]
        where: dict[str, Any] = {"activations": self.activations, "device": self.device}
        return source_of(self._short(n_steps), self.model, self.store, names, **where)

    def _short(self, n_steps: int) -> TrainConfig:
        return dataclasses.replace(self.config, n_tokens=n_steps * self.config.batch_size)

    def _run(self, n_steps: int) -> float:
        self.longest = max(self.longest, n_steps)
        short, run = self._short(n_steps), (self.model, self.store)
        where: dict[str, Any] = {"activations": self.activations, "device": self.device}
        with _folder(self.out) as folder:
            started = self.clock()
            if self.sites:
                train_suite(short, self.sites, *run, folder / "run", **where)
            else:
                train(short, *run, folder / "run", **where)
            return self.clock() - started


@contextlib.contextmanager
def _folder(out: Path | str | None) -> Generator[Path]:
    """Yield a folder in the nearest one above `out` that is there, or among temporary ones, and remove it."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as made:
            yield Path(made)
        return
    beside = next(p for p in Path(out).absolute().parents if p.is_dir())
    _sweep(beside)
    folder = beside / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    with only_writer(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove what killed processes have left in `place`; what another one holds, or owns, stays."""
    for folder in place.glob(f"{PREFIX}*"):
        ours = OURS.fullmatch(folder.name) and not folder.is_symlink() and (folder / LOCK).is_file()
        if not ours:
            continue
        with contextlib.suppress(ArtifactBusyError, PermissionError), only_writer(folder):
            shutil.rmtree(folder, ignore_errors=True)
