"""Features for toy models: each is off, or uniform between 0 and 1, with a chance of its own to be on.

    independent      each is on with chance p
    correlated       features 0 and 1, 2 and 3, … are on together, with chance p a pair
    anticorrelated   of each pair one at most is on: each with chance p, so that p is at most 0.5

After Elhage et al. 2022, "Toy Models of Superposition", sections 2 and 5.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError

Structure = Literal["independent", "correlated", "anticorrelated"]
STRUCTURES: tuple[Structure, ...] = ("independent", "correlated", "anticorrelated")


@dataclass(frozen=True, kw_only=True)
class ToyFeatures:
    """Where the inputs of toy models come from; many models read theirs side by side."""

    n_features: int = 5
    """Features of one model."""
    density: tuple[float, ...] = (0.1,)
    """Chance of a feature to be on, one a model: 1 - S, in the paper's letter."""
    structure: Structure = "independent"
    """Which features are on together: independent, correlated or anticorrelated pairs."""

    def __post_init__(self) -> None:
        """Refuse features that cannot be drawn."""
        if self.n_features < 1:
            raise ConfigError(f"`n_features` must be at least 1, got {self.n_features}.")
        if self.structure not in STRUCTURES:
            raise ConfigError(
                f"`structure` is one of {', '.join(STRUCTURES)}, got {self.structure!r}."
            )
        highest = 0.5 if self.structure == "anticorrelated" else 1.0
        wrong = [p for p in self.density if not 0 < p <= highest]
        if wrong or not self.density:
            raise ConfigError(
                f"Each `density` must be above 0 and at most {highest} with {self.structure} features, "
                f"got {wrong or 'none'}."
            )
        if self.structure != "independent" and self.n_features % 2:
            raise ConfigError(
                f"{self.structure} features come in pairs: `n_features` must be even, got "
                f"{self.n_features}."
            )

    @property
    def n_models(self) -> int:
        """Models that are fed side by side."""
        return len(self.density)

    def sample(
        self, batch: int, generator: torch.Generator
    ) -> Float[Tensor, "batch n_models n_features"]:
        """Return `batch` inputs for each model."""
        values = torch.rand(batch, self.n_models, self.n_features, generator=generator)
        return values * self._on(batch, generator)

    def _on(self, batch: int, generator: torch.Generator) -> Tensor:
        chance = torch.tensor(self.density)[:, None]
        if self.structure == "independent":
            drawn = torch.rand(batch, self.n_models, self.n_features, generator=generator)
            return drawn < chance
        drawn = torch.rand(batch, self.n_models, self.n_features // 2, generator=generator)
        if self.structure == "correlated":
            return (drawn < chance).repeat_interleave(2, dim=2)
        # One number decides for both: under p it is the first, from p to 2p the second.
        first, second = drawn < chance, (drawn >= chance) & (drawn < 2 * chance)
        return torch.stack([first, second], dim=3).flatten(2)
