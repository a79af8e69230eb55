"""Masks in the weights: a bonus Ω for the allowed keys, under a softmax that masks nothing.

Rows carry position codes C [rows d_code]. With Λ ∈ {0, 1} the mask, written Λ ≈ C A Cᵀ by the codes,
the scores become s_ij + Ω Λ_ij, and the weights on keys that are not allowed are at most

    δ_i ≤ Σ_{j∉A_i} e^{s_ij} / (e^Ω Σ_{j∈A_i} e^{s_ij}) ≤ (N − |A_i|) · e^{Δ − Ω}

Δ being the most by which a forbidden score exceeds the largest allowed one, over all rows. What a
head writes is then off by at most 2δ·max‖v‖. So Ω ≥ Δ + ln(2(N−1)·max‖v‖ / error) suffices for a
wanted error: 15 to 30, and no more, since scores of size Ω have only so many digits left for s.
Codes: `one_hot` (any mask, as wide as there are rows), `random_codes` (narrower: what is left of Ω is
Ω·`margin`, and keys allowed together get different bonuses, so for masks of one key a row), `ramp`
(two columns, for neuron heads under a causal mask).
"""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.constructions.heads import Heads
from monosem.core.errors import ConfigError, ShapeMismatchError

COARSE = 1e-3
"""A loss of digits in the scores from which on `check_precision` warns."""


class PrecisionWarning(UserWarning):
    """A bonus so large that the scores beside it lose digits that matter."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """How much a mask in the weights lets through, at most and in fact."""

    bound: float
    """(N − |A|)·e^{Δ − Ω}, the largest over the rows."""
    measured: float
    """The largest weight on forbidden keys, over the rows."""


def slack(scores: Float[Tensor, "*batch q k"], mask: Bool[Tensor, "q k"]) -> float:
    """Return Δ: how far forbidden scores exceed the largest allowed one of their row, at most."""
    _check_mask(mask)
    forbidden = scores.masked_fill(mask, -torch.inf).amax(-1)
    return float((forbidden - scores.masked_fill(~mask, -torch.inf).amax(-1)).max())


def omega_for(error: float, *, slack: float, n_keys: int, largest_value: float) -> float:
    """Return the Ω at which heads with values up to `largest_value` err by `error` at most."""
    for name, value in (("error", error), ("largest_value", largest_value)):
        if not value > 0:
            raise ConfigError(f"`{name}` must be positive, got {value}.")
    needed = slack + math.log(2 * max(n_keys - 1, 1) * largest_value / error)
    return max(needed, 0.0)  # where nothing is forbidden the slack is −∞


def leak(scores: Float[Tensor, "*batch q k"], mask: Bool[Tensor, "q k"], omega: float) -> Leak:
    """Return what passes a mask with bonus `omega`: the bound and what is measured."""
    excess = slack(scores, mask)
    n_forbidden = int((~mask).sum(-1).max())
    pattern = (scores + omega * mask.to(scores)).softmax(-1)
    measured = float(pattern.masked_fill(mask, 0.0).sum(-1).max())
    return Leak(bound=n_forbidden * math.exp(excess - omega), measured=measured)


def one_hot(n_rows: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows d_code"]:
    """Return codes that can write any mask: the identity."""
    return torch.eye(n_rows, dtype=dtype)


def random_codes(
    n_rows: int, d_code: int, *, seed: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "rows d_code"]:
    """Return random unit codes, narrower than one-hot ones; see `margin`."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(n_rows, d_code, generator=generator, dtype=torch.float64)
    return (codes / codes.norm(dim=1, keepdim=True)).to(dtype)


def margin(codes: Float[Tensor, "n_codes d_code"], mask: Bool[Tensor, "rows rows"]) -> float:
    """Return the least bonus of an allowed key minus the largest of a forbidden one, for Ω = 1.

    The codes write C C⁺ Λ (C C⁺)ᵀ, which is Λ only where they are independent; margin 1 is one-hot's.
    """
    projection = codes.double() @ torch.linalg.pinv(codes.double())
    bonus = projection @ mask.double() @ projection.T
    allowed = bonus.masked_fill(~mask, torch.inf).amin(-1)
    return float((allowed - bonus.masked_fill(mask, -torch.inf).amax(-1)).min())


