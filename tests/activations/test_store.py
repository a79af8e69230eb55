"""The activation store: what it holds, what stops it, and what it refuses."""

import errno
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from monosem.activations import storing
from monosem.activations.cached import CHUNK, StoreSource
from monosem.activations.capture import CaptureSource
from monosem.activations.store import ActivationStore, shard_name
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.core.errors import (
    ArtifactBusyError,
    ArtifactCorruptError,
    ArtifactKindError,
    ConfigError,
    ResumeError,
    StorageFullError,
    UnknownNameError,
)
from monosem.models import small
from monosem.models.language_model import LanguageModel
from monosem.models.small import SmallModelConfig
from monosem.runtime import lock
from monosem.runtime.lock import only_writer

SITES = ("blocks.0.mlp.hook_post", "blocks.0.hook_resid_post")
SHARD = 2048
CONFIG = CaptureConfig(sites=SITES, dtype="float32", shard_tokens=SHARD)


def take(source, n):
    return list(itertools.islice(iter(source), n))


def everything(store, site):
    """All rows of the token store in an activation store, and their vectors, in the order they lie."""
    rows, vectors = [], []
    for number, n in enumerate(store.rows_per_shard):
        shard = store.shard(number)
        out = torch.empty(n, store.widths[site])
        store.read_(out, shard, site, 0, n)
        rows.append(store.places(shard, 0, n))
        vectors.append(out)
    return torch.cat(rows), torch.cat(vectors)


@pytest.fixture(scope="module")
def kept(model, store, tmp_path_factory):
    return capture_store(CONFIG, model, store, tmp_path_factory.mktemp("acts") / "a")


