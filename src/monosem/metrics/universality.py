"""Universality: whether two dictionaries fire alike on the same tokens, whatever their directions.

    correlation[i, j]   Pearson coefficient of a_i and b_j over all tokens
    masked[i, j]        max( Σ a b / √(Σ a² · Σ_{a≠0} b²),  Σ a b / √(Σ_{b≠0} a² · Σ b²) )
    attribution         the correlation of a_i(t) · v_i[next token] with the same of b_j
    logit weights       Pearson coefficient of v_i and v_j over the vocabulary, for given pairs

Bricken et al. 2023, "Towards Monosemanticity": universality by correlation and attribution, splitting by
masked cosine. Of each latent of A the best of B is kept; the null is the best of as many candidates where
A stands beside the tokens of another block of B: other contexts, in one piece, because latents of topics
are on for whole contexts and correlate by chance more than single tokens would.

Sums run over a stream of blocks of tokens. Their matrices [n_a n_b] take `budget` bytes at most: where
they do not fit, latents of A come in parts, and the stream is read once for each.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.dictionaries.latents import RaggedLatents, SparseLatents
from monosem.metrics.measure import Measure, median

BUDGET = 2**30
"""Bytes of all sums together."""
PAIRS_AT_ONCE = 2**22
DENSE_FROM = 0.02
"""Share of all pairs from which a product of dense matrices is the quicker way."""
N_MATRICES = 12
ROUNDING = 1e-12
"""Variance below this share of the mean square is rounding: the latent is the same on every token."""

Sparse = SparseLatents | RaggedLatents
Stream = Callable[[], Iterable[tuple[Sparse, Sparse]]]
"""Makes the latents of both dictionaries on the same tokens, block by block, and again when asked again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """For each latent of A the one of B that fires most like it."""

    nearest: Int64[Tensor, " n_a"]
    correlations: Float[Tensor, " n_a"]
    """NaN for a latent that is the same on every token."""
    nearest_masked: Int64[Tensor, " n_a"]
    masked: Float[Tensor, " n_a"]
    by_chance: Float[Tensor, " n_a"]
    """The correlation that is the largest where the tokens of B stand in another order."""
    nearest_masked_by_chance: Int64[Tensor, " n_a"]
    masked_by_chance: Float[Tensor, " n_a"]
    n_tokens: int
    correlation: Measure
    """Median over latents of A."""
    masked_cosine: Measure

    def measures(self) -> dict[str, Measure]:
        """Return the medians by name."""
        return {"correlation": self.correlation, "masked_cosine": self.masked_cosine}


