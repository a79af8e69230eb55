"""Boolean functions of selectors in one attention head: what it selects, how wide it must be, how hot.

A selector is a boolean matrix S [queries keys] (tracr): a head selects when its weights are uniform
over the keys with S = 1. Its scores are L = Q Kᵀ, of rank at most d_head, times a temperature T.
Weights tend to the uniform ones as T → ∞ exactly if in every row with a match L takes its maximum
on the matches and only there: M = r 1ᵀ − L ≥ 0 with M_ij = 0 exactly where S_ij = 1, r the row
maxima. So the least head width is least rank over such M, within 1 (for r 1ᵀ).

AND of k    scores Σ_l S_l                     width Σ d_l     linear in k; margin 1 of k
OR          1 − Π_l (1 − S_l)                  width Π (d_l + 1) − 1
XOR         ½ (1 − Π_l (1 − 2 S_l))            likewise
NOT         −S                                 width d

d_l being the rank of S_l. A row without a match has no maximum worth selecting: AND's head then
selects what matches most, NOT's and OR's everything. A BOS key of score k − ½ (AND), −½ (NOT), ½
(OR, XOR) catches these rows, and is the fallback tracr builds in.
The blow-up is in OR, not in AND. For k bits compared by equality the OR of the k matches leaves
M_ij > 0 only where every bit differs, one key for each query: M is a permutation matrix times
positive numbers, of rank 2^k, so every head needs width ≥ 2^k − 1, whatever its temperature. Their
AND needs k; it is even possible in width 2 for any number of symbols (points on a parabola), if the
temperature may grow with the square of their number. The matrix Π_l S_l itself, which is often
taken for "the" conjunction, has rank Π d_l, but no head needs it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.core.errors import ConfigError, ShapeMismatchError

Selector = Bool[Tensor, "queries keys"]
Scores = Float[Tensor, "queries keys"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BooleanHead:
    """Scores of one head that computes a boolean function of selectors."""

    wanted: Bool[Tensor, "queries keys"]
    """The truth table: which keys each query is to select."""
    scores: Float[Tensor, "queries keys"]
    """L, before the temperature."""
    fallback: float
    """Score of the BOS key: below every match, above what does not match."""

    @property
    def width(self) -> int:
        """Dimensions this construction takes: the rank of its scores, up to a constant in each row."""
        return min(rank(self.scores), rank(self.scores - self.scores[:, :1]))

    @property
    def width_bound(self) -> int:
        """Dimensions every head needs that selects the same, rows without a match left aside."""
        rows = self.wanted[self.wanted.any(-1)]
        return max(triangle(~rows) - 1, 0)

    @property
    def spread(self) -> float:
        """Largest difference of the scores of two matches of one row: 0 where weights come out uniform."""
        high = self.scores.masked_fill(~self.wanted, -torch.inf).amax(-1)
        low = self.scores.masked_fill(~self.wanted, torch.inf).amin(-1)
        some = self.wanted.any(-1)
        return float((high - low)[some].max()) if bool(some.any()) else 0.0

    @property
    def margin(self) -> float:
        """Score by which matches exceed all else, BOS included where a row has matches or not."""
        worst = self.scores.masked_fill(~self.wanted, torch.inf).amin(-1)
        best = self.scores.masked_fill(self.wanted, -torch.inf).amax(-1)
        some = self.wanted.any(-1)
        inside = (worst - torch.clamp(best, min=self.fallback))[some]
        outside = (self.fallback - best)[~some]
        return float(torch.cat([inside, outside]).min())

    def weights(self, temperature: float, *, bos: bool) -> Float[Tensor, "queries all_keys"]:
        """Return the pattern; with `bos` its first column is the BOS key."""
        scores = self.scores
        if bos:
            first = scores.new_full((len(scores), 1), self.fallback)
            scores = torch.cat([first, scores], dim=1)
        return (temperature * scores).softmax(-1)

    def error(self, temperature: float, *, bos: bool) -> float:
        """Return the largest distance (total variation) of a row's weights from the ideal ones.

        Ideal is uniform over the matches and, where there are none, all on BOS. Without BOS there is
        nothing right to do in such a row: whatever it selects counts as the error 1.
        """
        ideal = self.wanted.to(self.scores)
        some = self.wanted.any(-1)
        if bos:
            ideal = torch.cat([(~some).to(ideal).unsqueeze(1), ideal], dim=1)
        ideal = ideal / ideal.sum(-1, keepdim=True).clamp(min=1)
        off = (self.weights(temperature, bos=bos) - ideal).abs().sum(-1) / 2
        return float(off.max()) if bos or bool(some.all()) else 1.0

    def temperature_for(self, error: float) -> float:
        """Return a T at which `error` is kept, BOS included: ln(keys / error) over the margin."""
        if self.margin <= 0 or self.spread > 1e-9:
            raise ConfigError(
                f"The scores leave a margin of {self.margin:.3g} between matches and the rest and "
                f"differ by {self.spread:.3g} among matches; no temperature makes this head select."
            )
        return math.log((self.scores.shape[1] + 1) / error) / self.margin


def conjunction(selectors: Sequence[Tensor]) -> BooleanHead:
    """Return the head of AND: the scores are the number of selectors that match."""
    parts = _parts(selectors)
    wanted = _both(selectors, torch.logical_and)
    return BooleanHead(wanted=wanted, scores=sum_of(parts), fallback=len(parts) - 0.5)


def disjunction(selectors: Sequence[Tensor]) -> BooleanHead:
    """Return the head of OR: 1 − Π (1 − S), since a sum of scores would favour double matches."""
    scores = 1 - product_of([1 - s for s in _parts(selectors)])
    return BooleanHead(wanted=_both(selectors, torch.logical_or), scores=scores, fallback=0.5)


def exclusive(selectors: Sequence[Tensor]) -> BooleanHead:
    """Return the head of XOR (an odd number of matches): ½ (1 − Π (1 − 2 S))."""
    scores = (1 - product_of([1 - 2 * s for s in _parts(selectors)])) / 2
    return BooleanHead(wanted=_both(selectors, torch.logical_xor), scores=scores, fallback=0.5)


def negation(selector: Selector) -> BooleanHead:
    """Return the head of NOT: the scores are −S."""
    (part,) = _parts([selector])
    return BooleanHead(wanted=~selector, scores=-part, fallback=-0.5)


def summed_disjunction(selectors: Sequence[Tensor]) -> BooleanHead:
    """Return what a head of width Σ d makes of OR: the sum of the scores, which is not uniform."""
    parts = _parts(selectors)
    wanted = _both(selectors, torch.logical_or)
    return BooleanHead(wanted=wanted, scores=sum_of(parts), fallback=0.5)


def parabola(n_symbols: int) -> BooleanHead:
    """Return equality of `n_symbols` symbols in width 2: scores −(x − y)² + x² = 2xy − y²."""
    x = torch.linspace(-1, 1, n_symbols, dtype=torch.float64)
    scores = 2 * x[:, None] * x - x * x
    # A fallback below every match: no row lacks one.
    wanted = torch.eye(n_symbols, dtype=torch.bool)
    return BooleanHead(wanted=wanted, scores=scores, fallback=-math.inf)


def bit_matches(n_bits: int) -> list[Selector]:
    """Return k selectors over all words of k bits: selector l matches words that agree in bit l."""
    words = torch.arange(2**n_bits)
    bits = (words[:, None] >> torch.arange(n_bits)) & 1
    return [bits[:, None, k] == bits[None, :, k] for k in range(n_bits)]


def mlp_and(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return ReLU(x + y − 1): AND of two numbers in {0, 1} by one neuron of an MLP, exactly."""
    return (x + y - 1).relu()


