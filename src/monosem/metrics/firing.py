"""The firing pass: how often each latent fires over a long stream of tokens, after training.

The stream is the whole held-out split and then, where that is too short, the training split, each
in its seeded order; how many tokens came from which is recorded. No token is counted twice, so a
store that is smaller than the window makes the window smaller.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.progress import progress
from monosem.dictionaries.latents import RaggedLatents
from monosem.kernels.dense import count_positive
from monosem.metrics.stream import AnyDictionary, Place, activations, blocks, visit
from monosem.runtime import matmul
from monosem.text.tokens import Split

SPLITS: tuple[Split, ...] = ("heldout", "train")
"""The order in which the splits are streamed."""
ROWS_AT_ONCE = 1024
"""Rows encoded at once on a CPU: larger dense latents leave its caches, and fresh memory is slow."""


@dataclass(frozen=True, kw_only=True)
class Firing:
    """How often each latent of one dictionary fired, over how many tokens of which split."""

    n_fired: Int64[Tensor, " n_latents"]
    n_tokens: dict[str, int]
    matmul: matmul.MatmulPolicy
    """Arithmetic of the pass; in bf16 a latent at the edge of firing may fall on the other side."""

    @property
    def total(self) -> int:
        """Tokens of the window."""
        return sum(self.n_tokens.values())


def count_firing(
    dictionaries: Mapping[str, AnyDictionary],
    place: Place,
    *,
    n_tokens: int,
    seed: int,
    batch: int,
    policy: matmul.MatmulPolicy,
) -> dict[str, Firing]:
    """Return the firings of all `dictionaries` over `n_tokens` ordinary tokens, in one pass."""
    counters = {name: Counter(d) for name, d in dictionaries.items()}
    seen: dict[str, int] = {split: 0 for split in SPLITS}
    with progress("firing", n_tokens) as bar, matmul.scope(policy), torch.no_grad():
        for split, x in _stream(place, n_tokens, seed, batch):
            for counter in counters.values():
                counter.add(x)
            seen[split] += len(x)
            bar.advance(len(x))
    return {
        name: Firing(n_fired=counter.n_fired.cpu(), n_tokens=dict(seen), matmul=policy)
        for name, counter in counters.items()
    }


class Counter:
    """Counts the firings of one dictionary's latents."""

    def __init__(self, dictionary: AnyDictionary) -> None:
        """Start at zero."""
        self.dictionary = dictionary
        self.n_fired = torch.zeros(
            dictionary.n_latents, dtype=torch.int64, device=dictionary.W_dec.device
        )
        self._ragged = False

    def add(self, x: Float[Tensor, "batch d_in"]) -> None:
        """Count a batch."""
        for part in x.split(ROWS_AT_ONCE if x.device.type == "cpu" else len(x)):
            self._add(part)

    def _add(self, x: Float[Tensor, "batch d_in"]) -> None:
        # A ragged kind passes through dense latents on its way to sparse ones; counting those at
        # once saves making a list of entries that nobody reads.
        if self._ragged:
            self.n_fired += count_positive(self.dictionary.encode(x))
            return
        latents = self.dictionary.encode_sparse(x)
        self._ragged = isinstance(latents, RaggedLatents)
        self.n_fired += torch.bincount(latents.active(), minlength=len(self.n_fired))


def _stream(
    place: Place, n_tokens: int, seed: int, batch: int
) -> Iterator[tuple[Split, Float[Tensor, "batch d_in"]]]:
    left = n_tokens
    for split in SPLITS:
        if not place.store.n_contexts(split):
            continue
        for block in blocks(place.store, visit(place.store, split, seed), batch):
            x = activations(place, block)[block.ordinary.to(place.model.device)][:left]
            if len(x):
                yield split, x
            left -= len(x)
            if left <= 0:
                return
