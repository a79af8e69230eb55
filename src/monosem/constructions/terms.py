"""What heads of internal dimension 1 compute from one number s: sums of (slope·s + offset)·σ(gain·s + shift).

A head that attends to {its own row, the bias row} with scores {gain·s + shift, 0} and values
{slope·s + offset, 0} gives exactly one such term. So a₁·SiLU(a₂ s) is one head (slope a₁a₂, gain
a₂), σ(g) is one head (slope 0, offset 1), the linear map s is one head (slope 2, gain 0: the
softmax of two equal scores is exactly ½), tanh(s) = 2σ(2s) − 1 is one head and a constant, and
every other activation function is approximated by a sum.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.constructions.functions import Line
from monosem.core.errors import ConfigError

SILU_DIP = 0.2784645427610738
"""max over x of |ReLU(x) − SiLU(x)|, reached at x = −1.27846; with gain β it is this over β."""

_MAX_Y_SLOPE = 0.22388
"""max over y of |y σ'(y)|, rounded up."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """(slope·s + offset)·σ(gain·s + shift): one head."""

    slope: float
    """Of the head's value."""
    offset: float = 0.0
    """Of the head's value."""
    gain: float
    """Of the head's score."""
    shift: float = 0.0
    """Of the head's score."""

    def lipschitz(self) -> float:
        """Return a bound on the slope everywhere."""
        if self.gain == 0.0:
            return abs(self.slope) / (1 + math.exp(-self.shift))
        crossed = abs(self.offset * self.gain - self.slope * self.shift)
        return abs(self.slope) * (1 + _MAX_Y_SLOPE) + crossed / 4

    def line(self, side: int) -> Line:
        """Return the line the term approaches at x → −∞ (`side` −1) or +∞ (`side` 1)."""
        constant = 1 / (1 + math.exp(-self.shift))
        weight = constant if self.gain == 0.0 else float(self.gain * side > 0)
        return self.slope * weight, self.offset * weight

    def tail(self, r: float) -> float:
        """Bound the distance from `line` wherever |x| ≥ r; infinite where r is too small to say."""
        if self.gain == 0.0:
            return 0.0
        steep = abs(self.gain)
        if self.slope != 0.0 and steep * r < 1.0:
            return math.inf
        return (abs(self.slope) * r + abs(self.offset)) * math.exp(abs(self.shift) - steep * r)


@dataclass(frozen=True, kw_only=True)
class HeadSum:
    """A constant and a sum of terms: what so many heads make of one number."""

    terms: tuple[Term, ...]
    """One head each."""
    constant: float = 0.0
    """Goes into the output bias."""

    def __post_init__(self) -> None:
        """Refuse a sum of nothing."""
        if not self.terms:
            raise ConfigError("A sum of heads needs at least one term, got none.")

    def __call__(self, s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the sum for every entry of `s`."""
        parts = [(t.slope * s + t.offset) * torch.sigmoid(t.gain * s + t.shift) for t in self.terms]
        return torch.stack(parts).sum(0) + self.constant

    @property
    def n_heads(self) -> int:
        """Heads for each neuron."""
        return len(self.terms)

    @property
    def size(self) -> float:
        """Σ |slope|: how much larger the terms are than their sum, hence what cancellation costs."""
        return sum(abs(t.slope) for t in self.terms)

    @property
    def level(self) -> float:
        """Σ |offset| + |constant|: the same for the parts that do not grow with s."""
        return sum(abs(t.offset) for t in self.terms) + abs(self.constant)

    def lipschitz(self) -> float:
        """Return a bound on the slope everywhere."""
        return sum(t.lipschitz() for t in self.terms)

    def line(self, side: int) -> Line:
        """Return the line the sum approaches on one side."""
        slopes, offsets = zip(*(t.line(side) for t in self.terms), strict=True)
        return sum(slopes), sum(offsets) + self.constant

    def tail(self, r: float) -> float:
        """Bound the distance from `line` wherever |x| ≥ r."""
        return sum(t.tail(r) for t in self.terms)


def scaled_silu(scale: float, gain: float) -> Term:
    """Return the term scale·SiLU(gain·s), the paper's generalised SiLU with a₁ = scale, a₂ = gain."""
    return Term(slope=scale * gain, gain=gain)


EXACT = {
    "silu": HeadSum(terms=(scaled_silu(1.0, 1.0),)),
    "quick_gelu": HeadSum(terms=(scaled_silu(1 / 1.702, 1.702),)),
    "sigmoid": HeadSum(terms=(Term(slope=0.0, offset=1.0, gain=1.0),)),
    "tanh": HeadSum(terms=(Term(slope=0.0, offset=2.0, gain=2.0),), constant=-1.0),
}
"""Functions that are a sum of heads by definition: x σ(x), x σ(1.702 x), σ(x) and 2σ(2x) − 1."""
