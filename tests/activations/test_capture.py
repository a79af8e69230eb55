import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monosem.activations.capture import CaptureSource, check_fit
from monosem.core.errors import (
    ConfigError,
    ShapeMismatchError,
    TokenizerMismatchError,
    UnknownNameError,
)

SITE = "blocks.0.mlp.hook_post"


def take(source, n):
    return list(itertools.islice(iter(source), n))


def plain(model, store, site, rows):
    """The activations of `rows`, one pass a context."""
    found = []
    for row in rows.tolist():
        context, position = divmod(row, store.context)
        x = model.capture(torch.from_numpy(store.tokens([context])), [site])[site]
        found.append(x[0, position].flatten())
    return torch.stack(found)


@pytest.mark.parametrize("write", [None, "blocks.0.hook_mlp_out", "blocks.0.attn.hook_z"])
def test_each_row_is_what_the_model_captures_there(model, store, write):
    source = CaptureSource(model, store, SITE, write, batch_size=64, buffer_tokens=1024)
    for batch in take(source, 20)[::10]:
        some = slice(0, 64, 5)
        rows, x, target = batch.rows[some], batch.x[some], batch.target[some]
        torch.testing.assert_close(x, plain(model, store, SITE, rows))
        torch.testing.assert_close(target, plain(model, store, write or SITE, rows))
        assert (batch.target is batch.x) == (write is None)


def test_only_ordinary_tokens_of_the_split_are_served(model, store):
    train = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024)
    heldout = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=512, split="heldout")
    for source, split in ((train, "train"), (heldout, "heldout")):
        rows = source.sample(10**6).rows.numpy()
        contexts = np.asarray(store.contexts(split))
        ordinary = store.ordinary(store.tokens(contexts))
        which, position = ordinary.nonzero()
        assert set(rows) == set((contexts[which] * store.context + position).tolist())


def autocorrelation(ids: np.ndarray) -> float:
    """Mean over lags 1 to 8 of the correlation of `ids` with itself, as same or not the same."""
    return float(np.mean([(ids[lag:] == ids[:-lag]).mean() for lag in range(1, 9)]))


def test_a_batch_mixes_documents_as_a_permutation_does(model, store):
    source = CaptureSource(model, store, SITE, batch_size=512, buffer_tokens=2**12, seed=1)
    random = np.random.default_rng(0)
    names: dict[str, int] = {}
    for batch in take(source, 3):
        ids = np.array(
            [names.setdefault(store.document(int(r)).name, len(names)) for r in batch.rows]
        )
        shuffled = [autocorrelation(random.permutation(ids)) for _ in range(50)]
        assert len(set(ids.tolist())) > 30
        assert abs(autocorrelation(ids) - np.mean(shuffled)) < 5 * np.std(shuffled)
        in_order = autocorrelation(np.sort(ids))
        assert in_order > np.mean(shuffled) + 20 * np.std(shuffled)


def test_resuming_captures_one_block(model, store, monkeypatch):
    source = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024)
    take(source, 33)
    resumed = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024)
    resumed.load_state_dict(source.state_dict())
    seen = []
    capture = model.capture
    monkeypatch.setattr(model, "capture", lambda t, s: seen.append(t.numel()) or capture(t, s))
    take(resumed, 1)
    assert sum(seen) <= 2 * 1024


@pytest.fixture
def passes(model, monkeypatch) -> list[int]:
    """How many tokens each pass of the model was given, from here on."""
    seen: list[int] = []
    capture = model.capture
    monkeypatch.setattr(model, "capture", lambda t, s: seen.append(t.numel()) or capture(t, s))
    return seen


def test_a_sample_comes_from_the_block_that_is_captured_anyway(model, store, passes):
    source = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024)
    sample = source.sample(500)
    take(source, 15)
    assert sum(passes) == 1024
    take(source, 2)
    source.sample(500)
    assert sum(passes) == 2048
    torch.testing.assert_close(sample.x[::50], plain(model, store, SITE, sample.rows[::50]))


