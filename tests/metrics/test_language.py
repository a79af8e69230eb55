"""N-gram baselines: fitted a block at a time, on no more tokens than stated."""

import numpy as np
import pytest

from monosem.metrics import language
from monosem.metrics.language import ngram_losses
from monosem.text.ngram import KneserNey


def by_hand(store, train, held) -> dict[str, float]:
    tokens, targets = store.tokens(held), store.ordinary(store.tokens(held))[:, 1:]
    fitted = {
        name: KneserNey.fit(store.tokens(train), order, store.vocab_size)
        for name, order in language.ORDERS.items()
    }
    return {name: float(model.nll(tokens)[targets].mean()) for name, model in fitted.items()}


def test_blocks_of_a_few_contexts_give_what_all_tokens_at_once_give(store, monkeypatch) -> None:
    held = np.array(store.contexts("heldout"))
    monkeypatch.setattr(language, "BLOCK_TOKENS", 7 * store.context)
    assert ngram_losses(store, held) == by_hand(store, np.array(store.contexts("train")), held)


def test_no_more_tokens_are_read_than_the_limit_and_they_are_drawn_by_the_seed(
    store, monkeypatch
) -> None:
    held = np.array(store.contexts("heldout"))
    monkeypatch.setattr(language, "N_TRAINING_TOKENS", 10 * (store.context - 1))
    drawn = store.contexts("train").start + np.random.default_rng(3).permutation(
        store.n_contexts("train")
    )
    found = ngram_losses(store, held, seed=3)
    assert found == pytest.approx(by_hand(store, drawn[:10], held))
    assert found != ngram_losses(store, held, seed=4)