def rank(matrix: Scores) -> int:
    """Return the numerical rank."""
    return int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-9))


def triangle(support: Bool[Tensor, "queries keys"]) -> int:
    """Return the size of a triangular pattern in `support`: a lower bound on every rank with it.

    Rows and columns picked so that row t has an entry in its own column and none in the columns
    picked after it: such a square part is triangular with a full diagonal, whatever the numbers.
    Greedy: the row with the fewest entries left goes next.
    """
    left = support.clone()
    size = 0
    while bool(left.any()):
        counts = left.sum(-1)
        row = int(counts.masked_fill(counts == 0, left.shape[1] + 1).argmin())
        # Its own column stays out of all later rows' way only if the others of this row do too.
        left = left[:, ~left[row]]
        size += 1
        if left.shape[1] == 0:
            break
    return size


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of equally shaped matrices."""
    return torch.stack(list(parts)).sum(0)


def product_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the entrywise product of equally shaped matrices."""
    return torch.stack(list(parts)).prod(0)


def _parts(selectors: Sequence[Tensor]) -> list[Tensor]:
    if not selectors:
        raise ConfigError("A boolean function needs at least one selector, got none.")
    if any(s.numel() == 0 for s in selectors):
        raise ConfigError("A selector needs a query and a key, got a matrix without entries.")
    if len({s.shape for s in selectors}) != 1:
        raise ShapeMismatchError("Selectors must have one common shape of queries and keys.")
    return [s.double() for s in selectors]


def _both(selectors: Sequence[Tensor], operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return reduce(operation, selectors)