@pytest.fixture
def copied(kept, tmp_path):
    """A copy of the store that may be damaged."""
    shutil.copytree(kept.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_every_ordinary_token_is_there_once_with_its_id_and_what_the_model_has_there(
    kept, model, store
):
    contexts = np.asarray(store.contexts("train"))
    which, position = store.ordinary(store.tokens(contexts)).nonzero()
    rows, _ = everything(kept, SITES[0])
    assert sorted(rows.tolist()) == sorted((contexts[which] * store.context + position).tolist())
    shard = kept.shard(1)
    places, ids = kept.places(shard, 0, 50), kept.tokens(shard, 0, 50)
    for row, token in zip(places.tolist(), ids.tolist(), strict=True):
        assert store.tokens([row // store.context])[0, row % store.context] == token
    for site in SITES:
        rows, vectors = everything(kept, site)
        for i in range(0, len(rows), 997):
            context, position = divmod(int(rows[i]), store.context)
            x = model.capture(torch.from_numpy(store.tokens([context])), [site])[site]
            torch.testing.assert_close(vectors[i], x[0, position])


def test_unshuffled_it_is_what_the_live_source_serves(kept, model, store):
    live = CaptureSource(model, store, SITES, batch_size=64, buffer_tokens=SHARD)
    cached = StoreSource(kept, SITES, batch_size=64, shuffled=False)
    for one, other in zip(take(live, 150), take(cached, 150), strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_types_cost_what_the_store_says(kept, model, store, tmp_path, dtype):
    narrow = capture_store(
        CaptureConfig(sites=SITES, dtype=dtype, shard_tokens=SHARD), model, store, tmp_path / "n"
    )
    for site in SITES:
        rows, x = everything(kept, site)
        same, y = everything(narrow, site)
        assert torch.equal(rows, same)
        fvu = float((x - y).square().sum() / (x - x.mean(0)).square().sum())
        assert narrow.summary["fvu"][site] == pytest.approx(fvu, rel=0.02)
        assert 0 < fvu < 1e-3
    widths = sum(narrow.widths.values())
    each = {"bfloat16": 2 * widths, "int8": widths + 4 * len(SITES)}[dtype] + 12
    assert narrow.summary["bytes_per_value"] == pytest.approx(each / widths, rel=0.02)


@pytest.mark.parametrize("sites", [SITES[:1], SITES[::-1]])
def test_sites_are_read_by_name_in_the_order_asked_for(kept, sites):
    source = StoreSource(kept, sites, batch_size=32)
    batch = take(source, 1)[0]
    for site, columns in source.columns.items():
        rows, vectors = everything(kept, site)
        index = {row: i for i, row in enumerate(rows.tolist())}
        wanted = vectors[[index[row] for row in batch.rows.tolist()]]
        assert torch.equal(batch.x[:, columns], wanted)


def test_a_transcoder_reads_one_site_and_writes_another(kept):
    source = StoreSource(kept, SITES[1], SITES[0], batch_size=32)
    batch = take(source, 1)[0]
    assert batch.x.shape == (32, kept.widths[SITES[1]])
    assert batch.target.shape == (32, kept.widths[SITES[0]])


def test_a_batch_mixes_shards_and_contexts_as_a_permutation_does(kept, store):
    source = StoreSource(kept, SITES[0], batch_size=512, buffer_tokens=24 * CHUNK, seed=1)
    contexts = torch.cat([b.rows for b in take(source, 8)]) // store.context
    random = np.random.default_rng(0)
    n = kept.n_rows

    def repeats(ids):
        return np.mean([(ids[lag:] == ids[:-lag]).mean() for lag in range(1, 9)])

    all_rows = everything(kept, SITES[0])[0].numpy() // store.context
    null = [repeats(all_rows[random.permutation(n)[: len(contexts)]]) for _ in range(50)]
    assert abs(repeats(contexts.numpy()) - np.mean(null)) < 5 * np.std(null)


def test_a_killed_capture_leaves_whole_shards_and_goes_on(
    kept, model, store, tmp_path, monkeypatch
):
    out, calls = tmp_path / "a", []
    capture = model.capture

    def dies(tokens, sites):
        calls.append(tokens.numel())
        if len(calls) == 4:
            raise KeyboardInterrupt
        return capture(tokens, sites)

    monkeypatch.setattr(model, "capture", dies)
    with pytest.raises(KeyboardInterrupt):
        capture_store(CONFIG, model, store, out)
    folder = tmp_path / "a.capturing"
    lines = (folder / storing.DONE).read_text().splitlines()
    assert len(lines) == 3 and not out.exists()
    with (folder / storing.DONE).open("a") as file:  # killed while it wrote a line
        file.write('{"n_rows": 12')
    (folder / "shards" / ".00003.safetensors").write_bytes(b"half a shard")
    calls.clear()
    monkeypatch.setattr(model, "capture", lambda t, s: calls.append(t.numel()) or capture(t, s))
    again = capture_store(CONFIG, model, store, out)
    assert len(calls) == len(again.rows_per_shard) - 3
    assert again.hash == kept.hash
    assert not folder.exists()


def test_a_rerun_of_something_else_is_refused_and_fresh_writes_anew(kept, model, store, copied):
    other = CaptureConfig(sites=SITES[:1], dtype="int8")
    with pytest.raises(ResumeError, match=r"`capture`, `widths`.*fresh"):
        capture_store(other, model, store, copied)
    assert capture_store(CONFIG, model, store, copied).hash == kept.hash
    anew = capture_store(other, model, store, copied, fresh=True)
    assert anew.sites == [SITES[0]] and anew.dtype == "int8"


def test_a_second_writer_is_refused(model, store, tmp_path):
    with (
        only_writer(tmp_path / "a.capturing"),
        pytest.raises(ArtifactBusyError, match=f"number {os.getpid()}"),
    ):
        capture_store(CONFIG, model, store, tmp_path / "a")
    assert capture_store(CONFIG, model, store, tmp_path / "a").n_rows > 0


def test_a_disk_too_small_is_refused_before_the_model_runs(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "capture", None)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageFullError, match="GiB are to be written"):
        capture_store(CONFIG, model, store, tmp_path / "a")


def test_a_disk_that_fills_up_loses_no_whole_shard(kept, model, store, tmp_path, monkeypatch):
    save, n = safetensors.torch.save_file, [0]

    def full(tensors, path):
        n[0] += 1
        if n[0] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(storing.safetensors.torch, "save_file", full)
    with pytest.raises(StorageFullError, match="run the same command again"):
        capture_store(CONFIG, model, store, tmp_path / "a")
    monkeypatch.undo()
    assert len((tmp_path / "a.capturing" / storing.DONE).read_text().splitlines()) == 2
    assert capture_store(CONFIG, model, store, tmp_path / "a").hash == kept.hash


def test_a_truncated_shard_is_refused_when_the_store_is_opened(copied):
    with (copied / shard_name(1)).open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(ArtifactCorruptError, match=r"00001.*truncated"):
        ActivationStore.open(copied)


def test_a_flipped_bit_is_found_before_its_shard_is_trained_on(copied):
    with (copied / shard_name(1)).open("rb+") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 8]))
    source = StoreSource(ActivationStore.open(copied), SITES[0], batch_size=64, ahead=False)
    with pytest.raises(ArtifactCorruptError, match=r"00001.*SHA-256"):
        take(source, 1)


