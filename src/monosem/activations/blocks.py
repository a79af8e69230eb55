"""BlockSource: rows served block by block, each block's in a seeded permutation.

    epoch  = the blocks, one after another; which rows a block has is drawn anew each epoch
    stream = the rows of each block in a seeded permutation, block after block, epoch after epoch

What a block holds, the heir says: contexts to be captured, chunks of a store to be read. The state is
(epoch, block, position), so a resumed run makes one block again and goes on bit for bit. With `ahead`
the next block is made by a thread while this one is served: worth its memory, a second block, where
making one waits for a disk or works on another device.

Rows may be held in another form than they are served in: `Rows` are picked when their batch is due.
"""

import abc
import contextvars
import itertools
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.activations.source import SAMPLE, Batch, check_batch_size
from monosem.core.config import Json
from monosem.core.errors import ConfigError, ResumeError
from monosem.runtime.streams import BesideStream


@runtime_checkable
class Rows(Protocol):
    """The rows of a block, in whatever form they are held."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def pick(self, which: Int64[Tensor, " n"]) -> Batch:
        """Return the rows `which`, counted from the first; `which` lies on the CPU."""
        ...


class HeldRows:
    """Rows held as they are served."""

    def __init__(self, rows: Batch) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def pick(self, which: Int64[Tensor, " n"]) -> Batch:
        """Return the rows `which`."""
        there = which.to(self._rows.x.device)
        x = self._rows.x[there]
        target = x if self._rows.target is self._rows.x else self._rows.target[there]
        return Batch(x, target, self._rows.rows[which])


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one block, and the order in which they are served."""

    rows: Rows
    order: Int64[Tensor, " n_rows"]
    n_left_out: int = 0
    """Rows that were not finite."""
    report: str = ""
    """What to say about them."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: slice | Int64[Tensor, " n"]) -> Batch:
        """Return the rows at `places` of the order."""
        return self.rows.pick(self.order[places])


class BlockSource(abc.ABC):
    """An `ActivationSource` whose rows come in blocks.

    Several sites stand side by side, `columns` says where in `x`.
    """

    def __init__(
        self,
        reads: Mapping[str, int],
        writes: Mapping[str, int],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        ahead: bool,
    ) -> None:
        """`reads` and `writes` are the sites of `x` and of `target`, with their widths."""
        check_batch_size(batch_size)
        self._reads, self._writes = dict(reads), dict(writes)
        self.d_in, self.d_out = sum(reads.values()), sum(writes.values())
        self.batch_size, self._seed = batch_size, seed
        self.device = device
        """Where rows are served."""
        self._left_out = 0
        self._epoch, self._block, self._position = 0, 0, 0
        self._held: Block | None = None
        self._thread = ThreadPoolExecutor(1, "next block of activations") if ahead else None
        self._closing = threading.Event()
        self._stream = BesideStream(device)
        self._coming: tuple[tuple[int, int], Future[Block]] | None = None

    @property
    def columns(self) -> dict[str, slice]:
        """Which columns of `x` each site has."""
        ends = itertools.accumulate(self._reads.values())
        return {
            site: slice(end - width, end)
            for (site, width), end in zip(self._reads.items(), ends, strict=True)
        }

    @property
    def widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of the sites in `x`, and of those in `target`."""
        return tuple(self._reads.values()), tuple(self._writes.values())

    @property
    def same(self) -> bool:
        """Whether the target is what is read."""
        return list(self._writes) == list(self._reads)

    @property
    @abc.abstractmethod
    def block_bytes(self) -> int:
        """Memory of the rows of one block; twice that where blocks are made ahead."""

    @property
    @abc.abstractmethod
    def n_blocks(self) -> int:
        """Blocks of an epoch."""

    @abc.abstractmethod
    def _made(self, epoch: int, block: int) -> Block:
        """Return a block, its order `_order_within`; a function of its arguments alone."""

    @abc.abstractmethod
    def _elsewhere(self, n: int, generator: np.random.Generator) -> Batch:
        """Return `n` rows of other blocks than the one at hand, all there are if fewer."""

    @abc.abstractmethod
    def _identity(self) -> Json:
        """Return what a position is counted in."""

    @property
    def n_not_finite(self) -> int:
        """Rows left out so far, those of the block at hand included, because they were not finite."""
        return self._left_out + (0 if self._held is None else self._held.n_left_out)

    @property
    def epoch(self) -> float:
        """How often every row has been served, counted in blocks within the epoch."""
        within = 0.0 if self._held is None else self._position / max(1, len(self._held))
        return self._epoch + (self._block + within) / self.n_blocks

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever; one may begin in a block and end in the next."""
        while True:
            parts: list[Batch] = []
            missing, empty = self.batch_size, 0
            while missing:
                block = self._current()
                if self._position >= len(block):
                    empty = empty + 1 if len(block) == 0 else 0
                    if empty == self.n_blocks:
                        raise ConfigError(
                            "There is no ordinary token to train on: every block is empty. Add text."
                        )
                    del block  # or it would be held while the next one is made
                    self._advance()
                    continue
                part = block.take(slice(self._position, self._position + missing))
                self._position += len(part)
                missing -= len(part)
                parts.append(part)
            yield joined(parts)

    def state_dict(self) -> Json:
        """Return epoch, block and position, and what they were counted in."""
        place = {"epoch": self._epoch, "block": self._block, "position": self._position}
        return {**place, "left_out_before": self._left_out, **self._identity()}

    def load_state_dict(self, state: Json) -> None:
        """Go to where `state` was taken; the block is made again when it is asked for."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ResumeError(
                    f"The position was taken with `{name}` {state.get(name)}; this source has {value}. "
                    "Resume with the same model, tokens, sites and buffer."
                )
        self._epoch, self._block, self._position = (
            int(state[k]) for k in ("epoch", "block", "position")
        )
        self._left_out, self._held = int(state["left_out_before"]), None

    def sample(self, n: int) -> Batch:
        """Return `n` rows drawn at random: from the block at hand, and others where it has fewer."""
        place = [self._epoch, self._block, self._position]
        generator = np.random.default_rng([self._seed, SAMPLE, *place])
        block = self._current()
        drawn = block.take(torch.from_numpy(generator.permutation(len(block))[:n]))
        if len(drawn) == n:
            return drawn
        if self._coming is not None:  # what makes blocks is not used by two at once
            self._coming[1].exception()
        return joined([drawn, self._elsewhere(n - len(drawn), generator)])

    def close(self) -> None:
        """End the thread that makes blocks ahead, soon; what is asked for later is made when it is."""
        thread, self._thread, self._coming = self._thread, None, None
        if thread is not None:
            self._closing.set()
            thread.shutdown(cancel_futures=True)
            self._closing.clear()

    def whole(self, block: int) -> tuple[Batch, int]:
        """Return the rows of a block of the first epoch as they are served, and how many are left out."""
        made = self._made(0, block)
        if made.report:
            sys.stderr.write(made.report)
        return made.take(slice(None)), made.n_left_out

    def _current(self) -> Block:
        if self._held is None:
            self._held = self._taken(self._epoch, self._block)
            if self._thread is not None:
                place = self._after(self._epoch, self._block)
                context = contextvars.copy_context()  # with the run's policy for products
                work = partial(self._made_ahead, self._stream.here(), *place)
                self._coming = place, self._thread.submit(context.run, work)
        return self._held

    def _made_ahead(self, now: torch.cuda.Event | None, epoch: int, block: int) -> Block:
        with self._stream.after(now):
            return self._made(epoch, block)

    def _taken(self, epoch: int, block: int) -> Block:
        """Return a block: the one that is on its way, or one made here."""
        coming, self._coming = self._coming, None
        made = None
        if coming is not None:
            made = coming[1].result()  # also where another was asked for: the thread must be free
        if made is None or coming is None or coming[0] != (epoch, block):
            made = self._made(epoch, block)
        if made.report:
            sys.stderr.write(made.report)
        return made

    def _check_wanted(self) -> None:
        """Raise where the block that is being made is no longer wanted; between two parts of it."""
        if self._closing.is_set():
            raise CancelledError

    def _order_within(self, epoch: int, block: int, n: int) -> Int64[Tensor, " n_rows"]:
        """Return the order in which the rows of a block are served."""
        generator = np.random.default_rng([self._seed, 0, epoch, block])
        return torch.from_numpy(generator.permutation(n))

    def _advance(self) -> None:
        self._left_out = self.n_not_finite
        self._held = None  # let go of its memory before the next one is made
        self._epoch, self._block = self._after(self._epoch, self._block)
        self._position = 0

    def _after(self, epoch: int, block: int) -> tuple[int, int]:
        return (epoch, block + 1) if block + 1 < self.n_blocks else (epoch + 1, 0)


def joined(parts: list[Batch]) -> Batch:
    """Return the rows of several batches in one."""
    if len(parts) == 1:
        return parts[0]
    x = torch.cat([p.x for p in parts])
    same = parts[0].target is parts[0].x
    target = x if same else torch.cat([p.target for p in parts])
    return Batch(x, target, torch.cat([p.rows for p in parts]))
