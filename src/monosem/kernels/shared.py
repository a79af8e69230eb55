"""Selection and the dead latents' error where ranks share out a batch, or the latents.

    largest      the n largest of all ranks' values, exactly so many
    dead_error   `reference.dead_error` of all ranks' rows, or of all ranks' latents

Each rank offers its own n best: none of those that are kept is missing. Sums that the formulas divide by,
and the scale that suits the dead, are of all ranks. On the CPU the same rows stand for a batch as in
`dead_cpu`, since ranks have every `size`-th row of it.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.kernels import dead_cpu, reference
from monosem.kernels.dense import product
from monosem.kernels.pattern import Pattern
from monosem.kernels.select import largest_positive
from monosem.runtime.distributed import ALONE, World

LAST = 2**32 - 1
"""The last place in an order."""


def largest(
    values: Float[Tensor, "*rows some"],
    order: Int64[Tensor, "*#rows some"],
    n: int,
    ranks: World,
) -> Bool[Tensor, "*rows some"]:
    """Whether each value is among the `n` largest of its row over all ranks; what is negative counts as 0.

    Of equal values those are that come first in `order`, of which no two should be alike. Equal ones are
    common: a context that is there twice has the same activations twice.
    """
    # positive numbers are in the order of the integers with the same bits
    bits = values.detach().float().relu().view(torch.int32).long()
    keys = (bits << 32) + (LAST - order % (LAST + 1))
    missing = n - keys.shape[-1]
    offered = keys
    if missing < 0:
        offered = keys.topk(n, sorted=False).values
    elif missing > 0:
        offered = torch.nn.functional.pad(keys, (0, missing), value=-1)
    everything = torch.cat(ranks.gathered(offered), -1)
    return keys >= everything.topk(n, sorted=False).values.amin(-1, keepdim=True)


def of_row(values: Float[Tensor, "*rows some"], n: int, ranks: World) -> Bool[Tensor, "*rows some"]:
    """`largest`, where each rank has `n` values of a row or fewer; of equal ones those of the first rank."""
    first = ranks.rank * n
    order = torch.arange(first, first + values.shape[-1], device=values.device)
    return largest(values, order, n, ranks)


def batch_largest(
    pre: Float[Tensor, " entries"], pattern: Pattern, n: int, ranks: World, widest: int
) -> tuple[Float[Tensor, " kept"], Pattern]:
    """The entries that are among the `n` largest of all ranks; elsewhere than on the CPU the rest is zero.

    Of equal ones the first of the whole batch, whose rows are dealt out, or those latents are, `widest` a
    rank at most.
    """
    order = (pattern.rows.long() * ranks.size + ranks.rank) * widest + pattern.indices
    return kept(pre, pattern, largest(pre, order, n, ranks))


def kept(
    pre: Float[Tensor, " entries"], pattern: Pattern, chosen: Bool[Tensor, " entries"]
) -> tuple[Float[Tensor, " kept"], Pattern]:
    """Some of the entries; a device that would have to be asked how many keeps all, the others as zero."""
    if pre.device.type != "cpu":
        return torch.where(chosen, pre, 0.0), pattern
    before = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.cumsum(0)])
    starts = before.index_select(0, pattern.row_starts).int()
    return pre[chosen], Pattern(pattern.indices[chosen], starts, pattern.n_latents)


def dead_error(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
    dead: Bool[Tensor, " n_latents"],
    residual: Float[Tensor, "batch d_out"],
    k: int,
    *,
    fit: bool,
    rows: World = ALONE,
    latents: World = ALONE,
) -> Float[Tensor, ""]:
    """What the `k` strongest dead latents of each row leave of the residual; `rows` or `latents` are shared.

    Averaged over the ranks that share rows, it is the error of the whole batch, and so is its gradient.
    """
    residual, n = residual.detach(), rows.size * len(x)
    standing, silent = n, ~dead
    if x.device.type == "cpu":  # only there it costs nothing to ask which are dead
        places = dead.nonzero()[:, 0]
        n_dead = int(latents.sum_(torch.tensor(len(places))))
        if n_dead == 0:
            return residual.new_zeros(())
        standing = dead_cpu.n_rows(n, n_dead, latents.size * len(dead))
        W_enc, W_dec = W_enc.t().index_select(0, places).t(), W_dec.index_select(0, places)
        b_enc, silent = b_enc[places], silent[places]
    own = _own(standing, rows)
    pre = product(x[:own] - centre, W_enc).to(x.dtype) + b_enc
    active = pre.masked_fill(silent, -torch.inf).relu()
    active = _strongest(active, k, latents)
    found = latents.total(product(active, W_dec).to(x.dtype))
    wanted = residual[:own]
    stretch = _stretch(found.detach(), wanted, rows) if fit else 1.0
    error = (stretch * found - wanted).square().sum()
    spread, alike = _spread(residual, rows)
    share = rows.size * n / standing
    shown = torch.where(alike, 0 * error, share * error / torch.where(alike, 1.0, spread))
    return shown.nan_to_num(0.0, 0.0, 0.0)


def _own(n: int, rows: World) -> int:
    """How many of the first `n` rows of a batch are this rank's, which has every `size`-th."""
    return -(-(n - rows.rank) // rows.size)


def _strongest(
    active: Float[Tensor, "batch n_dead"], k: int, latents: World
) -> Float[Tensor, "batch n_dead"]:
    """Latents with zeros in place of those that are not among the `k` largest of their row."""
    if latents.size == 1 and active.shape[1] <= k:
        return active
    own = min(k, active.shape[1])
    places = largest_positive(active.detach(), own)
    values = active.gather(1, places)
    if latents.size > 1:
        values = torch.where(of_row(values, k, latents), values, 0.0)
    return torch.zeros_like(active).scatter(1, places, values)


def _stretch(
    found: Float[Tensor, "batch d_out"], wanted: Float[Tensor, "batch d_out"], rows: World
) -> Float[Tensor, ""]:
    """`reference.fitted_scale` of the first rows of the whole batch."""
    own = _own(reference.FITTED_ROWS, rows)
    found, wanted = found[:own], wanted[:own]
    along, square = rows.sum_(torch.stack([(found * wanted).sum(), found.square().sum()]))
    return reference.scale_of(along, square)


def _spread(
    residual: Float[Tensor, "batch d_out"], rows: World
) -> tuple[Float[Tensor, ""], Bool[Tensor, ""]]:
    """The residual's squared distance from its mean, of all ranks' rows; and whether they are all alike."""
    n = rows.size * len(residual)
    mean = rows.sum_(residual.sum(0)) / n
    square = rows.sum_(residual.square().sum())
    spread = square - n * mean.square().sum()
    return spread, spread <= dead_cpu.ROUNDING * square