def test_a_sample_larger_than_the_block_captures_what_it_needs_beside_it(model, store, passes):
    source = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024)
    sample = source.sample(1500)
    assert len(sample.rows.unique()) == 1500
    assert 1500 < sum(passes) < 1700
    torch.testing.assert_close(sample.x[::90], plain(model, store, SITE, sample.rows[::90]))
    first = set(torch.cat([batch.rows for batch in take(source, 15)]).tolist())
    assert first < set(sample.rows.tolist())


def test_a_block_is_no_larger_than_what_will_be_served(model, store, passes):
    known = {"batch_size": 64, "buffer_tokens": 4096, "n_rows": 640}
    source = CaptureSource(model, store, SITE, **known)
    rows = torch.cat([batch.rows for batch in take(source, 10)])
    assert len(rows.unique()) == 640
    assert 640 < sum(passes) <= 640 + 3 * store.context
    resumed = CaptureSource(model, store, SITE, **known)
    resumed.load_state_dict(source.state_dict())
    assert torch.equal(take(resumed, 1)[0].rows, take(source, 1)[0].rows)
    short = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024, n_rows=10**9)
    assert (
        short.n_blocks
        == CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024).n_blocks
    )


def test_a_corpus_shorter_than_a_buffer_is_one_block(model, store):
    source = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=2**18)
    n_rows = len(source.sample(10**6))
    assert n_rows < 2**18 and source.n_blocks == 1
    rows = torch.cat([batch.rows for batch in take(source, -(-2 * n_rows // 64))])
    assert len(rows[:n_rows].unique()) == len(rows[n_rows : 2 * n_rows].unique()) == n_rows
    assert not torch.equal(rows[:n_rows], rows[n_rows : 2 * n_rows])


def test_a_batch_larger_than_the_corpus_is_refused(model, store):
    with pytest.raises(ConfigError, match=r"cannot mix a batch of 100,000.*or more text"):
        CaptureSource(model, store, SITE, batch_size=100_000, buffer_tokens=2**18)


def test_an_unknown_site_is_refused_with_the_nearest(model, store):
    with pytest.raises(UnknownNameError, match=r"Did you mean.*blocks\.0\.mlp\.hook_post"):
        CaptureSource(model, store, "blocks.0.mlp.hook_pots")


def test_a_site_without_a_width_is_refused(model, store):
    with pytest.raises(ConfigError, match="has no width"):
        CaptureSource(model, store, "blocks.0.attn.hook_pattern")


def test_a_buffer_too_small_for_a_batch_is_refused(model, store):
    with pytest.raises(ConfigError, match="Use a larger `buffer_tokens`"):
        CaptureSource(model, store, SITE, batch_size=2048, buffer_tokens=1024)


def altered(store, **changes):
    names = ("path", "context", "vocab_size", "tokenizer_hash")
    return SimpleNamespace(**{n: getattr(store, n) for n in names} | changes)


def test_tokens_of_another_vocabulary_are_refused(model, store):
    check = check_fit.__wrapped__ if hasattr(check_fit, "__wrapped__") else check_fit
    check(model, altered(store))
    with pytest.raises(TokenizerMismatchError, match="another tokenizer"):
        check(model, altered(store, tokenizer_hash="0" * 16))
    with pytest.raises(TokenizerMismatchError, match="another tokenizer"):
        check(model, altered(store, vocab_size=store.vocab_size + 1))
    with pytest.raises(ShapeMismatchError, match="--context 32"):
        check(model, altered(store, context=64))


def test_what_is_captured_does_not_depend_on_the_number_of_threads(model, store, monkeypatch):
    monkeypatch.setattr(CaptureSource, "_per_pass", 2)
    one = take(CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024), 20)
    torch.set_num_threads(2)
    try:
        two = take(CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=1024), 20)
    finally:
        torch.set_num_threads(1)
    for mine, theirs in zip(one, two, strict=True):
        assert torch.equal(mine.rows, theirs.rows)
        assert torch.equal(mine.x, theirs.x)
