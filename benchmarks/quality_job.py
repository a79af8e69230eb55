"""Job and Coder: what every library is asked to train, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from monosem.activations.source import TensorSource
from monosem.training.settings import TrainConfig

WARM_UP = 0.05
"""Share of a run over which peers with a warm-up rise, as ours do."""
DECAY = 0.2
"""Share of a run over which tuned learning rates fall."""
DEAD = TrainConfig.dead_after_share
THRESHOLDED = ("batch_topk", "matryoshka")
"""Kinds whose latents are all that reach one threshold."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    architecture: str
    k: int
    n_latents: int
    steps: int
    batch: int
    seed: int
    tuned: bool = False
    multiple: float = 1.0
    """The learning rate, in multiples of the library's default."""
    coefficient: float = 1.0
    """The penalty of a peer that knows no target, in multiples of its default."""

    def rows(self, x: Tensor) -> TensorSource:
        """The stream of this run's batches: a function of its seed, the same for every library."""
        return TensorSource(x, batch_size=self.batch, seed=self.seed)

    def share(self, part: float) -> int:
        """So much of the run, in steps."""
        return max(1, round(part * self.steps))


@dataclass(frozen=True, kw_only=True)
class Coder:
    """A trained dictionary: how its library encodes and decodes raw activations."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    directions: Tensor
    """One row a latent."""
    lr: float
    """Peak learning rate of the run."""
    set_threshold: Callable[[float], object] | None = None
    """Sets the one threshold of a thresholded kind."""
