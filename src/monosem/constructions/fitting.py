"""Sums of few heads that come nearest to an activation function: a small minimax fitter.

Minimise max |f(x) − Σ (p_k x + r_k) σ(g_k x + t_k) − c| over the 4m + 1 numbers, with the lines on
both sides exact: c is f's left intercept, Σ p_k and Σ r_k make up the right line, all g_k > 0. The
p-norm of the error on a grid is minimised by damped Gauss-Newton steps for p = 2, 4, …, 256, from
many random starts; the sum kept is the best of those whose terms stay small (Σ |p_k| ≤ `size`),
since what cancels costs precision. The result is then certified (`certificate.py`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from monosem.constructions.certificate import Certificate, certify
from monosem.constructions.functions import Activation
from monosem.constructions.terms import HeadSum, Term
from monosem.core.errors import ConfigError

_POWERS = (2, 4, 8, 16, 32, 64, 128, 256)

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How hard to look, and what to refuse."""

    n_heads: int
    """Terms of the sum: heads for each neuron."""
    n_starts: int = 12
    """Random starts."""
    max_gain: float = 100.0
    """Largest gain g_k; without a limit one head with a huge gain is any function with a corner."""
    max_size: float = 10.0
    """Largest Σ |slope| accepted."""
    reach: float = 12.0
    """The grid covers |x| ≤ reach; beyond it both sides are straight lines."""
    seed: int = 0
    """Of the random starts."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("n_heads", "n_starts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("max_gain", "max_size", "reach"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A sum of heads and the bound on its error."""

    heads: HeadSum
    """The sum."""
    certificate: Certificate
    """How far it is from the function, at most."""


def fit(activation: Activation, config: FitConfig) -> Fit:
    """Return the best sum of `config.n_heads` heads found for `activation`, with its certificate."""
    if activation.left[0] != 0.0:
        raise ConfigError(
            f"`{activation.name}` rises on the left with slope {activation.left[0]}. Fit the function "
            "minus that line, which is one linear head (`monosem.constructions.neuron.LINEAR`)."
        )
    problem = _Problem(activation, config)
    random = np.random.default_rng(config.seed)
    found: list[tuple[float, HeadSum]] = []
    for _ in range(config.n_starts):
        theta = problem.descend(problem.start(random))
        if theta is not None:
            heads = problem.heads(theta)
            found.append((problem.worst(theta), heads))
    sound = [(e, h) for e, h in found if h.size <= config.max_size]
    if not sound:
        raise ConfigError(
            f"None of {config.n_starts} starts ended in a sum whose terms stay within `max_size` "
            f"{config.max_size:g}. Raise `n_starts` or `max_size`."
        )
    best = min(sound, key=lambda pair: pair[0])[1]
    return Fit(heads=best, certificate=certify(activation, best))


class _Problem:
    """The sum on a grid as a function of its free numbers θ = (log g, t, p without the last, r too)."""

    def __init__(self, activation: Activation, config: FitConfig) -> None:
        near = np.geomspace(1e-3, config.reach, 200)
        x = np.concatenate([-near, [0.0], near, np.linspace(-6, 6, 401)])
        self.x: Array = np.unique(x[np.abs(x) <= config.reach])
        self.y: Array = activation(torch.from_numpy(self.x)).numpy()
        self.n, self.max_gain = config.n_heads, config.max_gain
        self.constant = activation.left[1]
        self.slope = activation.right[0]
        self.offset = activation.right[1] - self.constant

    def start(self, random: np.random.Generator) -> Array:
        n = self.n
        gains = np.minimum(random.normal(0.5, 0.3, n), np.log(self.max_gain))
        others = (random.normal(0, 2, n), random.normal(self.slope / n, 0.2, n - 1))
        return np.concatenate([gains, *others, random.normal(0, 0.2, n - 1)])

    def numbers(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        n = self.n
        p, r = theta[2 * n : 3 * n - 1], theta[3 * n - 1 :]
        p = np.append(p, self.slope - p.sum())
        r = np.append(r, self.offset - r.sum())
        return np.exp(theta[:n]), theta[n : 2 * n], p, r

    def heads(self, theta: Array) -> HeadSum:
        terms = [
            Term(slope=float(p), offset=float(r), gain=float(g), shift=float(t))
            for g, t, p, r in zip(*self.numbers(theta), strict=True)
        ]
        return HeadSum(terms=tuple(terms), constant=self.constant)

    def errors(self, theta: Array) -> tuple[Array, Array]:
        """Return the error at every point of the grid and its derivatives by θ."""
        g, t, p, r = self.numbers(theta)
        x = self.x[:, None]
        s = 0.5 * (1 + np.tanh((x * g + t) / 2))
        value = x * p + r
        inner = value * s * (1 - s)
        apart = s[:, :-1] - s[:, -1:]
        jacobian = np.concatenate([inner * x * g, inner, x * apart, apart], axis=1)
        return (value * s).sum(1) + self.constant - self.y, jacobian

    def worst(self, theta: Array) -> float:
        return float(np.abs(self.errors(theta)[0]).max())

    def descend(self, theta: Array) -> Array | None:
        """Return θ after the steps for every power, or None where they leave the finite numbers."""
        damping = 1e-3
        for power in _POWERS:
            for _ in range(60):
                error, jacobian = self.errors(theta)
                here = _norm(error, power)
                weight = (np.abs(error) / np.abs(error).max()) ** (power - 2)
                normal = (jacobian * weight[:, None]).T @ jacobian * (power - 1)
                slope = (jacobian * weight[:, None]).T @ error
                moved = self._step(theta, normal, slope, here, power, damping)
                if moved is None:
                    break
                theta, gained, damping = moved
                if gained < 1e-7:
                    break
        return theta if np.isfinite(theta).all() else None

    def _step(
        self, theta: Array, normal: Array, slope: Array, here: float, power: int, damping: float
    ) -> tuple[Array, float, float] | None:
        floor = 1e-12 * np.trace(normal) + 1e-300
        for _ in range(10):
            lifted = normal + damping * np.diag(np.diag(normal) + floor)
            try:
                step = np.linalg.solve(lifted, -slope)
            except np.linalg.LinAlgError:  # singular to the last bit: more damping
                damping *= 4
                continue
            there = theta + np.clip(step, -1, 1)
            there[: self.n] = np.minimum(there[: self.n], np.log(self.max_gain))
            gained = here - _norm(self.errors(there)[0], power)
            if gained > 0:
                return there, gained, max(damping / 4, 1e-9)
            damping *= 4
        return None


def _norm(error: Array, power: int) -> float:
    """Return the logarithm of the p-norm, which neither overflows nor underflows."""
    largest = max(float(np.abs(error).max()), 1e-300)
    return float(np.log(largest) + np.log(((np.abs(error) / largest) ** power).sum()) / power)
