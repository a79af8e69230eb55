import numpy as np
import pytest
import torch

from monosem.activations.capture import CaptureSource
from monosem.activations.scale import ScaledSource
from monosem.activations.sequence import SequenceSource
from monosem.core.errors import ResumeError

SITE = "blocks.0.mlp.hook_post"


@pytest.fixture
def source(model, store):
    return SequenceSource(model, store, SITE, batch_size=150, logits=True, seed=3)


def test_rows_are_the_ordinary_positions_of_whole_contexts_in_order(source, model, store):
    batch = next(iter(source))
    assert batch.tokens.shape == (150 // store.context, store.context)
    contexts = (batch.rows // store.context).unique_consecutive()
    assert len(contexts) == len(batch.tokens)
    assert np.array_equal(store.tokens(contexts.numpy()), batch.tokens.numpy())
    mask = torch.from_numpy(store.ordinary(batch.tokens.numpy()))
    assert not mask.all()
    assert torch.equal(batch.places, mask.flatten().nonzero()[:, 0])
    assert torch.equal(batch.rows % store.context, batch.places % store.context)
    seen = model.capture(batch.tokens, [SITE])[SITE]
    assert torch.equal(batch.x, seen[mask])
    assert batch.target is batch.x
    with torch.no_grad():
        assert torch.equal(batch.logits, model.logits(batch.tokens))


def test_an_epoch_serves_every_context_once_in_a_new_order(model, store):
    source = SequenceSource(model, store, SITE, batch_size=4096, seed=3)
    stream, n = iter(source), len(store.contexts("train"))
    seen = []
    while len(seen) < 2 * n:
        seen += (next(stream).rows // store.context).unique_consecutive().tolist()
    first, second = seen[:n], seen[n : 2 * n]
    assert sorted(first) == sorted(second) == list(store.contexts("train"))
    assert first != second
    assert source.epoch >= 2


def test_a_source_goes_on_where_its_state_was_taken(source, model, store):
    stream = iter(source)
    for _ in range(3):
        next(stream)
    state, sample = source.state_dict(), source.sample(50)
    after = next(stream)
    other = SequenceSource(model, store, SITE, batch_size=150, logits=True, seed=3)
    other.load_state_dict(state)
    assert torch.equal(other.sample(50).x, sample.x)
    again = next(iter(other))
    assert torch.equal(again.rows, after.rows)
    assert torch.equal(again.x, after.x)
    assert torch.equal(again.logits, after.logits)


def test_the_place_of_another_source_is_refused(source, model, store):
    shuffled = CaptureSource(model, store, SITE, batch_size=128, buffer_tokens=1024, seed=3)
    with pytest.raises(ResumeError):
        source.load_state_dict(shuffled.state_dict())
    with pytest.raises(ResumeError):
        SequenceSource(model, store, SITE, batch_size=320, seed=3).load_state_dict(
            source.state_dict()
        )


def test_a_sample_moves_nothing_and_has_as_many_rows_as_asked_for(source):
    before = source.state_dict()
    sample = source.sample(777)
    assert len(sample) == len(sample.rows.unique()) == 777
    assert source.state_dict() == before


def test_a_scaled_batch_still_carries_its_tokens(source):
    raw = next(iter(source))
    scaled = ScaledSource(source, 2.0).scaled(raw)
    assert torch.equal(scaled.x, raw.x / 2)
    assert scaled.tokens is raw.tokens
    assert scaled.places is raw.places
