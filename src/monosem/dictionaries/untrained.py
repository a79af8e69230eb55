"""Untrained: what dictionaries share that nobody trains, whose loss is only there to be compared."""

import abc
from typing import ClassVar, TypeVar

from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from monosem.dictionaries.base import Dictionary, DictionaryConfig, TrainState
from monosem.dictionaries.losses import mse

C = TypeVar("C", bound=DictionaryConfig)


class Untrained(Dictionary[C], abc.ABC):
    """A dictionary without parameters."""

    trainable: ClassVar[bool] = False
    loss_scale: ClassVar[str] = "mean over entries"

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse`, which nothing can lower; counts who fired."""
        latents = self.encode(x)
        self.firing: Int64[Tensor, " n_latents"] = (latents > 0).sum(0)
        return {"mse": mse(self.decode(latents), target)}
