"""p-anneal: a ReLU dictionary whose penalty turns from a sum of latents into a count of them.

    latents = relu((x - b_dec) @ W_enc + b_enc)                                          (relu.py)
    x_hat   = latents @ W_dec + b_dec
    loss    = mse(x_hat, target) + l1 * mean over the batch of Σ (latents + OFFSET)^p - OFFSET^p
    p       = 1, and from `anneal_start` on linearly down to `p_end` at the end of the run
    l1      <- l1 * Σ latents^p / Σ latents^p'           whenever p becomes p', so that nothing jumps

With p = 1 every active latent is pulled down by the same amount; the smaller p, the less the strong
ones are, and the more the weak. The slope of latents^p has no bound at zero, hence the offset. Karvonen
et al. 2024, arXiv:2408.00113, section 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from monosem.dictionaries.base import TrainState
from monosem.dictionaries.config import share
from monosem.dictionaries.losses import mse
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.selection import above

OFFSET = 1e-3
"""Latents far below this are not told apart; activations have a mean square of 1."""


@dataclass(frozen=True, kw_only=True)
class PAnnealConfig(ReLUConfig):
    """Knobs of p-annealing, beside those of ReLU."""

    p_end: float = 0.2
    """Exponent at the end of the run."""
    anneal_start: float = 0.2
    """Share of the run after which the exponent begins to fall."""

    def __post_init__(self) -> None:
        """Refuse an exponent and a share that cannot be."""
        super().__post_init__()
        share("p_end", self.p_end)
        share("anneal_start", self.anneal_start)

    def exponent(self, step: int, n_steps: int) -> float:
        """The exponent of the step that follows `step` steps.

        >>> config = PAnnealConfig(p_end=0.2, anneal_start=0.5)
        >>> [round(config.exponent(step, 10), 2) for step in (0, 5, 6, 8, 10)]
        [1.0, 1.0, 0.84, 0.52, 0.2]
        """
        first = self.anneal_start * n_steps
        done = (step - first) / max(1.0, n_steps - first)
        return 1 - (1 - self.p_end) * min(1.0, max(0.0, done))


class PAnneal(ReLU, name="p_anneal", config=PAnnealConfig):
    """The dictionary of Karvonen et al."""

    def __init__(self, config: PAnnealConfig) -> None:
        super().__init__(config)
        self._exponent = config.exponent

    @override
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`mse` and `l1`, which is the penalty on powers of latents."""
        chosen = above(x, self.centre, self.W_enc, self.b_enc, 0.0)
        latents = chosen.pre.relu()
        self.firing = chosen.count(latents)
        x_hat = chosen.decode(latents, self.decoders) + self.b_dec
        weight = self.coefficient(self.firing.sum() / len(x), state)
        p = self._exponent(state.step, state.n_steps)
        total = penalty(latents, p)
        self._rescale_(latents.detach(), total.detach(), state)
        return {"mse": mse(x_hat, target), "l1": weight * total / len(x)}

    def _rescale_(
        self, latents: Float[Tensor, "*entries"], total: Float[Tensor, ""], state: TrainState
    ) -> None:
        """Keep the penalty what it is while its exponent falls."""
        following = penalty(latents, self._exponent(state.step + 1, state.n_steps))
        total, following = state.ranks.sum_(torch.stack([total, following]))
        silent = following <= 0
        self.coefficient.rescale_(
            torch.where(silent, 1.0, total / torch.where(silent, 1.0, following))
        )


def penalty(latents: Float[Tensor, "*entries"], p: float) -> Float[Tensor, ""]:
    """Σ latents^p, offset so that its slope is finite; Σ latents where p is 1.

    >>> penalty(torch.tensor([0.0, 0.5]), 1.0)
    tensor(0.5000)
    """
    return ((latents + OFFSET).pow(p) - OFFSET**p).sum()
