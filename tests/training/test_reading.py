from dataclasses import replace

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.text.genres import indirect_objects
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import NAMES
from monosem.text.store import TokenStore
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training import schedule
from monosem.training.reading import Reader, ReadingConfig
from monosem.training.schedule import renamed


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    config = TokensConfig(
        corpora=("generated:indirect-objects,rolls",),
        tokenizer="train:1800",
        context=32,
        max_tokens=30_000,
    )
    return build_token_store(config, tmp_path_factory.mktemp("store") / "tokens")


def tokens_of(store, words):
    vocabulary = Vocabulary(store.vocab_size, store.tokenizer)
    return [vocabulary.encode(f"and {w}")[-1] for w in vocabulary.single(tuple(words))]


NAMED, OTHERS, SPARED = np.array([7, 8]), np.arange(20, 60), np.array([1, 9])


def test_a_name_is_one_other_token_all_over_its_row_and_what_is_spared_stays(monkeypatch):
    rows = torch.tensor([[1, 7, 2, 7, 8, 9], [3, 8, 8, 4, 7, 1], [1, 2, 3, 4, 5, 6]])
    monkeypatch.setattr(schedule, "RENAMED", 0.0)
    read = renamed(np.random.default_rng(0), rows, 1.0, NAMED, OTHERS, SPARED)
    named = (rows == 7) | (rows == 8)
    assert torch.equal(read[~named], rows[~named]) and ((read == 7) | (read == 8)).sum() == 0
    assert read[0, 1] == read[0, 3] != read[0, 4] and read[1, 1] == read[1, 2] != read[1, 4]
    monkeypatch.setattr(schedule, "RENAMED", 1.0)
    all_ = renamed(np.random.default_rng(0), rows, 1.0, NAMED, OTHERS, SPARED)
    assert torch.equal(all_ == rows, torch.from_numpy(np.isin(rows, SPARED))) and rows[0, 1] == 7


def test_a_share_of_the_rows_is_renamed_and_a_tenth_of_what_is_no_name():
    rows = torch.tensor([[7, 2, 3, 4, 5]]).repeat(4000, 1)
    read = renamed(np.random.default_rng(1), rows, 0.6, NAMED, OTHERS, SPARED)
    changed = (read != rows).float().mean(0)
    assert 0.57 < changed[0] < 0.63 and ((changed[1:] > 0.045) & (changed[1:] < 0.075)).all()


def test_names_kept_for_tests_are_never_renamed_and_no_name_is_a_new_name(store):
    contexts = store.contexts("train")[:64]
    plain = Reader(ReadingConfig(), store, seed=0, n_steps=10)(contexts, 3)
    read = Reader(ReadingConfig(rename=1.0), store, seed=0, n_steps=10)(contexts, 3)
    changed = read != plain
    kept, trained = (tokens_of(store, indirect_objects.names(test=t)) for t in (True, False))
    assert len(kept) > 5 and np.isin(plain, kept).sum() > 20  # in rolls
    assert not np.isin(plain[changed], [*kept, *store.policy.special]).any()
    assert changed[torch.from_numpy(np.isin(plain, trained))].all()
    assert not np.isin(read[changed], tokens_of(store, NAMES)).any()


def test_a_step_reads_the_same_again_and_another_step_other_new_names(store):
    read = Reader(ReadingConfig(rename=0.5, drill=0.25, short=1.0), store, seed=0, n_steps=10)
    contexts = store.contexts("train")[:8]
    assert torch.equal(read(contexts, 2), read(contexts, 2))
    other = Reader(ReadingConfig(rename=1.0), store, seed=0, n_steps=10)
    assert not torch.equal(other(contexts, 2), other(contexts, 3))


def test_renaming_without_names_is_refused(store, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(12):
        (text / f"{i}.txt").write_text("the cat sees the dog and the bee. " * 60)
    config = replace(store.config, corpora=(str(text),), tokenizer="train:280")
    nameless = build_token_store(config, tmp_path / "tokens")
    with pytest.raises(ConfigError, match="`rename` is 0.5, but 0 of the generator's names"):
        Reader(ReadingConfig(rename=0.5), nameless, seed=0, n_steps=10)
    assert Reader(ReadingConfig(), nameless, seed=0, n_steps=10)([0, 1], 0).shape == (2, 32)


def test_pieces_of_one_token_are_refused():
    with pytest.raises(ConfigError, match="`pieces` must be of at least 2"):
        ReadingConfig(pieces=(32, 1))
