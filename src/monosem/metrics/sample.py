"""Sample: whole contexts of a store, what stands at a site on them, and which latents fire, in memory.

    sample = draw(dictionary, place, n_tokens=65_536)
    sample.column(17)                       one latent on every ordinary token
    sample.at(values)                       a value for each token of each context, at the ordinary ones

Measures that look at text (proxies, contexts of a unit, probes) take one. Ordinary tokens stand one after
another, context after context; `context_of` says of which they are, because tokens of one context are not
independent of each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from monosem.core.progress import progress
from monosem.dictionaries.latents import RaggedLatents
from monosem.metrics.stream import AnyDictionary, Block, Place, activations, blocks, enough, visit
from monosem.text.tokens import Split, TokenStore

N_TOKENS = 65_536
BATCH = 4096
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Text:
    """Whole contexts and their text."""

    contexts: Int64[np.ndarray, " n"]
    """Their ids in the store."""
    tokens: Int64[np.ndarray, "n context"]
    ordinary: Bool[np.ndarray, "n context"]
    pieces: Sequence[Sequence[str]]
    """Text of each token: a character split over tokens stands at the first, special tokens are ""."""

    @cached_property
    def context_of(self) -> Int64[np.ndarray, " tokens"]:
        """Which of the contexts each ordinary token is of."""
        return np.nonzero(self.ordinary)[0]

    def at(self, values: np.ndarray) -> np.ndarray:
        """Return what `values` [n context] are at the ordinary tokens."""
        return values[self.ordinary]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Sample:
    """What a dictionary makes of a text; rows are the ordinary tokens."""

    text: Text
    x: Float[Tensor, "tokens d"]
    latents: csr_array
    """Values of the latents, [tokens n_latents]."""

    @cached_property
    def by_latent(self) -> csc_array:
        """The same values, latent after latent."""
        return self.latents.tocsc()

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary."""
        return shape_of(self.latents)[1]

    def column(self, latent: int) -> Float[np.ndarray, " tokens"]:
        """Return one latent on every ordinary token."""
        return self.by_latent[:, [latent]].toarray()[:, 0]

    def n_fired(self) -> Int64[np.ndarray, " n_latents"]:
        """Return on how many tokens each latent fires."""
        return np.diff(self.by_latent.indptr).astype(np.int64)

    def __len__(self) -> int:
        return len(self.x)


def read_text(store: TokenStore, contexts: Int64[np.ndarray, " n"]) -> Text:
    """Return contexts of a store with their text."""
    tokens = store.tokens(contexts)
    pieces = [store.pieces(int(c), 0, store.context) for c in contexts]
    return Text(np.asarray(contexts), tokens, store.ordinary(tokens), pieces)


def draw(
    dictionary: AnyDictionary,
    place: Place,
    *,
    split: Split = "heldout",
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    batch: int = BATCH,
) -> Sample:
    """Return about `n_tokens` ordinary tokens of `split`, in whole contexts of a seeded order."""
    contexts = enough(visit(place.store, split, seed), place.store, n_tokens)
    return encode(dictionary, place, read_text(place.store, contexts), batch=batch)


def encode(dictionary: AnyDictionary, place: Place, text: Text, *, batch: int = BATCH) -> Sample:
    """Return what `dictionary` makes of `text`."""
    xs: list[Tensor] = []
    parts: list[csr_array] = []
    for x, latents in encoded(dictionary, place, text.contexts, batch):
        xs.append(x.cpu())
        parts.append(as_matrix(latents))
    return Sample(text, torch.cat(xs), vertical(parts))


@torch.no_grad()
def encoded(
    dictionary: AnyDictionary, place: Place, contexts: Int64[np.ndarray, " n"], batch: int = BATCH
) -> Iterator[tuple[Float[Tensor, "tokens d"], RaggedLatents]]:
    """Yield activations and latents of the ordinary tokens of `contexts`, a few contexts at a time."""
    with progress("latents (contexts)", len(contexts)) as bar:
        for block in blocks(place.store, contexts, batch):
            x = _ordinary(place, block)
            for rows in x.split(ROWS_AT_ONCE):
                yield rows, dictionary.encode_sparse(rows).ragged()
            bar.advance(len(block.tokens))


def as_matrix(latents: RaggedLatents) -> csr_array:
    """Return latents as a sparse matrix of scipy's, without stored zeros."""
    kept = (latents.values, latents.indices, latents.offsets)
    values, indices, offsets = (part.detach().cpu().numpy() for part in kept)
    made = csr_array((values, indices, offsets), shape=(len(latents), latents.n_latents))
    made.eliminate_zeros()
    return made


def vertical(parts: Sequence[csr_array]) -> csr_array:
    """Return the rows of all `parts`, one after the other."""
    ends = np.cumsum([0, *(part.nnz for part in parts)])
    offsets = [part.indptr[1:] + end for part, end in zip(parts, ends, strict=False)]
    data = np.concatenate([part.data for part in parts])
    indices = np.concatenate([part.indices for part in parts])
    indptr = np.concatenate([np.zeros(1, np.int64), *offsets])
    return csr_array((data, indices, indptr), shape=(len(indptr) - 1, shape_of(parts[0])[1]))


def shape_of(matrix: csr_array) -> tuple[int, int]:
    """Return rows and columns; scipy's annotations allow that there are none."""
    return cast(tuple[int, int], matrix.shape)


def _ordinary(place: Place, block: Block) -> Float[Tensor, "tokens d"]:
    return activations(place, block)[block.ordinary.to(place.model.device)]
