"""One claim: what a derivation allows, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, what was measured and what was proved."""

    claim: str
    """In words."""
    dtype: str
    """Number type of the arithmetic."""
    measured: float
    """What came out; an error, unless the claim says otherwise."""
    bound: float
    """What the derivation allows."""

    @property
    def holds(self) -> bool:
        """Whether the measurement keeps to the bound."""
        return self.measured <= self.bound


def checked(claim: str, dtype: torch.dtype, bound: float, measure: Callable[[], float]) -> Claim:
    """Return a claim whose bound is there before anything is measured."""
    return Claim(
        claim=claim, dtype=str(dtype).removeprefix("torch."), bound=bound, measured=measure()
    )


def draw(seed: int, *shape: int) -> Tensor:
    """Return normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gamma(n: int, dtype: torch.dtype) -> float:
    """Return n roundings of a number type, and a tenth for their products: Higham's γ_n."""
    return 1.1 * n * torch.finfo(dtype).eps / 2