def test_a_manifest_of_a_newer_version_is_refused(copied):
    manifest = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ArtifactKindError, match="format 99"):
        ActivationStore.open(copied)


def test_a_site_that_was_not_captured_is_refused_with_the_nearest(kept):
    with pytest.raises(UnknownNameError, match=r"Did you mean `blocks.0.hook_resid_post`"):
        StoreSource(kept, "blocks.0.hook_resid_pots")


def test_fewer_rows_than_a_batch_are_refused(model, store, tmp_path):
    few = CaptureConfig(sites=SITES[:1], n_tokens=100)
    small = capture_store(few, model, store, tmp_path / "a")
    assert small.n_rows == 100
    with pytest.raises(ConfigError, match="the 100 rows"):
        StoreSource(small, SITES[0], batch_size=128)
    batch = take(StoreSource(small, SITES[0], batch_size=64), 3)[-1]
    assert len(batch) == 64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sites": ()}, "`sites` is empty"),
        ({"shard_tokens": -5}, "`shard_tokens` must be 0 or more"),
        ({"n_tokens": -1}, "`n_tokens` must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        CaptureConfig(**wrong)


def test_a_writer_that_comes_as_another_finishes_finds_the_store(
    kept, model, store, tmp_path, monkeypatch
):
    seen = storing._Work.found
    answers = iter([lambda work: None, seen])  # the second time it looks, it is there
    monkeypatch.setattr(storing._Work, "found", lambda work: next(answers)(work))
    shutil.copytree(kept.path, tmp_path / "a")
    monkeypatch.setattr(model, "capture", None)
    assert capture_store(CONFIG, model, store, tmp_path / "a").hash == kept.hash
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_that_went_with_its_folder_is_no_lock(tmp_path, monkeypatch):
    flock, moved = lock.fcntl.flock, []

    def late(place, how):
        if not moved:  # its writer finishes between opening and locking
            moved.append((tmp_path / "a.capturing").rename(tmp_path / "a"))
            (tmp_path / "a" / lock.LOCK).unlink()
        flock(place, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with only_writer(tmp_path / "a.capturing"):
        assert (tmp_path / "a.capturing" / lock.LOCK).read_text().strip() == str(os.getpid())


def test_the_first_shard_is_captured_once(model, store, tmp_path, monkeypatch):
    calls, capture = [], model.capture
    monkeypatch.setattr(model, "capture", lambda t, s: calls.append(t.numel()) or capture(t, s))
    few = CaptureConfig(sites=SITES[:1], n_tokens=100)
    capture_store(few, model, store, tmp_path / "a")
    assert sum(calls) < 100 + 2 * store.context


def test_a_model_without_neurons_is_captured_too(store, tmp_path):
    shape = SmallModelConfig(context=store.context, d_model=16, n_heads=2, d_mlp=0)
    made = small.build(shape, vocab_size=store.vocab_size, bos=0, eos=0, seed=0)
    bare = LanguageModel(made, store.tokenizer, name="attention")
    wanted = CaptureConfig(sites=(SITES[1],), n_tokens=100)
    assert capture_store(wanted, bare, store, tmp_path / "a").n_rows == 100
