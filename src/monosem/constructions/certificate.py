"""How far a sum of heads is from an activation function, at most: a bound that holds, not a sample.

On [−r, r]: e = f − g has Lipschitz constant L ≤ L_f + L_g, so on a cell of half width w around m
|e| ≤ |e(m)| + L·w. Cells whose bound exceeds the largest |e(m)| found are split until none does by
more than the tolerance. Outside: both sides approach straight lines; if these agree, the error is
at most the sum of the two tails (`functions.py`, `terms.py`). A sum that is the function by definition
(`terms.EXACT`) needs none of it: its certificate is 0, by algebra.
"""

import math
from dataclasses import dataclass

import torch

from monosem.constructions.functions import Activation
from monosem.constructions.terms import EXACT, HeadSum
from monosem.core.errors import ConfigError

_FIRST, _SPLIT, _AT_ONCE = 4096, 4, 65_536
_CELLS = 40_000_000
_SAME_LINE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A bound on max |activation − sum of heads|, and how nearly it is reached."""

    radius: float
    """The bound `inside` is for |x| ≤ radius."""
    inside: float
    """No error on the interval is larger."""
    reached: float
    """The largest error found on the interval; `inside` exceeds it by the tolerance."""
    at: float
    """Where it was found."""
    outside: float
    """No error beyond the interval is larger; infinite where the two have different lines."""

    @property
    def everywhere(self) -> float:
        """The bound on the whole line."""
        return max(self.inside, self.outside)


def certify(
    activation: Activation, heads: HeadSum, *, radius: float = 20.0, tolerance: float = 1e-3
) -> Certificate:
    """Return the certified error of `heads` as `activation`; `tolerance` is relative to it."""
    if not radius >= 1.0:
        raise ConfigError(f"`radius` must be at least 1, got {radius}.")
    if EXACT.get(activation.name) == heads:
        return Certificate(radius=radius, inside=0.0, reached=0.0, at=0.0, outside=0.0)
    lipschitz = activation.lipschitz + heads.lipschitz()
    scale = (1 + heads.size) * (radius + 1) + heads.level
    rounding = 64 * torch.finfo(torch.float64).eps * scale
    # An even number of cells, so that none straddles 0, where ReLU has its corner.
    waiting = [_cells(-radius, radius, _FIRST)]
    best, at, n_seen = 0.0, 0.0, 0
    while waiting:
        middles, half = waiting.pop()
        errors = (activation(middles) - heads(middles)).abs()
        peak = int(errors.argmax())
        if float(errors[peak]) > best:
            best, at = float(errors[peak]), float(middles[peak])
        bound = best * (1 + tolerance) + rounding
        open_ = middles[errors + lipschitz * half > bound]
        waiting += [_split(part, half) for part in open_.split(_AT_ONCE) if len(part)]
        n_seen += middles.numel()
        if n_seen > _CELLS:
            raise ConfigError(
                f"An error of {best:.1e} is too small to certify to {tolerance:.0e} of itself on "
                f"[−{radius:g}, {radius:g}]: pass a larger `tolerance` or a smaller `radius`."
            )
    outside = _outside(activation, heads, radius)
    inside = best * (1 + tolerance) + rounding
    return Certificate(radius=radius, inside=inside, reached=best, at=at, outside=outside)


def _cells(low: float, high: float, n: int) -> tuple[torch.Tensor, float]:
    half = (high - low) / n / 2
    return low + half * (2 * torch.arange(n, dtype=torch.float64) + 1), half


def _split(middles: torch.Tensor, half: float) -> tuple[torch.Tensor, float]:
    steps, narrow = _cells(-half, half, _SPLIT)
    return (middles[:, None] + steps).flatten(), narrow


def _outside(activation: Activation, heads: HeadSum, radius: float) -> float:
    for side, line in ((-1, activation.left), (1, activation.right)):
        slope, offset = heads.line(side)
        if max(abs(slope - line[0]), abs(offset - line[1])) > _SAME_LINE * (
            1 + heads.size + heads.level
        ):
            return math.inf
    return activation.tail(radius) + heads.tail(radius)