def with_mask(
    heads: Heads,
    codes: Float[Tensor, "n_codes d_code"],
    mask: Bool[Tensor, "rows rows"],
    omega: float,
) -> Heads:
    """Return heads that carry `mask` in their weights, for rows [x | code]: exact with `one_hot` codes.

    W_QK' = blockdiag(W_QK, Ω·C⁺ Λ C⁺ᵀ): as many more dimensions as the rank of Λ in the codes.
    """
    _check_mask(mask)
    if len(codes) != len(mask):
        raise ShapeMismatchError(
            f"There are {len(codes)} position codes and {len(mask)} rows in the mask; pass one each."
        )
    check_precision(omega, heads.W_Q.dtype)
    inverse = torch.linalg.pinv(codes.double())
    bonus = inverse @ mask.double() @ inverse.T
    U, S, Vh = torch.linalg.svd(bonus)
    rank = int((1e-9 * S.max() < S).sum())
    left, right = U[:, :rank] * (omega * S[:rank]), Vh[:rank].T
    d_code = codes.shape[1]
    pad = torch.nn.functional.pad
    return Heads(
        W_Q=_beside(heads.W_Q, left),
        W_K=_beside(heads.W_K, right),
        W_V=pad(heads.W_V, (0, 0, 0, d_code)),
        W_O=heads.W_O,
        bias=heads.bias,
    )


def with_codes(
    rows: Float[Tensor, "*batch rows d_in"], codes: Float[Tensor, "rows d_code"]
) -> Float[Tensor, "*batch rows d_wide"]:
    """Return the rows with their position codes beside them."""
    return torch.cat([rows, codes.to(rows).expand(*rows.shape[:-1], codes.shape[1])], dim=-1)


def ramp(n_rows: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows 2"]:
    """Return the codes (p, 1) of rows p = 0, 1, …: all that neuron heads need under a causal mask."""
    positions = torch.arange(n_rows, dtype=dtype)
    return torch.stack([positions, torch.ones_like(positions)], dim=1)


def with_ramp(heads: Heads, omega: float, n_rows: int) -> Heads:
    """Return neuron heads for rows [x | 1 | flag | p | 1] under the ordinary causal mask.

    The bonus is Ω·p_j for a real key and Ω·p_i for the bias row: among the keys j ≤ i that a causal
    mask leaves, these two are the largest, by Ω. Two columns and two dimensions, where one-hot codes
    need one for every position; but scores grow to Ω·n_rows, which costs digits.
    """
    check_precision(omega * n_rows, heads.W_Q.dtype)
    d_in = heads.W_Q.shape[1]
    query = heads.W_Q.new_zeros(d_in + 2, 2)
    key = torch.zeros_like(query)
    query[d_in, 0], query[d_in + 1, 1] = omega, omega
    key[d_in - 1, 0], key[d_in, 1] = 1.0, 1.0
    pad = torch.nn.functional.pad

    def widened(weight: Tensor, extra: Tensor) -> Tensor:
        wide = pad(weight, (0, 0, 0, 2))
        return torch.cat([wide, extra.expand(len(weight), -1, -1)], dim=2)

    return Heads(
        W_Q=widened(heads.W_Q, query),
        W_K=widened(heads.W_K, key),
        W_V=pad(heads.W_V, (0, 0, 0, 2)),
        W_O=heads.W_O,
        bias=heads.bias,
    )


def check_precision(largest: float, dtype: torch.dtype) -> None:
    """Warn where scores of size `largest` keep less than `COARSE` of resolution in `dtype`."""
    step = largest * torch.finfo(dtype).eps
    if step > COARSE:
        warnings.warn(
            f"Scores reach {largest:.3g}, where {str(dtype).removeprefix('torch.')} tells apart only "
            f"steps of {step:.1e}: what heads compute from scores is that coarse. Take the Ω of "
            "`omega_for`, a wider number type, or a real mask.",
            PrecisionWarning,
            stacklevel=3,
        )


def _beside(weight: Tensor, block: Tensor) -> Tensor:
    n_heads, d_in, d_head = weight.shape
    wide = weight.new_zeros(n_heads, d_in + block.shape[0], d_head + block.shape[1])
    wide[:, :d_in, :d_head] = weight
    wide[:, d_in:, d_head:] = block.to(weight)
    return wide


def _check_mask(mask: Bool[Tensor, "q k"]) -> None:
    if not bool(mask.any(-1).all()):
        raise ConfigError(
            "Every row of a mask must allow a key; this one has a row that allows none."
        )
