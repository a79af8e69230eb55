"""The language model itself, beside n-gram models: is there anything in it to be found?

Loss of the model and of interpolated Kneser–Ney models of order 1 to 3 fitted on all training
tokens of the store, on the same held-out contexts and the same targets (the ordinary tokens), in
nats a token. A model that does not beat the trigram has learnt little that a table could not hold.
"""

import numpy as np
import torch

from monosem.activations.capture import check_fit
from monosem.core.progress import progress
from monosem.metrics.heldout import ordinary_losses, tokens_at_once
from monosem.metrics.stream import blocks, first, visit
from monosem.models.language_model import LanguageModel
from monosem.text.ngram import KneserNey
from monosem.text.tokens import TokenStore

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}


def evaluate_language_model(
    model: LanguageModel, store: TokenStore, *, n_tokens: int = 65_536, seed: int = 0
) -> dict[str, float]:
    """Return `loss`, `unigram`, `bigram` and `trigram` on about `n_tokens` held-out tokens."""
    check_fit(model, store)
    contexts = first(visit(store, "heldout", seed), store, n_tokens)
    return {"loss": _loss(model, store, contexts), **ngram_losses(store, contexts)}


def ngram_losses(store: TokenStore, contexts: np.ndarray) -> dict[str, float]:
    """Return the losses of the three n-gram models on the ordinary targets of `contexts`."""
    train, held = store.tokens(store.contexts("train")), store.tokens(contexts)
    targets = store.ordinary(held)[:, 1:]
    losses: dict[str, float] = {}
    with progress("n-gram models", len(ORDERS)) as bar:
        for name, order in ORDERS.items():
            ngrams = KneserNey.fit(train, order, store.vocab_size)
            losses[name] = float(ngrams.nll(held)[targets].mean())
            bar.advance(1)
    return losses


@torch.no_grad()
def _loss(model: LanguageModel, store: TokenStore, contexts: np.ndarray) -> float:
    parts = [
        ordinary_losses(model.losses(block.tokens), block).cpu().double()
        for block in blocks(store, contexts, tokens_at_once(model))
    ]
    return float(torch.cat(parts).mean())
