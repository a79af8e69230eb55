"""What a step of pretraining reads, in which order, whole or in pieces; and which steps are kept."""

import itertools
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
    tokens: Int[Tensor, "batch pos"], length: int, offset: int
) -> tuple[Int[Tensor, "piece short"], Int[Tensor, "piece short"]]:
    """Return contexts cut into pieces of `length` tokens from `offset` on, and their tokens' places.

    What does not fill a piece is left out. The places are those in the whole contexts, so that all
    position embeddings are trained; by the offset every two near places are in one piece at times.

    >>> cut, places = pieces(torch.arange(8)[None] + 10, 3, 1)
    >>> cut.tolist(), places.tolist()
    ([[11, 12, 13], [14, 15, 16]], [[1, 2, 3], [4, 5, 6]])
    """
    n = (tokens.shape[1] - offset) // length
    places = torch.arange(offset, offset + n * length, device=tokens.device)
    cut = tokens[:, offset : offset + n * length].reshape(-1, length)
    return cut, places.view(n, length).repeat(len(tokens), 1)


def log_spaced(n_steps: int, n: int) -> list[int]:
    """Return `n` steps (from 1), log-spaced, the last step left out.

    >>> log_spaced(1000, 3)
    [1, 10, 100]
    """
    if n < 1 or n_steps < 2:
        return []
    points = np.geomspace(1, n_steps, n + 1)[:-1]
    return sorted({int(round(p)) for p in points} - {n_steps})
