"""Where large values are: the `k` largest positive ones of each row, exact, and indifferent to their order.

View a row as stripes laid on top of each other: column `c` holds one entry of each stripe. The `k`
largest entries of the row lie in the `k` columns with the largest maxima, because an entry outside
them has `k` entries above it, one in each of those columns. So: maxima of all columns, top `k` of
them, gather their entries, top `k` of those; and both searches may do the same again.

Positive floating-point numbers are in the order of the integers with the same bits, and those are
compared several times as fast. Negative numbers are below the positive ones as integers too, but
upside down among themselves: a row with fewer than `k` positive values is filled up with any others.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

AT_ONCE = 512
"""Columns that are searched without folding: within NumPy's sorting networks."""
FEW_THREADS = 4
"""Up to so many, NumPy's search, which uses one, is quicker than torch's, which uses all."""
KEYS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def largest_positive(x: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    """Where the `k` largest positive values of each row are, in no particular order."""
    if x.device.type != "cpu" or x.dtype not in KEYS or not 0 < k < x.shape[1]:
        return largest_reference(x, k)
    return _search(x.view(KEYS[x.dtype]), k)


def first_largest(x: Float[Tensor, " n"], k: int) -> tuple[Bool[Tensor, " n"], Float[Tensor, ""]]:
    """Whether each value is among the `k` largest, of equal ones the first; and the smallest of those.

    It asks the device, so it is for the CPU; there `topk` does not say which of equal values it takes.
    """
    cut = x.topk(k, sorted=False).values.amin()
    chosen = ~(x < cut)  # also what is not a number
    excess = int(chosen.count_nonzero()) - k
    if excess > 0:
        last = (x == cut).nonzero()[:, 0][-excess:]
        chosen[last] = False
    return chosen, cut


def places_above(x: Float[Tensor, "rows n"], floor: float) -> Int64[Tensor, " some"]:
    """Where values are above a `floor` of `x`'s type, zero or positive: in `x` flattened, in order."""
    if x.device.type != "cpu" or x.dtype not in KEYS:
        return (x > floor).flatten().nonzero()[:, 0]
    kind = KEYS[x.dtype]
    keys, lowest = x.view(kind), int(x.new_tensor(floor).view(kind))
    if torch.get_num_threads() > FEW_THREADS:
        return (keys > lowest).flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(keys.numpy() > lowest))


def largest_reference(x: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    """The same in one stage."""
    return x.topk(k, dim=1, sorted=False).indices


def _search(keys: Int[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    n = keys.shape[1]
    columns = max(AT_ONCE, 4 * k)
    if n <= columns:
        return _partition(keys, k)
    stripes = 2 ** math.ceil(math.log2(n / columns))
    columns = n // stripes
    body = keys[:, : stripes * columns].unflatten(1, (stripes, columns))
    chosen = _search(body.amax(1), k)
    candidates = body.gather(2, chosen[:, None, :].expand(-1, stripes, -1)).flatten(1)
    whole = stripes * columns == n
    if not whole:
        candidates = torch.cat([candidates, keys[:, stripes * columns :]], 1)
    found = _search(candidates, k)
    inside = found if whole else found.clamp_max(stripes * k - 1)
    stripe = torch.from_numpy(inside.numpy() // k)  # ten times as fast as torch's
    places = stripe * columns + chosen.gather(1, inside - stripe * k)
    if whole:
        return places
    beyond = found - stripes * k  # position after the last stripe, negative for the others
    return torch.where(beyond >= 0, beyond + stripes * columns, places)


def _partition(keys: Int[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    n = keys.shape[1]
    if k == n:
        return torch.arange(n).expand(len(keys), n)
    if torch.get_num_threads() > FEW_THREADS:
        return keys.topk(k, dim=1, sorted=False).indices
    # a key and its place in one integer: partitioning moves both
    few_bits = keys.dtype == torch.int16 and n <= 2**16
    bits, wide = (16, np.int32) if few_bits else (32, np.int64)
    packed = keys.numpy().astype(wide)
    packed <<= bits
    packed |= np.arange(n, dtype=wide)
    packed.partition(n - k, axis=1)
    return torch.from_numpy((packed[:, n - k :] & (2**bits - 1)).astype(np.int64))
