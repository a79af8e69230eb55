"""Gated MLPs by two sublayers of attention: y = Σ_k act(g_k)·u_k · w_k, which is not one head.

A head's score and value are both affine in the row, so one head makes σ(g)·u exactly but never
act(g)·u with act(g) itself a product. Two sublayers do it up to an error of chosen order:

first    writes a_k = act(g_k) (neuron heads) and u_k (linear heads) to 2l scratch columns
second   heads j = 1 … m of neuron k: score jε·a_k, value (4c_j/jε)·u_k, against the bias row's 0;
         one head of score 0 and value −Σ_j (4c_j/jε)·u_k takes the ½ of the softmaxes away

Head j gives (4c_j/jε) u σ(jεa); σ(z) − ½ = ½ tanh(z/2), so together with the centring head

    u · Σ_j c_j f_j,    f_j = (2/jε)·tanh(jεa/2) = a · Σ_{n≥0} T_n (jεa/2)^{2n}

T_n being the series of tanh (1, −1/3, 2/15, −17/315, …). c_j = Π_{i≠j} i²/(i² − j²) makes Σ c_j = 1
and Σ c_j j^{2n} = 0 for n = 1 … m−1 (Richardson), so only the remainder is left. tanh is a sum of
the fractions 2x / (x² + (n−½)²π²), hence its series *envelops* it: for every real x the remainder
after n terms is at most the first term left out. Therefore, for all a,

    |Σ_j c_j f_j − a|  ≤  |T_m| · (ε|a|/2)^{2m} · |a| · Σ_j |c_j| j^{2m}          (truncation)

which for m = 1 is ε²|a|³/12. In arithmetic of unit roundoff η the terms of size S/ε·|u|, S =
Σ_j 4|c_j|/j, cancel down to |a u|, which leaves at most about 4ηS/ε·|u| (rounding). Truncation
falls and rounding grows as ε falls; their sum for |a| ≤ A is least at

    ε = (4ηS / (2m K))^{1/(2m+1)} / A,    K = |T_m| 4^{−m} Σ_j |c_j| j^{2m}

and is then A·O(η^{2m/(2m+1)}): for m = 1, 2, 3 in float32 8.0e-5, 2.0e-5, 1.3e-5 of A, in float64
1.2e-10, 2.0e-12, 4.1e-13. A is known without any data: the rows are normalised, ‖x̂‖ ≤ √d, so
|g_k| ≤ √d·‖gain ∘ w_k‖ + |bias·w_k + b_k|, and |act(g)| ≤ L|g| + |act(0)|.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.constructions.heads import Heads, stack
from monosem.constructions.neuron import LINEAR, neuron_heads
from monosem.constructions.terms import HeadSum, Term
from monosem.core.errors import ConfigError

_TANH = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835)
_ROUNDINGS = 4.0
"""Roundings, in units of η·S/ε, between a score and the sum of a neuron's heads: an estimate."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """The numbers of the second sublayer: m heads and a centring head for each product a·u."""

    n_terms: int
    """m; the error is of order 2m + 1 in a."""

    def __post_init__(self) -> None:
        """Refuse orders without stored series."""
        if not 1 <= self.n_terms < len(_TANH):
            raise ConfigError(f"`n_terms` must be 1 to {len(_TANH) - 1}, got {self.n_terms}.")

    @property
    def weights(self) -> tuple[float, ...]:
        """c_j of Richardson's extrapolation to ε → 0."""
        several = range(1, self.n_terms + 1)
        return tuple(
            math.prod((i * i / (i * i - j * j) for i in several if i != j), start=1.0)
            for j in several
        )

    @property
    def size(self) -> float:
        """S = Σ_j 4|c_j|/j: the values are this over ε, times u."""
        return sum(4 * abs(c) / j for j, c in enumerate(self.weights, 1))

    def truncation(self, epsilon: float, largest: float) -> float:
        """Bound |Σ_j c_j f_j − a| for |a| ≤ `largest`, in exact arithmetic."""
        return self._k * epsilon ** (2 * self.n_terms) * largest ** (2 * self.n_terms + 1)

    def rounding(self, epsilon: float, roundoff: float) -> float:
        """Estimate what cancellation leaves for each unit of u, in arithmetic of unit roundoff η."""
        return _ROUNDINGS * roundoff * self.size / epsilon

    def epsilon(self, largest: float, roundoff: float) -> float:
        """Return the ε at which truncation and rounding together are least."""
        m = self.n_terms
        ratio = _ROUNDINGS * roundoff * self.size / (2 * m * self._k)
        return ratio ** (1 / (2 * m + 1)) / largest

    def error(self, largest: float, roundoff: float) -> float:
        """Return truncation (proved) plus rounding (estimated) for each unit of u, at the best ε."""
        epsilon = self.epsilon(largest, roundoff)
        return self.truncation(epsilon, largest) + self.rounding(epsilon, roundoff)

    @property
    def _k(self) -> float:
        m = self.n_terms
        powers = sum(abs(c) * j ** (2 * m) for j, c in enumerate(self.weights, 1))
        return abs(_TANH[m]) * 4.0**-m * powers


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return η, half the distance from 1 to the next number of `dtype`."""
    return torch.finfo(dtype).eps / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedHeads:
    """The two sublayers of one gated MLP, and the ε of each neuron."""

    first: Heads
    """Reads the normalised row; writes a and u, l columns each."""
    second: Heads
    """Reads these 2l columns; writes the output."""
    epsilons: Float[Tensor, " n_neurons"]
    """ε of each neuron."""
    errors: Float[Tensor, " n_neurons"]
    """|product − act(g)·u| for each unit of |u|: act's error and truncation proved, rounding estimated."""


