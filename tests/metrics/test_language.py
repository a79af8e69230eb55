"""N-gram baselines: fitted a block at a time, on no more tokens than stated."""

import numpy as np
import pytest
import torch

from monosem.metrics import language
from monosem.metrics.language import evaluate_language_model, ngram_losses
from monosem.metrics.stream import first, visit
from monosem.text.ngram import KneserNey


def by_hand(store, train, held) -> dict[str, float]:
    tokens, targets = store.tokens(held), store.ordinary(store.tokens(held))[:, 1:]
    fitted = {
        name: KneserNey.fit(store.tokens(train), order, store.vocab_size)
        for name, order in language.ORDERS.items()
    }
    return {name: float(model.nll(tokens)[targets].mean()) for name, model in fitted.items()}


def means(losses) -> dict[str, float]:
    return {name: float(found.mean()) for name, found in losses.items()}


def test_blocks_of_a_few_contexts_give_what_all_tokens_at_once_give(store, monkeypatch) -> None:
    held = np.array(store.contexts("heldout"))
    monkeypatch.setattr(language, "BLOCK_TOKENS", 7 * store.context)
    assert means(ngram_losses(store, held)) == by_hand(
        store, np.array(store.contexts("train")), held
    )


def test_no_more_tokens_are_read_than_the_limit_and_they_are_drawn_by_the_seed(
    store, monkeypatch
) -> None:
    held = np.array(store.contexts("heldout"))
    monkeypatch.setattr(language, "N_TRAINING_TOKENS", 10 * (store.context - 1))
    drawn = store.contexts("train").start + np.random.default_rng(3).permutation(
        store.n_contexts("train")
    )
    found = ngram_losses(store, held, seed=3)
    assert means(found) == pytest.approx(by_hand(store, drawn[:10], held))
    assert means(found) != means(ngram_losses(store, held, seed=4))


def test_losses_are_kept_with_the_intervals_of_drawing_their_contexts_anew(
    model, store, jackknife
) -> None:
    found = evaluate_language_model(model, store, n_tokens=600, seed=2)
    contexts = first(visit(store, "heldout", 2), store, 600)
    tokens = store.tokens(contexts)
    targets = store.ordinary(tokens)[:, 1:]
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(tokens))[:, :-1].double().log_softmax(-1)
    own = -logits.gather(2, torch.from_numpy(tokens)[:, 1:, None].long())[..., 0].numpy()
    train = np.array(store.contexts("train"))
    tables = {
        name: KneserNey.fit(store.tokens(train), order, store.vocab_size).nll(tokens)
        for name, order in language.ORDERS.items()
    }
    assert list(found) == ["loss", *tables, "intervals"] and 20 < len(contexts) < 600
    assert len(set(targets.sum(1))) > 1  # contexts count by how many targets they have
    of = np.nonzero(targets)[0]
    for name, losses in {"loss": own, **tables}.items():
        plain = losses[targets]
        assert found[name] == pytest.approx(plain.mean(), rel=1e-5)
        ends = jackknife(lambda i, plain=plain: plain[i].mean(), of)
        assert tuple(found["intervals"][name]) == ends