@torch.no_grad()
def similarity(
    stream: Stream, n_a: int, n_b: int, *, lag: int = 1, budget: int = BUDGET, seed: int = 0
) -> Similarity:
    """Return how latents of A and B fire alike, from one pass or several over `stream`.

    In the null A stands beside B's tokens of `lag` blocks before: make it so many that no context is in
    both. Intervals are over latents of A, on this text.
    """
    step = min(n_a, max(1, budget // (N_MATRICES * 8 * n_b)))
    parts: list[tuple[Tensor, ...]] = []
    n_tokens = 0
    for first in range(0, n_a, step):
        true = _Sums(first, min(first + step, n_a), n_b)
        chance = _Sums(first, min(first + step, n_a), n_b)
        for a, b, others in _beside(stream(), lag):
            if b is not None:
                true.add(a, b)
            if others is not None:
                chance.add(*_as_long(a, others))
        n_tokens = true.n_tokens
        if n_tokens == 0:
            raise ConfigError("There are no tokens to compare on. Give the stream some.")
        parts.append((*_best(true.correlation()), *_best(true.masked())))
        parts[-1] += (_best(chance.correlation())[1], *_best(chance.masked()))
    joined = (torch.cat(each) for each in zip(*parts, strict=True))
    near, r, near_masked, m, null_r, null_near, null_m = joined
    return Similarity(
        nearest=near,
        correlations=r,
        nearest_masked=near_masked,
        masked=m,
        by_chance=null_r,
        nearest_masked_by_chance=null_near,
        masked_by_chance=null_m,
        n_tokens=n_tokens,
        correlation=_median(r, null_r, seed),
        masked_cosine=_median(m, null_m, seed),
    )


def attributions(
    latents: Sparse, following: Int64[Tensor, " tokens"], weights: Float[Tensor, "n_latents vocab"]
) -> RaggedLatents:
    """Return latents times their weight on the token that follows: what each adds to its logit."""
    kept = latents.ragged()
    effect = weights[kept.indices.long(), following[kept.rows()]]
    return RaggedLatents(kept.values * effect, kept.indices, kept.offsets, kept.n_latents)


def row_correlations(
    a: Float[Tensor, "pairs vocab"], b: Float[Tensor, "pairs vocab"]
) -> Float[Tensor, " pairs"]:
    """Return the Pearson coefficient of each pair of rows, NaN where one does not vary."""
    a, b = a.double(), b.double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return torch.where(scale > 0, (a * b).sum(1) / scale, torch.nan)


def logit_weight_similarity(
    a: Float[Tensor, "pairs vocab"], b: Float[Tensor, "pairs vocab"], *, seed: int = 0
) -> Measure:
    """Return the median correlation of logit weights of pairs; its chance is that of pairs dealt anew."""
    order = torch.randperm(len(b), generator=torch.Generator().manual_seed(seed))
    return _median(row_correlations(a, b), row_correlations(a, b[order.to(b.device)]), seed)


class _Sums:
    """Running sums of the pairs of latents `first` to `last` of A with all of B."""

    def __init__(self, first: int, last: int, n_b: int) -> None:
        self.first, self.last, self.n_b = first, last, n_b
        self.n_tokens = 0
        self._made = False

    def add(self, a: RaggedLatents, b: RaggedLatents) -> None:
        """Add the latents of a block of tokens."""
        if not self._made:
            self._start(a.values.device)
        self.n_tokens += len(a)
        rows, values, indices = a.rows(), a.values.double(), a.indices.long()
        inside = (indices >= self.first) & (indices < self.last) & (values != 0)
        rows, values, indices = rows[inside], values[inside], indices[inside] - self.first
        own = b.values.double(), b.indices.long()
        for (sums, squares), (v, i) in zip(
            (self._a, self._b), ((values, indices), own), strict=True
        ):
            sums.index_add_(0, i, v)
            squares.index_add_(0, i, v * v)
        n_pairs = int(b.offsets.diff()[rows].sum())
        if n_pairs > DENSE_FROM * len(a) * (self.last - self.first) * self.n_b:
            self._dense(rows, values, indices, b)
        else:
            self._expanded(rows, values, indices, b)

    def correlation(self) -> Float[Tensor, "n_a n_b"]:
        """Return the Pearson coefficients, NaN where a latent does not vary."""
        n = self.n_tokens
        spread = [_deviation(sums / n, squares / n) for sums, squares in (self._a, self._b)]
        covariance = self._ab / n - (self._a[0] / n)[:, None] * (self._b[0] / n)
        scale = spread[0][:, None] * spread[1]
        return torch.where(scale > 0, covariance / scale, torch.nan)

    def masked(self) -> Float[Tensor, "n_a n_b"]:
        """Return the masked cosines, NaN where they never fire together with their partner's mask."""
        on_a = (self._a[1][:, None] * self._b_on_a).sqrt()
        on_b = (self._a_on_b * self._b[1]).sqrt()
        each = [torch.where(s > 0, self._ab / s, -torch.inf) for s in (on_a, on_b)]
        found = torch.maximum(*each)
        alive = (self._a[1][:, None] > 0) & (self._b[1] > 0)  # alive, never together: 0
        return torch.where(alive, torch.where(found.isinf(), 0.0, found), torch.nan)

    def _start(self, device: torch.device) -> None:
        n = self.last - self.first
        self._made = True

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._a, self._b = (zeros(n), zeros(n)), (zeros(self.n_b), zeros(self.n_b))
        self._ab, self._b_on_a, self._a_on_b = (zeros(n, self.n_b) for _ in range(3))

    def _dense(self, rows: Tensor, values: Tensor, indices: Tensor, b: RaggedLatents) -> None:
        at_once = max(1, 2**24 // max(self.n_b, self.last - self.first))
        for start in range(0, len(b), at_once):
            stop = min(start + at_once, len(b))
            dense_a = values.new_zeros(stop - start, self.last - self.first)
            here = (rows >= start) & (rows < stop)
            dense_a[rows[here] - start, indices[here]] = values[here]
            dense_b = _slice(b, start, stop).dense().double()
            self._ab += dense_a.t() @ dense_b
            self._b_on_a += (dense_a != 0).double().t() @ dense_b.square()
            self._a_on_b += dense_a.square().t() @ (dense_b != 0).double()

    def _expanded(self, rows: Tensor, values: Tensor, indices: Tensor, b: RaggedLatents) -> None:
        """Add every pair of entries of the same token, some entries of A at a time."""
        counts = b.offsets.diff()[rows]
        ends = counts.cumsum(0)
        n_parts = int(ends[-1]) // PAIRS_AT_ONCE + 1 if len(ends) else 0
        for start, stop in _spans(len(rows), n_parts):
            each = counts[start:stop]
            of_a = torch.arange(start, stop, device=rows.device).repeat_interleave(each)
            before = (each.cumsum(0) - each).repeat_interleave(each)
            of_b = b.offsets[rows[of_a]] + torch.arange(len(of_a), device=rows.device) - before
            own, other = values[of_a], b.values[of_b].double()
            both = indices[of_a] * self.n_b + b.indices[of_b]
            self._ab.view(-1).index_add_(0, both, own * other)
            self._b_on_a.view(-1).index_add_(0, both, other * other)
            self._a_on_b.view(-1).index_add_(0, both, own * own)


def _deviation(mean: Float[Tensor, " n"], square: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    variance = square - mean * mean
    return torch.where(variance > ROUNDING * square, variance, 0.0).clamp(min=0).sqrt()


def _spans(n: int, n_parts: int) -> list[tuple[int, int]]:
    edges = [n * part // n_parts for part in range(n_parts + 1)] if n_parts else []
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def _slice(b: RaggedLatents, start: int, stop: int) -> RaggedLatents:
    entries = slice(int(b.offsets[start]), int(b.offsets[stop]))
    offsets = b.offsets[start : stop + 1] - b.offsets[start]
    return RaggedLatents(b.values[entries], b.indices[entries], offsets, b.n_latents)


def _beside(
    pairs: Iterable[tuple[Sparse, Sparse]], lag: int
) -> Iterator[tuple[RaggedLatents, RaggedLatents | None, RaggedLatents | None]]:
    """Yield each block of A with its own of B, and with that of `lag` blocks before, in a circle.

    Too few blocks for that: B is turned by half of its rows. The first ones come again at the end, with the
    others of B alone.
    """
    early: list[RaggedLatents] = []
    before: deque[RaggedLatents] = deque(maxlen=lag)
    n_blocks = 0
    for a, b in pairs:
        if len(a) != len(b):
            raise ConfigError(
                f"A block has {len(a)} tokens of A and {len(b)} of B. Encode the same tokens."
            )
        mine, own = a.ragged(), b.ragged()
        if n_blocks < lag:
            early.append(mine)
            yield mine, own, None
        else:
            yield mine, own, before[0]
        before.append(own)
        n_blocks += 1
    for mine, others in zip(early, before, strict=True):
        yield mine, None, others if n_blocks > lag else _turned(others)


def _as_long(a: RaggedLatents, b: RaggedLatents) -> tuple[RaggedLatents, RaggedLatents]:
    n = min(len(a), len(b))
    return _slice(a, 0, n), _slice(b, 0, n)


def _turned(b: RaggedLatents) -> RaggedLatents:
    """Return the second half of the rows, and then the first."""
    half = len(b) // 2
    first, second = _slice(b, 0, half), _slice(b, half, len(b))
    offsets = torch.cat([second.offsets, first.offsets[1:] + second.offsets[-1]])
    return RaggedLatents(
        torch.cat([second.values, first.values]),
        torch.cat([second.indices, first.indices]),
        offsets,
        b.n_latents,
    )


def _best(values: Float[Tensor, "n_a n_b"]) -> tuple[Int64[Tensor, " n_a"], Float[Tensor, " n_a"]]:
    best, index = values.nan_to_num(-torch.inf).max(1)
    return index.cpu(), torch.where(best.isinf(), torch.nan, best).cpu()


def _median(found: Float[Tensor, " n"], chance: Float[Tensor, " n"], seed: int) -> Measure:
    known = chance[~chance.isnan()]
    null = float(known.median()) if len(known) else None
    return median(found.double().cpu().numpy(), seed=seed, null=null)
