"""ActivationSource: an endless stream of activations that can be stopped and gone on with bit for bit.

A source is shuffled, serves every row once an epoch, and its state is a few integers. A trainer asks
nothing about where the rows come from: memory, a live model, a disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.config import Json
from monosem.core.errors import ConfigError, ResumeError, ShapeMismatchError

SAMPLE = 1
"""Tells the random numbers of samples from those of the stream, whose tag is 0."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Activations, what should be made of them, and which tokens they are."""

    x: Float[Tensor, "batch d_in"]
    target: Float[Tensor, "batch d_out"]
    """The same tensor as `x` where a dictionary reconstructs what it reads."""
    rows: Int64[Tensor, " batch"]
    """Rows of the token store: context * tokens a context + position. On the CPU."""

    def __len__(self) -> int:
        return len(self.x)


@runtime_checkable
class ActivationSource(Protocol):
    """What a trainer needs of a source."""

    @property
    def batch_size(self) -> int:
        """Rows of every batch."""
        ...

    @property
    def d_in(self) -> int:
        """Width of `x`."""
        ...

    @property
    def d_out(self) -> int:
        """Width of `target`."""
        ...

    @property
    def epoch(self) -> float:
        """How often every row has been served, to the fraction that is known."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever, from the current position on."""
        ...

    def state_dict(self) -> Json:
        """Return the position after the last batch served, as values that JSON holds."""
        ...

    def load_state_dict(self, state: Json) -> None:
        """Go to a position that `state_dict` returned; `ResumeError` if it is not of this source."""
        ...

    def sample(self, n: int) -> Batch:
        """Return `n` rows drawn at random, all there are if fewer; the stream does not move.

        A function of the current position, so a resumed run draws what the whole one drew.
        """
        ...


class TensorSource:
    """Rows that are already in memory, in a fresh seeded permutation each epoch."""

    def __init__(
        self,
        x: Float[Tensor, "n d_in"],
        target: Float[Tensor, "n d_out"] | None = None,
        *,
        batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        """Serve the rows of `x`, numbered in order; without a `target` it is `x`."""
        check_batch_size(batch_size)
        if len(x) == 0:
            raise ConfigError("The source has no rows. Give it at least one.")
        if target is not None and len(target) != len(x):
            raise ShapeMismatchError(
                f"`x` has {len(x)} rows, `target` {len(target)}. They pair up."
            )
        self._x, self._target = x, x if target is None else target
        self._batch_size, self._seed = batch_size, seed
        self._epoch, self._position = 0, 0
        self._order = self._permutation(0)

    @property
    def batch_size(self) -> int:
        """Rows of every batch."""
        return self._batch_size

    @property
    def d_in(self) -> int:
        """Width of `x`."""
        return self._x.shape[1]

    @property
    def d_out(self) -> int:
        """Width of `target`."""
        return self._target.shape[1]

    @property
    def epoch(self) -> float:
        """How often every row has been served."""
        return self._epoch + self._position / len(self._x)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever; one may begin in an epoch and end in the next."""
        while True:
            parts: list[np.ndarray] = []
            missing = self._batch_size
            while missing:
                if self._position == len(self._x):
                    self._epoch, self._position = self._epoch + 1, 0
                    self._order = self._permutation(self._epoch)
                part = self._order[self._position : self._position + missing]
                self._position += len(part)
                missing -= len(part)
                parts.append(part)
            yield self._take(np.concatenate(parts))

    def state_dict(self) -> Json:
        """Return epoch and position."""
        return {"epoch": self._epoch, "position": self._position, "n_rows": len(self._x)}

    def load_state_dict(self, state: Json) -> None:
        """Go to where `state` was taken."""
        if state.get("n_rows") != len(self._x):
            raise ResumeError(
                f"The position was taken in a source of {state.get('n_rows')} rows, this one has "
                f"{len(self._x)}. Resume with the same activations."
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._permutation(self._epoch)

    def sample(self, n: int) -> Batch:
        """Return `n` rows drawn without replacement, all if there are fewer."""
        generator = np.random.default_rng([self._seed, SAMPLE, self._epoch, self._position])
        return self._take(generator.permutation(len(self._x))[:n])

    def _permutation(self, epoch: int) -> Int64[np.ndarray, " n"]:
        return np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._x))

    def _take(self, rows: Int64[np.ndarray, " batch"]) -> Batch:
        chosen = torch.from_numpy(rows)
        on_device = chosen.to(self._x.device)
        x = self._x[on_device]
        target = x if self._target is self._x else self._target[on_device]
        return Batch(x, target, chosen)


def check_batch_size(batch_size: int) -> None:
    """Raise `ConfigError` unless a batch has at least one row."""
    if batch_size < 1:
        raise ConfigError(f"`batch_size` must be at least 1, got {batch_size}.")
