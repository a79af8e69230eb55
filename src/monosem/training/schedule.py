"""What a step of pretraining reads, in which order, whole or in pieces; and which steps are kept."""

import itertools
import math
from collections.abc import Generator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def context_order(n_contexts: int, seed: int) -> Generator[int]:
    """Yield positions of contexts for ever, each epoch a fresh permutation of all of them."""
    for epoch in itertools.count():
        generator = np.random.default_rng([seed, epoch])
        yield from generator.permutation(n_contexts).tolist()


def pieces(
    tokens: Int[Tensor, "batch pos"], length: int, offset: int, bos: int | None = None
) -> Int[Tensor, "piece short"]:
    """Return contexts cut into pieces of `length` tokens from `offset` on; the rest is left out.

    A piece begins where its document does, if a `bos` stands less than a length before its place.

    >>> pieces(torch.arange(8)[None] + 10, 3, 1).tolist()
    [[11, 12, 13], [14, 15, 16]]
    >>> pieces(torch.arange(8)[None] + 10, 3, 1, bos=13).tolist()
    [[11, 12, 13], [13, 14, 15]]
    """
    n = (tokens.shape[1] - offset) // length
    starts = torch.arange(offset, offset + n * length, length).expand(len(tokens), -1)
    if bos is not None:
        places = torch.arange(tokens.shape[1]).where(tokens == bos, -length)
        begun = places.cummax(1).values.gather(1, starts)
        starts = begun.where(starts - begun < length, starts)
    return tokens.gather(1, (starts[..., None] + torch.arange(length)).flatten(1)).view(-1, length)


def n_drilled(share: float, step: int) -> int:
    """Return how many contexts of a step are drills, `share` on average: small batches in turn.

    >>> [n_drilled(0.5, step) for step in range(4)]
    [0, 1, 0, 1]
    """
    return math.floor(share * (step + 1)) - math.floor(share * step)


def drills(
    random: np.random.Generator,
    n: int,
    length: int,
    ordinary: Int[np.ndarray, " tokens"],
    *,
    bos: int | None,
) -> Int[np.ndarray, "n length"]:
    """Return contexts of random tokens: a stretch, and the stretch again and again, from places near
    its start and after fillers, so that only the tokens tell what comes next.
    """
    rows = np.empty((n, length), dtype=np.int64)
    for row in rows:
        stretch = random.choice(ordinary, random.integers(5, max(13, length // 4)))
        parts = [np.array([] if bos is None else [bos], dtype=np.int64), stretch]
        while sum(map(len, parts)) < length:
            parts.append(random.choice(ordinary, random.integers(4)))
            parts.append(stretch[random.integers(len(stretch) // 2) :])
        row[:] = np.concatenate(parts)[:length]
    return rows


def log_spaced(n_steps: int, n: int) -> list[int]:
    """Return `n` steps (from 1), log-spaced, the last step left out.

    >>> log_spaced(1000, 3)
    [1, 10, 100]
    """
    if n < 1 or n_steps < 2:
        return []
    points = np.geomspace(1, n_steps, n + 1)[:-1]
    return sorted({int(round(p)) for p in points} - {n_steps})
