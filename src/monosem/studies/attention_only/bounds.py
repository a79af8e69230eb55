"""What conversion may change in one MLP on given rows, before anything is converted.

Every head is affine in the row twice (score and value) and a softmax of two; errors of rounding are
worst-case sums (γ_n for n terms), errors of approximation are certified. With ŝ = |x||W_in| + |b|, a sum of
heads of Lipschitz constant L and certified error e, and H heads in all,

    ungated   Σ_n |w_out,n| · (e + 2 L γ(d + 14) ŝ_n + γ(H + 8) (size ŝ_n + level))

for score and value are rounded apart, each moving the sum by L γ(d + 14) ŝ at most. A gated MLP has the same
in its scratch columns (δa, δu), and then, with c_j, K, S, m of `constructions/gated.py` and C = Σ |c_j|,

    gated     Σ_k |w_out,k| · (|u| (K ε^2m â^(2m+1) + C δa) + C â δu + γ(H + 16) · 1.5 S/ε · û)

where â = |a| + δa and û = |u| + δu.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.constructions.approximations import Approximation
from monosem.constructions.gated import Product
from monosem.models.access import matrix
from monosem.models.families import Family
from monosem.models.places import submodule
from monosem.studies.attention_only.claim import gamma


@dataclass(frozen=True, eq=False)
class Affine:
    """One linear map of an MLP, in float64."""

    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_out"]

    @classmethod
    def of(cls, module: nn.Module) -> "Affine":
        """Return the map of a `Linear` or `Conv1D`."""
        weight = matrix(module).T.double()
        bias = cast(Tensor | None, getattr(module, "bias", None))
        return cls(weight, weight.new_zeros(len(weight)) if bias is None else bias.double())

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Return the map of `x`."""
        return x @ self.weight.T + self.bias

    def reach(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Return |x||W| + |b|, which no rounding of the product exceeds by more than γ times itself."""
        return x.abs() @ self.weight.abs().T + self.bias.abs()


def ungated(
    block: nn.Module,
    row: Family,
    best: Approximation,
    x: Float[Tensor, "*batch d_model"],
    dtype: torch.dtype,
    *,
    away: Float[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Return the largest error of each output of an ungated MLP on rows `x`, or on any so far `away`."""
    into, out = Affine.of(submodule(block, row.pre)), Affine.of(submodule(block, row.down))
    s, heads = into.reach(x.double()), best.heads
    if away is not None:
        s = s + into.weight.norm(dim=1) * away[..., None]
    n_heads = heads.n_heads * s.shape[-1]
    left = best.error + _summed(best, s, x.shape[-1], n_heads, dtype)
    around = out.bias.abs() + abs(heads.constant) * out.weight.abs().sum(1)
    return left @ out.weight.abs().T + gamma(n_heads + 8, dtype) * around


def gated(
    block: nn.Module,
    row: Family,
    best: Approximation,
    product: Product,
    epsilon: Float[Tensor, " n_neurons"],
    x: Float[Tensor, "*batch d_model"],
    dtype: torch.dtype,
) -> Float[Tensor, "*batch d_model"]:
    """Return the largest error of each output of a gated MLP on the rows `x`, ε of each neuron given."""
    gate, up, out = (Affine.of(submodule(block, path)) for path in (row.pre, row.up, row.down))
    x, m, n = x.double(), product.n_terms, len(epsilon)
    a = best.heads(gate(x)).abs() + best.error  # act(g), at most
    da = best.error + _summed(best, gate.reach(x), x.shape[-1], best.heads.n_heads, dtype)
    u, du = up(x).abs(), 2 * gamma(x.shape[-1] + 14, dtype) * up.reach(x)
    a_hat, c = a + da, sum(abs(weight) for weight in product.weights)
    eps = epsilon.double()
    truncated = product.truncation(1.0, 1.0) * eps ** (2 * m) * a_hat ** (2 * m + 1)
    cancelling = 1.5 * product.size / eps * (u + du)
    n_heads = n * (m + 1)
    left = u * (truncated + c * da) + c * a_hat * du + gamma(n_heads + 16, dtype) * cancelling
    return left @ out.weight.abs().T + gamma(n_heads, dtype) * out.bias.abs()


def epsilons(converted_mlp: Any, n_terms: int) -> Float[Tensor, " n_neurons"]:
    """Return ε of each neuron: the score of its first head in the second sublayer, for a gate of 1."""
    scores = converted_mlp.sublayers[-1].query.weight[:: n_terms + 1]
    return scores[:, : len(scores)].diagonal()


def _summed(
    best: Approximation, s: Tensor, d: int, n_heads: int, dtype: torch.dtype
) -> Float[Tensor, "*batch n"]:
    heads = best.heads
    moved = 2 * heads.lipschitz() * gamma(d + 14, dtype) * s
    return moved + gamma(n_heads + 8, dtype) * (heads.size * s + heads.level)
