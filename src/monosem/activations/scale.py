"""Input scale: one number by which activations are divided, so that E‖x‖² = d_in.

    scale = sqrt(E‖x‖² / d_in)

Learning rates and sparsity coefficients then mean the same at every site of every model. It is
measured once on a sample and folded into the dictionary when training ends.
"""

from collections.abc import Iterator

import torch

from monosem.activations.source import ActivationSource, Batch
from monosem.core.config import Json
from monosem.core.errors import ConfigError


def measure_scale(source: ActivationSource, n: int = 32_768) -> float:
    """Return sqrt(E‖x‖² / d_in) over a sample of `n` rows."""
    x = source.sample(n).x
    total = x.square().sum(dtype=torch.float32 if x.device.type == "mps" else torch.float64)
    scale = (float(total) / x.numel()) ** 0.5
    if not 0 < scale < float("inf"):
        raise ConfigError(
            f"The root mean square of the activations is {scale}: they are all zero, or not finite. "
            "Choose another site."
        )
    return scale


class ScaledSource:
    """The rows of another source, `x` and `target` divided by `scale`; the stream is the other's."""

    def __init__(self, source: ActivationSource, scale: float) -> None:
        self._source, self.scale = source, scale
        self.batch_size, self.d_in, self.d_out = source.batch_size, source.d_in, source.d_out

    @property
    def epoch(self) -> float:
        """How often every row has been served."""
        return self._source.epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield scaled batches for ever."""
        return map(self._scaled, self._source)

    def state_dict(self) -> Json:
        """Return the position of the source below; the scale belongs to the run."""
        return self._source.state_dict()

    def load_state_dict(self, state: Json) -> None:
        """Go to where `state` was taken."""
        self._source.load_state_dict(state)

    def sample(self, n: int) -> Batch:
        """Return `n` scaled rows without moving the stream."""
        return self._scaled(self._source.sample(n))

    def _scaled(self, batch: Batch) -> Batch:
        x = batch.x / self.scale
        target = x if batch.target is batch.x else batch.target / self.scale
        return Batch(x, target, batch.rows)
