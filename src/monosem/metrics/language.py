"""The language model itself, beside n-gram models: is there anything in it to be found?

Loss of the model and of interpolated Kneser–Ney models of order 1 to 3 fitted on the training tokens
of the store, on the same held-out contexts and the same targets (the ordinary tokens), in nats a
token, with the 95 % interval of drawing those contexts anew. A model that does not beat the trigram
has learnt little that a table could not hold.

The tables are made from `N_TRAINING_TOKENS` at most, contexts drawn by the seed from all of the
training split, and a block at a time: about 2 GB for the trigrams of 10^8 tokens drawn from a Zipf law.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.activations.capture import check_fit
from monosem.core.config import Json
from monosem.core.progress import progress
from monosem.metrics.heldout import ordinary_losses, tokens_at_once
from monosem.metrics.intervals import Intervals, by_context
from monosem.metrics.measure import mean
from monosem.metrics.stream import blocks, first, visit
from monosem.models.language_model import LanguageModel
from monosem.text.ngram import KneserNey
from monosem.text.tokens import TokenStore

Losses = Float[Tensor, " tokens"] | Float[np.ndarray, " tokens"]
"""Of the ordinary targets of some contexts, one context after the other."""
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}
N_TRAINING_TOKENS = 100_000_000
"""Training tokens on which an n-gram model is fitted, at most."""
BLOCK_TOKENS = 2**23
"""Tokens counted at once."""


def evaluate_language_model(
    model: LanguageModel, store: TokenStore, *, n_tokens: int = 65_536, seed: int = 0
) -> Json:
    """Return `loss`, `unigram`, `bigram` and `trigram` on about `n_tokens` held-out tokens.

    `intervals` has both ends of each by its name.
    """
    check_fit(model, store)
    contexts = first(visit(store, "heldout", seed), store, n_tokens)
    losses: dict[str, Losses] = {
        "loss": _losses(model, store, contexts),
        **ngram_losses(store, contexts, seed=seed),
    }
    targets = store.ordinary(store.tokens(contexts))[:, 1:]
    values: Json = {name: float(found.mean()) for name, found in losses.items()}
    return values | {"intervals": over_contexts(losses, targets, seed=seed)}


def over_contexts(
    losses: Mapping[str, Losses], targets: Bool[np.ndarray, "contexts pos"], *, seed: int = 0
) -> Intervals:
    """Return the intervals of mean losses on `targets`; the same contexts are drawn for all of them."""
    n_targets = targets.sum(1).astype(np.float64)
    found = {
        name: mean(by_context(np.asarray(of), targets), weights=n_targets, seed=seed)
        for name, of in losses.items()
    }
    return {
        name: [measure.low, measure.high]
        for name, measure in found.items()
        if measure.low is not None and measure.high is not None
    }


def ngram_losses(
    store: TokenStore, contexts: np.ndarray, *, seed: int = 0
) -> dict[str, Float[np.ndarray, " tokens"]]:
    """Return the losses of the three n-gram models on each ordinary target of `contexts`."""
    train = np.sort(first(visit(store, "train", seed), store, N_TRAINING_TOKENS))
    held = store.tokens(contexts)
    targets = store.ordinary(held)[:, 1:]
    losses: dict[str, Float[np.ndarray, " tokens"]] = {}
    with progress("n-gram models", len(ORDERS)) as bar:
        for name, order in ORDERS.items():
            ngrams = KneserNey.fit_blocks(_tokens(store, train), order, store.vocab_size)
            losses[name] = ngrams.nll(held)[targets]
            bar.advance(1)
    return losses


def _tokens(store: TokenStore, contexts: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BLOCK_TOKENS // store.context)
    for start in range(0, len(contexts), step):
        yield store.tokens(contexts[start : start + step])


@torch.no_grad()
def _losses(
    model: LanguageModel, store: TokenStore, contexts: np.ndarray
) -> Float[Tensor, " tokens"]:
    parts = [
        ordinary_losses(model.losses(block.tokens), block).cpu().double()
        for block in blocks(store, contexts, tokens_at_once(model))
    ]
    return torch.cat(parts)
