"""What passes between a dictionary and whoever trains it: the state of the run, a source of samples."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.runtime.distributed import ALONE, World


@dataclass
class TrainState:
    """What a loss may know of training; it belongs to the trainer and is only read."""

    step: int
    """Steps done before this one."""
    n_steps: int
    """Steps of the whole run."""
    tokens_since_fired: Int64[Tensor, " n_latents"]
    """Vectors seen since each latent last fired."""
    dead: Bool[Tensor, " n_latents"]
    """Which of them have been silent for longer than the trainer's threshold."""
    generator: torch.Generator
    """For draws that belong to training; the trainer saves and restores it."""
    ranks: World = ALONE
    """Who has which rows of each batch; what is measured on a batch is measured on all of them."""


@runtime_checkable
class Sample(Protocol):
    """Activations and what should be reconstructed from them."""

    @property
    def x(self) -> Tensor:
        """What is read, `[n d_in]`."""
        ...

    @property
    def target(self) -> Tensor:
        """What is reconstructed, `[n d_out]`."""
        ...


@runtime_checkable
class SampleSource(Protocol):
    """Where a dictionary may ask for fresh activations; every `ActivationSource` is one."""

    @property
    def batch_size(self) -> int:
        """Vectors in each batch of the stream."""
        ...

    def sample(self, n: int) -> Sample:
        """`n` vectors, without moving the stream."""
        ...
