"""Activation functions and what a proof must know of them: slope, limits on both sides, and tails.

Every function here approaches a straight line on each side, `left` for x → −∞ and `right` for
x → +∞; `tail(r)` bounds how far it still is from them wherever |x| ≥ r ≥ 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.core.errors import unknown_name

Line = tuple[float, float]
"""Slope and intercept."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A scalar function with a Lipschitz constant and a line on each side."""

    name: str
    """Its name here; `transformers` may know it by several."""
    function: Callable[[Tensor], Tensor]
    """The function itself, entry by entry."""
    lipschitz: float
    """No two points differ by more than this times their distance."""
    left: Line = (0.0, 0.0)
    """The line it approaches at x → −∞."""
    right: Line = (1.0, 0.0)
    """The line it approaches at x → +∞."""
    tail: Callable[[float], float]
    """Bound, for |x| ≥ r ≥ 1, on the distance from `left` or `right`."""

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the function of every entry."""
        return self.function(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _no_tail(r: float) -> float:  # noqa: ARG001 - the signature of a tail
    return 0.0


def _exponential(r: float, *, linear: bool, rate: float, factor: float = 1.0) -> float:
    return factor * (r if linear else 1.0) * math.exp(-rate * r)


def _normal_density(r: float) -> float:
    return math.exp(-r * r / 2) / math.sqrt(2 * math.pi)  # x (1 − Φ(x)) ≤ φ(x)


def _gelu_tanh_tail(r: float) -> float:
    return r * math.exp(-2 * math.sqrt(2 / math.pi) * (r + 0.044715 * r**3))


_LINEAR_TAIL = partial(_exponential, linear=True)
_FLAT_TAIL = partial(_exponential, linear=False)

FUNCTIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation(name="relu", function=functional.relu, lipschitz=1.0, tail=_no_tail),
        Activation(name="gelu", function=functional.gelu, lipschitz=1.13, tail=_normal_density),
        Activation(name="gelu_tanh", function=_gelu_tanh, lipschitz=1.13, tail=_gelu_tanh_tail),
        Activation(
            name="silu",
            function=functional.silu,
            lipschitz=1.1,
            tail=partial(_LINEAR_TAIL, rate=1.0),
        ),
        Activation(
            name="quick_gelu",
            function=_quick_gelu,
            lipschitz=1.1,
            tail=partial(_LINEAR_TAIL, rate=1.702),
        ),
        Activation(
            name="mish",
            function=functional.mish,
            lipschitz=1.1,
            tail=partial(_LINEAR_TAIL, rate=1.0),
        ),
        Activation(
            name="softplus",
            function=functional.softplus,
            lipschitz=1.0,
            tail=partial(_FLAT_TAIL, rate=1.0, factor=1.001),
        ),
        Activation(
            name="sigmoid",
            function=torch.sigmoid,
            lipschitz=0.25,
            right=(0.0, 1.0),
            tail=partial(_FLAT_TAIL, rate=1.0),
        ),
        Activation(
            name="tanh",
            function=torch.tanh,
            lipschitz=1.0,
            left=(0.0, -1.0),
            right=(0.0, 1.0),
            tail=partial(_FLAT_TAIL, rate=2.0, factor=2.0),
        ),
    )
}
"""The activation functions that language models use, by name."""

_SAME = {
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
}
"""Names that `transformers` gives to the same functions."""


def function(name: str) -> Activation:
    """Return the activation function that `transformers` calls `name`."""
    known = _SAME.get(name, name)
    if known not in FUNCTIONS:
        raise unknown_name("activation function", name, [*FUNCTIONS, *_SAME])
    return FUNCTIONS[known]
