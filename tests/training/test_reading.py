from dataclasses import replace

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.text.genres import indirect_objects
from monosem.text.genres.pronouns import SEXED
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import NAMES
from monosem.text.store import TokenStore
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training import renaming as module
from monosem.training.reading import Reader, ReadingConfig
from monosem.training.renaming import Renaming, documents


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


BOS, TELLING = 1, 6
NAMED, OTHERS, SPARED = np.array([7, 8]), np.arange(20, 60), np.array([BOS, 9])


def renaming(share: float, bos: int | None = BOS) -> Renaming:
    telling = np.array([TELLING])
    return Renaming(
        share=share, names=NAMED, others=OTHERS, spared=SPARED, telling=telling, bos=bos
    )


def test_a_name_is_one_other_token_all_over_its_document_and_what_is_spared_stays(monkeypatch):
    rows = torch.tensor([[1, 7, 2, 7, 8, 9], [3, 8, 8, 4, 7, 1], [5, 2, 3, 4, 5, 3]])
    monkeypatch.setattr(module, "RENAMED", 0.0)
    read = renaming(1.0)(np.random.default_rng(0), rows)
    named = (rows == 7) | (rows == 8)
    assert torch.equal(read[~named], rows[~named]) and np.isin(read[named], OTHERS).all()
    assert read[0, 1] == read[0, 3] != read[0, 4] and read[1, 1] == read[1, 2] != read[1, 4]
    monkeypatch.setattr(module, "RENAMED", 1.0)
    all_ = renaming(1.0)(np.random.default_rng(0), rows)
    assert torch.equal(all_ == rows, torch.from_numpy(np.isin(rows, SPARED))) and rows[0, 1] == 7


def test_another_document_of_a_row_has_other_new_names_and_one_that_tells_of_names_keeps_its():
    rows = torch.tensor([[1, 7, 7, 1, 7, 7, 1, 7, 6]]).repeat(400, 1)
    read = renaming(1.0)(np.random.default_rng(0), rows)
    assert torch.equal(read[:, 1], read[:, 2]) and torch.equal(read[:, 4], read[:, 5])
    assert (read[:, 1] != read[:, 4]).float().mean() > 0.9  # of forty others
    assert torch.equal(read[:, 6:], rows[:, 6:])
    # Without a token that begins them, rows are documents, and all of these tell.
    assert torch.equal(renaming(1.0, bos=None)(np.random.default_rng(0), rows), rows)


def test_no_word_stands_for_two_and_every_other_word_comes_up():
    rows = torch.arange(10, 40).repeat(300, 1)  # as many in a document as may be drawn, nearly
    rows[:, 0] = BOS
    read = Renaming(
        share=1.0,
        names=np.arange(10, 40),
        others=OTHERS,
        spared=SPARED,
        telling=np.array([TELLING]),
        bos=BOS,
    )(np.random.default_rng(2), rows)
    assert all(len(row.unique()) == 30 for row in read)
    assert set(read[:, 1].tolist()) == set(OTHERS.tolist())


def test_a_share_of_the_documents_is_renamed_and_a_tenth_of_what_is_no_name():
    rows = torch.tensor([[7, 2, 3, 4, 5, 1, 7, 2, 3]]).repeat(4000, 1)
    read = renaming(0.6)(np.random.default_rng(1), rows)
    changed = (read != rows).float().mean(0)
    assert ((changed[[0, 6]] > 0.57) & (changed[[0, 6]] < 0.63)).all() and changed[5] == 0
    rest = changed[[1, 2, 3, 4, 7, 8]]
    assert ((rest > 0.045) & (rest < 0.075)).all()
    both = ((read[:, 0] != 7) & (read[:, 6] != 7)).float().mean()
    assert 0.32 < both < 0.40  # by themselves: 0.6 squared


def test_a_share_of_the_steps_reads_contexts_whole_beside_the_pieces():
    reading = ReadingConfig(short=0.5, pieces=(8, 16), whole=0.25)
    lengths = [reading.piece_at(step, 48) for step in range(48)]
    assert lengths[:16].count(None) == 4 and lengths[:16].count(8) == 12
    assert lengths[16:24].count(None) == 2 and lengths[16:24].count(16) == 6
    assert set(lengths[24:]) == {None}
    assert None not in [ReadingConfig(short=1.0).piece_at(step, 48) for step in range(48)]


def test_names_kept_for_tests_are_never_renamed_and_no_name_is_a_new_name(store):
    contexts = store.contexts("train")[:64]
    plain = Reader(ReadingConfig(), store, seed=0, n_steps=10)(contexts, 3)
    read = Reader(ReadingConfig(rename=1.0), store, seed=0, n_steps=10)(contexts, 3)
    changed = read != plain
    kept, trained = (tokens_of(store, indirect_objects.names(test=t)) for t in (True, False))
    assert len(kept) > 5 and np.isin(plain, kept).sum() > 20  # in rolls
    assert not np.isin(plain[changed], [*kept, *store.policy.special]).any()
    document = documents(plain.numpy(), store.policy.bos)
    tells = np.isin(document, document[np.isin(plain, tokens_of(store, SEXED))])
    assert 0 < tells.mean() < 0.2 and not changed[torch.from_numpy(tells)].any()
    assert changed[torch.from_numpy(np.isin(plain, trained) & ~tells)].all()
    assert not np.isin(read[changed], tokens_of(store, [*NAMES, *SEXED])).any()


def test_a_step_reads_the_same_again_and_another_step_other_new_names(store):
    read = Reader(ReadingConfig(rename=0.5, drill=0.25, short=1.0), store, seed=0, n_steps=10)
    contexts = store.contexts("train")[:8]
    assert torch.equal(read(contexts, 2), read(contexts, 2))
    other = Reader(ReadingConfig(rename=1.0), store, seed=0, n_steps=10)
    assert not torch.equal(other(contexts, 2), other(contexts, 3))


def test_names_stay_as_they_are_in_the_first_part_of_a_run(store):
    contexts, plain = store.contexts("train")[:16], Reader(ReadingConfig(), store, 0, 10)
    read = Reader(ReadingConfig(rename=1.0, named=0.3), store, seed=0, n_steps=10)
    kept = [torch.equal(read(contexts, step), plain(contexts, step)) for step in range(10)]
    assert kept == [True] * 3 + [False] * 7


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
