"""The firing pass: how often each latent fires over a long stream of tokens, after training.

The stream is the training split and then, where that is too short, the held-out one, each in its
seeded order, in whole contexts: the same tokens as those of a feature database of that many, so that
both count the same latents as dead, and a database's counts may stand in for a second pass. How many
tokens came from which split is recorded. No token is counted twice, so a store that is smaller than
the window makes the window smaller.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.progress import progress
from monosem.metrics.stream import AnyDictionary, Place, activations, blocks, enough, visit
from monosem.runtime import matmul
from monosem.text.tokens import Split

SPLITS: tuple[Split, ...] = ("train", "heldout")
"""The order in which the splits are streamed."""
ROWS_AT_ONCE = 4096
"""Rows encoded at once: some kinds pass through dense latents, and those should stay small."""


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
    counts = {
        name: torch.zeros(d.n_latents, dtype=torch.int64, device=d.W_dec.device)
        for name, d in dictionaries.items()
    }
    seen: dict[str, int] = {split: 0 for split in SPLITS}
    with progress("firing", n_tokens) as bar, matmul.scope(policy), torch.no_grad():
        for split, x in _stream(place, n_tokens, seed, batch):
            for name, dictionary in dictionaries.items():
                for rows in x.split(ROWS_AT_ONCE):
                    counts[name] += dictionary.firings(rows)
            bar.advance(min(len(x), max(0, n_tokens - sum(seen.values()))))
            seen[split] += len(x)
    return {
        name: Firing(n_fired=n_fired.cpu(), n_tokens=dict(seen), matmul=policy)
        for name, n_fired in counts.items()
    }


def _stream(
    place: Place, n_tokens: int, seed: int, batch: int
) -> Iterator[tuple[Split, Float[Tensor, "batch d_in"]]]:
    """Yield ordinary activations of whole contexts until there are `n_tokens`, or the text ends."""
    left = n_tokens
    for split in SPLITS:
        if left <= 0 or not place.store.n_contexts(split):
            continue
        contexts = enough(visit(place.store, split, seed), place.store, left)
        for block in blocks(place.store, contexts, batch):
            x = activations(place, block)[block.ordinary.to(place.model.device)]
            yield split, x
            left -= len(x)
