"""Streams of activations for measurements: which contexts, in what order, and their mean.

Contexts of a split are visited in one seeded permutation, so that a part of the split is a sample of
the whole of it: stores hold corpora one after the other.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from monosem.activations.capture import check_fit
from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.models.language_model import LanguageModel
from monosem.models.site import Site
from monosem.text.tokens import Split, TokenStore

AnyDictionary = Dictionary[Any]


@dataclass(frozen=True, eq=False)
class Place:
    """Where activations come from: a site of a model, reading a token store."""

    model: LanguageModel
    store: TokenStore
    site: str

    @property
    def width(self) -> int:
        """Width of the vector a token has there; heads count flattened."""
        return self.model.width(self.site)

    def check(self) -> None:
        """Raise unless the site has vectors and the model can read the store's tokens."""
        self.model.check_site(self.site)
        _ = self.width
        check_fit(self.model, self.store)


@dataclass(frozen=True, eq=False)
class Block:
    """A few contexts: their tokens, and which of these are ordinary."""

    tokens: Int[Tensor, "batch pos"]
    ordinary: Bool[Tensor, "batch pos"]


def site_of(dictionaries: Mapping[str, AnyDictionary], site: str | None) -> str:
    """Return the canonical name of the one site that `dictionaries` read: their own, or else `site`."""
    if not dictionaries:
        raise ConfigError("There is no dictionary to read with. Pass at least one.")
    sites = {name: Site.parse(d.site).name for name, d in dictionaries.items() if d.site}
    wanted = Site.parse(site).name if site else next(iter(sites.values()), "")
    if not wanted:
        raise ConfigError(
            f"The dictionary `{next(iter(dictionaries))}` does not record its site. "
            "Name it: `site='blocks.0.mlp.hook_post'`."
        )
    for name, own in sites.items():
        if own != wanted:
            raise ConfigError(
                f"The dictionary `{name}` was trained at `{own}`, not at `{wanted}`. Read each at its "
                "own site; only dictionaries of one site go together."
            )
    return wanted


def visit(store: TokenStore, split: Split, seed: int) -> Int64[np.ndarray, " n_contexts"]:
    """Return the contexts of `split` in the order of its seeded permutation."""
    contexts = store.contexts(split)
    if not len(contexts):
        raise ConfigError(
            f"The {split} split of `{store.path}` is empty. Use more documents, or another "
            "`heldout_share`, when making the tokens."
        )
    return contexts.start + np.random.default_rng(seed).permutation(len(contexts))


def blocks(
    store: TokenStore, contexts: Sequence[int] | np.ndarray, n_tokens: int
) -> Iterator[Block]:
    """Yield `contexts` in blocks of about `n_tokens` tokens, at least one context each."""
    step = max(1, n_tokens // store.context)
    for start in range(0, len(contexts), step):
        tokens = store.tokens(contexts[start : start + step])
        yield Block(torch.from_numpy(tokens), torch.from_numpy(store.ordinary(tokens)))


def activations(place: Place, block: Block) -> Float[Tensor, "batch pos d"]:
    """Return what the tokens of `block` are at the site, in float32, heads flattened."""
    return vectors(place.model.capture(block.tokens, [place.site])[place.site])


def vectors(x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos d"]:
    """Return one float32 vector a token, heads flattened."""
    return x.flatten(2).float()


def ordinary_mean(place: Place, n_tokens: int, seed: int, batch: int) -> Float[Tensor, " d"]:
    """Return the mean activation of about `n_tokens` ordinary tokens of the training split."""
    contexts = first(visit(place.store, "train", seed), place.store, n_tokens)
    device = place.model.device
    wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no doubles
    total = torch.zeros(place.width, dtype=torch.float64)
    seen = 0
    with progress("mean of the site", n_tokens) as bar:
        for block in blocks(place.store, contexts, batch):
            x = activations(place, block)[block.ordinary.to(device)]
            total += x.sum(0, dtype=wide).cpu()
            seen += len(x)
            bar.advance(len(x))
    mean = total / seen
    return mean.to(device, wide)


def first(
    contexts: Int64[np.ndarray, " n_contexts"], store: TokenStore, n_tokens: int
) -> Int64[np.ndarray, " n_kept"]:
    """Return the first of `contexts`, enough for `n_tokens` ordinary tokens where all but one are."""
    return contexts[: -(-n_tokens // max(1, store.context - 1))]


def enough(
    contexts: Int64[np.ndarray, " n_contexts"], store: TokenStore, n_tokens: int
) -> Int64[np.ndarray, " n_kept"]:
    """Return the first of `contexts`, no more than hold `n_tokens` ordinary tokens; all if too few."""
    kept, held = 0, 0
    while held < n_tokens and kept < len(contexts):
        some = contexts[kept:][: max(1, (n_tokens - held) // store.context)]
        held += int(store.ordinary(store.tokens(some)).sum())
        kept += len(some)
    return contexts[:kept]


def on_device(dictionary: AnyDictionary, device: torch.device) -> AnyDictionary:
    """Return `dictionary` on `device`; the caller's own stays where it is."""
    if dictionary.W_dec.device == device:
        return dictionary
    return copy.deepcopy(dictionary).to(device)
