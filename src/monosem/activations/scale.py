"""Scales: the number by which the activations of each site are divided, so that E‖x‖² = d_in.

    scale = sqrt(E‖x‖² / d_in)

Learning rates and sparsity coefficients then mean the same at every site of every model, and none of
several sites is louder than the others. It is measured once on a sample and folded into the dictionary
when training ends.
"""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations.source import ActivationSource, Batch
from monosem.core.config import Json
from monosem.core.errors import ConfigError


def scale_of(x: Float[Tensor, "n d_in"]) -> float:
    """Return sqrt(E‖x‖² / d_in); `ConfigError` where that is no scale.

    >>> scale_of(torch.tensor([[3.0, 4.0], [0.0, 5.0]]))  # sqrt(25 / 2)
    3.5355339059327378
    """
    total = x.square().sum(dtype=torch.float32 if x.device.type == "mps" else torch.float64)
    scale = (float(total) / x.numel()) ** 0.5
    if not 0 < scale < float("inf"):
        raise ConfigError(
            f"The root mean square of the activations is {scale}: they are all zero, or not finite. "
            "Choose another site."
        )
    return scale


class ScaledSource:
    """The rows of another source, `x` and `target` divided by `scale`; the stream is the other's.

    A scale is a number, or one for each column. A target that is not `x` has its own where
    `target_scale` is given. With `columns` the rows are those of one of several sites that stand side
    by side, which is read and written.
    """

    def __init__(
        self,
        source: ActivationSource,
        scale: float | Float[Tensor, " d_in"],
        columns: slice | None = None,
        *,
        target_scale: float | Float[Tensor, " d_out"] | None = None,
    ) -> None:
        self._source, self.scale, self._columns = source, scale, columns
        self._target_scale = scale if target_scale is None else target_scale
        self.batch_size, self.d_in, self.d_out = source.batch_size, source.d_in, source.d_out
        if columns is not None:
            self.d_in = self.d_out = columns.stop - columns.start

    @property
    def epoch(self) -> float:
        """How often every row has been served."""
        return self._source.epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield scaled batches for ever."""
        return map(self.scaled, self._source)

    def state_dict(self) -> Json:
        """Return the position of the source below; the scale belongs to the run."""
        return self._source.state_dict()

    def load_state_dict(self, state: Json) -> None:
        """Go to where `state` was taken."""
        self._source.load_state_dict(state)

    def sample(self, n: int) -> Batch:
        """Return `n` scaled rows without moving the stream."""
        return self.scaled(self._source.sample(n))

    def scaled(self, batch: Batch) -> Batch:
        """Return a batch of the source below, scaled."""
        if self._columns is not None:
            x = batch.x[:, self._columns] / self.scale
            return dataclasses.replace(batch, x=x, target=x)
        x = batch.x / self.scale
        target = x if batch.target is batch.x else batch.target / self._target_scale
        return dataclasses.replace(batch, x=x, target=target)
