"""Blocks made ahead, and rows that are not finite."""

import itertools
import re
import threading
import weakref

import pytest
import torch

from monosem.activations import capture as capture_module
from monosem.activations.cached import StoreSource
from monosem.activations.capture import CaptureSource
from monosem.activations.sequence import SequenceSource
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.core.errors import ConfigError

SITE = "blocks.0.mlp.hook_post"
LIVE = {"batch_size": 64, "buffer_tokens": 1024, "seed": 3}


def take(source, n):
    return list(itertools.islice(iter(source), n))


def test_blocks_made_ahead_are_the_same_and_made_by_another_thread(model, store, monkeypatch):
    threads = []
    capture = model.capture
    monkeypatch.setattr(
        model, "capture", lambda t, s: threads.append(threading.get_ident()) or capture(t, s)
    )
    plain = take(CaptureSource(model, store, SITE, **LIVE), 80)
    assert set(threads) == {threading.get_ident()}
    threads.clear()
    ahead = take(CaptureSource(model, store, SITE, **LIVE, ahead=True), 80)
    for one, other in zip(plain, ahead, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.rows, other.rows)
    first, *others = threads
    assert first == threading.get_ident()
    assert others
    assert threading.get_ident() not in others


def test_a_block_is_let_go_of_before_the_next_one_is_made(model, store, monkeypatch):
    source = CaptureSource(model, store, SITE, **LIVE)
    made, held, make = [], [], source._made

    def noted(epoch, block):
        held.append([each for each in made if each() is not None])
        found = make(epoch, block)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(source, "_made", noted)
    take(source, 40)
    assert len(held) > 2
    assert not any(held), "two blocks were in memory at once"


def named() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("next block")]


def test_a_source_that_is_closed_ends_its_thread_soon_and_goes_on_without_one(
    model, store, monkeypatch
):
    plain = take(CaptureSource(model, store, SITE, **LIVE), 40)
    monkeypatch.setattr(capture_module, "PASS_TOKENS", store.context)
    passes = 1024 // store.context
    begun, go_on, capture = threading.Event(), threading.Event(), model.capture
    done = []

    def slow(tokens, sites):
        if threading.current_thread().name.startswith("next block"):
            done.append(len(tokens))
            begun.set()
            assert go_on.wait(60)
        return capture(tokens, sites)

    monkeypatch.setattr(model, "capture", slow)
    source = CaptureSource(model, store, SITE, **LIVE, ahead=True)
    batches = iter(source)
    own = [next(batches)]
    assert begun.wait(60)
    threading.Thread(target=lambda: source._closing.wait(60) and go_on.set()).start()
    source.close()
    assert not named()
    assert len(done) < passes, "the block that nobody wants was made to its end"
    own += itertools.islice(batches, 39)
    for one, other in zip(plain, own, strict=True):
        assert torch.equal(one.rows, other.rows)
        torch.testing.assert_close(one.x, other.x)


def test_what_goes_wrong_ahead_is_raised_where_the_block_is_asked_for(model, store, monkeypatch):
    source = CaptureSource(model, store, SITE, **LIVE, ahead=True)
    take(source, 1)

    def broken(tokens, sites):
        raise RuntimeError("no memory")

    source._coming[1].result()
    monkeypatch.setattr(model, "capture", broken)
    take(source, 15)  # into the block that was made before; the one after it fails
    with pytest.raises(RuntimeError, match="no memory"):
        take(source, 16)


@pytest.fixture
def poisoned(model, monkeypatch):
    """A function that lets the activations of some rows of every pass be NaN or infinite."""

    def poison(places, value=float("nan")):
        capture = model.capture

        def broken(tokens, sites):
            found = capture(tokens, sites)
            for site in found:
                found[site] = found[site].clone()
                for place in places:
                    found[site][place] = value
            return found

        monkeypatch.setattr(model, "capture", broken)

    return poison


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_left_out_counted_and_reported(
    model, store, poisoned, capsys, value
):
    clean = CaptureSource(model, store, SITE, **LIVE)
    rows = torch.cat([batch.rows for batch in take(clean, 15)])
    poisoned([(3, 5)], value)
    source = CaptureSource(model, store, SITE, **LIVE)
    batches = take(source, 15)
    assert all(bool(batch.x.isfinite().all()) for batch in batches)
    assert source.n_not_finite == 1
    said = capsys.readouterr().err
    missing = set(rows.tolist()) - set(torch.cat([b.rows for b in batches]).tolist())
    where = [f"context {row // store.context}, position {row % store.context}" for row in missing]
    assert "1 of " in said
    assert SITE in said
    assert any(place in said for place in where)
    resumed = CaptureSource(model, store, SITE, **LIVE)
    take(source, 20)
    resumed.load_state_dict(source.state_dict())
    assert torch.equal(take(resumed, 1)[0].rows, take(source, 1)[0].rows)
    assert resumed.n_not_finite == source.n_not_finite > 1


def test_a_block_of_many_rows_that_are_not_finite_is_refused(model, store, poisoned):
    poisoned([(slice(None), 5)])
    with pytest.raises(ConfigError, match=r"not finite, the first at blocks.0.mlp.hook_post"):
        take(CaptureSource(model, store, SITE, **LIVE), 1)


def test_sequences_with_rows_that_are_not_finite_are_refused(model, store, poisoned):
    poisoned([(0, 5)])
    with pytest.raises(ConfigError, match="not finite"):
        take(SequenceSource(model, store, SITE, batch_size=1024), 3)


def test_a_token_that_is_not_finite_is_named_in_a_store_too(
    model, store, poisoned, capsys, tmp_path
):
    poisoned([(3, 5)])
    sites = (SITE, "blocks.0.hook_resid_post")
    kept = capture_store(CaptureConfig(sites=sites, n_tokens=900), model, store, tmp_path / "a")
    assert kept.summary["n_not_finite"] == 1
    said = re.search(r"context (\d+), position 5 \(token (\d+)\)", capsys.readouterr().err)
    assert said is not None
    context, token = map(int, said.groups())
    assert int(store.tokens([context])[0, 5]) == token
    for batch in take(StoreSource(kept, SITE, batch_size=64), 14):
        assert bool(batch.x.isfinite().all())
        assert context * store.context + 5 not in batch.rows
