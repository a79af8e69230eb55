"""Coefficient: the weight of a sparsity penalty, fixed or steered to a number of active latents.

    e         = log(active latents a row / l0)
    log value <- log value + e / (1 + e²) / (memory * n_steps)          after the warm-up
    weight    = rise * value * exp(gain * e, bounded)     rise: from 0 to 1 over the warm-up

The number of active latents that a fixed coefficient leads to depends on the width, the site and the
length of the run; a target means the same everywhere. Far from the target the value hardly moves, for
there latents need time, not another coefficient. Steering asks the device for nothing, and its state
is a buffer, so that a run resumes where it was.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.config import DictionaryConfig, above_zero, at_least, share
from monosem.dictionaries.state import TrainState


class Steering(NamedTuple):
    """How a coefficient follows the count of active latents."""

    first: float = 0.25
    """Its first value, as a share of what the active latents should be worth."""
    memory: float = 0.05
    """Share of the run over which a somewhat wrong count would change it by its own factor."""
    gain: float = 1.0
    """By how many powers of a count's factor the weight answers at once."""
    bound: float = 1.0
    """Largest logarithm of that answer."""


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig(DictionaryConfig):
    """Knobs that all kinds with a penalty on latents have."""

    l1: float | None = None
    """Coefficient of the penalty, mean over the batch, beside the error, mean over entries; training
    then starts as in the paper, with half of all latents active. None steers it to `l0`, and starts
    there."""
    l0: float = 32.0
    """Active latents a vector that are aimed at where `l1` is None."""
    l1_warmup: float = 0.1
    """Share of the run over which the coefficient rises from zero."""

    def __post_init__(self) -> None:
        """Refuse a negative penalty, and a target or a share that cannot be."""
        super().__post_init__()
        at_least("l1", self.l1 or 0.0, 0)
        above_zero("l0", self.l0)
        share("l1_warmup", self.l1_warmup)

    @override
    def check_trainable(self) -> None:
        """Refuse a target that no dictionary of this width can reach."""
        if self.l1 is None and self.l0 > self.n_latents:
            raise ConfigError(
                f"`l0` is {self.l0:g} active latents a vector, but there are {self.n_latents}. Lower `l0`, "
                "or raise `n_latents`."
            )


class Coefficient(nn.Module):
    """The weight of one penalty; `value` is saved with the dictionary."""

    value: Tensor

    def __init__(self, config: PenaltyConfig, steering: Steering | None = None) -> None:
        super().__init__()
        self._config, self._steering = config, steering or Steering()
        # l0 latents that share ‖x‖² = d_in are sqrt(d_in / l0) strong; a penalty of that size on Σ latents,
        # beside Σ errors² rather than their mean, is what makes them worth their while. Less is better
        # at first: too many active latents are soon fewer, but too few of them leave others dead
        guess = self._steering.first * (max(1, config.d_in) * config.l0) ** -0.5
        self.register_buffer("value", torch.tensor(guess if config.l1 is None else config.l1))

    @torch.no_grad()
    def forward(self, l0: Float[Tensor, ""], state: TrainState) -> Float[Tensor, ""]:
        """The weight of this step, in which `l0` latents a row were active."""
        rise = min(1.0, (state.step + 1) / max(1.0, self._config.l1_warmup * state.n_steps))
        if self._config.l1 is not None:
            return rise * self.value
        _, memory, gain, bound = self._steering
        l0 = state.ranks.mean(l0.to(self.value.dtype))
        error = (l0 / self._config.l0).clamp_min(1e-6).log()
        if rise == 1.0:
            self.value.mul_((error / (1 + error.square()) / (memory * state.n_steps)).exp())
        return rise * self.value * (gain * error).clamp(-bound, bound).exp()

    @torch.no_grad()
    def rescale_(self, factor: Float[Tensor, ""]) -> None:
        """Multiply the coefficient, for a penalty that is now measured otherwise."""
        self.value.mul_(factor)