def gated_heads(
    W_gate: Float[Tensor, "n_neurons d_model"],
    b_gate: Float[Tensor, " n_neurons"],
    W_up: Float[Tensor, "n_neurons d_model"],
    b_up: Float[Tensor, " n_neurons"],
    W_out: Float[Tensor, "n_neurons d_out"],
    b_out: Float[Tensor, " d_out"],
    *,
    activation: HeadSum,
    activation_error: float,
    largest: Float[Tensor, " n_neurons"],
    product: Product,
    dtype: torch.dtype,
) -> GatedHeads:
    """Return the heads of x ↦ Σ_k act(g_k)·u_k w_k + b_out, ε chosen for arithmetic in `dtype`.

    `activation` is the sum of heads for act, `activation_error` its certified error, `largest`
    bounds |act(g_k)|.
    """
    n, roundoff = W_gate.shape[0], unit_roundoff(dtype)
    bounds = [max(float(a) + activation_error, 1e-30) for a in largest]
    epsilons = [product.epsilon(a, roundoff) for a in bounds]
    errors = [product.error(a, roundoff) + activation_error for a in bounds]
    return GatedHeads(
        first=_scratch_writers(W_gate, b_gate, W_up, b_up, activation),
        second=_products(W_out, b_out, product, epsilons),
        epsilons=W_gate.new_tensor(epsilons),
        errors=W_gate.new_tensor(errors).reshape(n),
    )


def largest_gates(
    W_gate: Float[Tensor, "n_neurons d_model"],
    b_gate: Float[Tensor, " n_neurons"],
    gain: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
) -> Float[Tensor, " n_neurons"]:
    """Return a bound on |g_k| that holds for every row a norm with this gain and bias can give."""
    along = (W_gate * gain).norm(dim=1) * math.sqrt(W_gate.shape[1])
    return along + (W_gate @ bias + b_gate).abs()


def _scratch_writers(
    W_gate: Tensor, b_gate: Tensor, W_up: Tensor, b_up: Tensor, activation: HeadSum
) -> Heads:
    n = W_gate.shape[0]
    columns = torch.eye(2 * n, dtype=W_gate.dtype, device=W_gate.device)
    none = columns.new_zeros(2 * n)
    gates = neuron_heads(activation, W_gate, b_gate, columns[:n], none)
    ups = neuron_heads(HeadSum(terms=(LINEAR,)), W_up, b_up, columns[n:], none)
    return stack([gates, ups])


def _products(
    W_out: Float[Tensor, "n_neurons d_out"],
    b_out: Float[Tensor, " d_out"],
    product: Product,
    epsilons: Sequence[float],
) -> Heads:
    """Return the second sublayer; heads of one neuron are neighbours, the centring head last."""
    n, m = W_out.shape[0], product.n_terms
    columns = torch.eye(2 * n, dtype=W_out.dtype, device=W_out.device)
    scale = W_out.new_tensor(epsilons)
    gains = torch.stack([j * scale for j in range(1, m + 1)] + [0 * scale], 1)
    slopes = [4 * c / (j * scale) for j, c in enumerate(product.weights, 1)]
    slopes = torch.stack([*slopes, -torch.stack(slopes).sum(0)], 1)
    W_Q, W_V = (
        _scaled(columns[part], factors)
        for part, factors in ((slice(n), gains), (slice(n, 2 * n), slopes))
    )
    unit = neuron_heads(
        HeadSum(terms=(Term(slope=1.0, gain=1.0),)), columns[:1], scale[:1] * 0, W_out[:1], b_out
    )
    return Heads(
        W_Q=W_Q,
        W_K=unit.W_K.expand(n * (m + 1), -1, -1),
        W_V=W_V,
        W_O=W_out.repeat_interleave(m + 1, dim=0).unsqueeze(1),
        bias=b_out,
    )


def _scaled(
    columns: Float[Tensor, "n_neurons d"], factors: Float[Tensor, "n_neurons n_heads"]
) -> Float[Tensor, "heads d_in 1"]:
    rows = columns[:, None, :] * factors[..., None]
    return torch.nn.functional.pad(rows.flatten(0, 1), (0, 2)).unsqueeze(-1)
