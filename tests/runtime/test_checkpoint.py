import errno
import os

import pytest
import torch

from monosem.core.errors import ArtifactCorruptError, RankLostError, StorageFullError
from monosem.runtime import checkpoint
from monosem.runtime.checkpoint import Slice, load_checkpoint, open_checkpoint, save_checkpoint
from monosem.runtime.distributed import joined


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "w": torch.full((3, 4), value),
        "n": torch.arange(3),
        "dead": torch.tensor([True, False]),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(value),
    }


def test_where_nothing_was_saved_there_is_nothing_to_load(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    save_checkpoint(tmp_path, tensors(1.5), {"step": 7, "names": ["a", "b"]})
    loaded, state = load_checkpoint(tmp_path)
    assert state == {"step": 7, "names": ["a", "b"]}
    assert {k: v.dtype for k, v in loaded.items()} == {k: v.dtype for k, v in tensors(1.5).items()}
    assert all(torch.equal(loaded[k], v) for k, v in tensors(1.5).items())


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in range(1, 13):
        save_checkpoint(tmp_path, tensors(step), {"step": step})
    assert load_checkpoint(tmp_path)[1] == {"step": 12}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-000011", "state-000012"]


@pytest.mark.parametrize("damage", ["cut", "altered", "no manifest", "half a manifest", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})
    newest = save_checkpoint(tmp_path, tensors(2), {"step": 2})
    file, manifest = newest / "rank-00000.safetensors", newest / "manifest.json"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[:-5])
        case "altered":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:20])
        case _:
            file.unlink()
    assert load_checkpoint(tmp_path)[1] == {"step": 1}
    (tmp_path / "state-000001" / "manifest.json").unlink()
    with pytest.raises(ArtifactCorruptError, match="--fresh"):
        load_checkpoint(tmp_path)


def test_a_half_written_checkpoint_is_ignored_and_swept_away(tmp_path):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})
    (tmp_path / ".state-000002").mkdir()
    (tmp_path / ".state-000002" / "rank-00000.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path)[1] == {"step": 1}
    save_checkpoint(tmp_path, tensors(2), {"step": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-000001", "state-000002"]


def test_a_full_disk_is_said_and_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(StorageFullError, match="disk is full"):
        save_checkpoint(tmp_path, tensors(2), {"step": 2})
    assert load_checkpoint(tmp_path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state-000001"]


def test_ranks_write_their_parts_and_any_number_of_ranks_reads_the_whole(tmp_path, on_ranks):
    whole = torch.arange(15.0).reshape(3, 5)

    def work(rank):
        with joined() as world:
            mine = world.share(5)
            own = {"w": whole[:, mine], f"of {rank}": torch.tensor(rank)}
            slices = {"w": Slice(1, mine.start)}
            save_checkpoint(tmp_path, own, {"rank": rank}, slices=slices, world=world)
            again, state = open_checkpoint(tmp_path, world)
            assert torch.equal(again["w"], whole)
            return state

    assert on_ranks(2, work) == [{"rank": 0}, {"rank": 0}]
    found, state = load_checkpoint(tmp_path)
    assert torch.equal(found["w"], whole)
    assert set(found) == {"w", "of 0", "of 1"}
    assert found["of 1"] == 1
    (tmp_path / "state-000001" / "rank-00001.safetensors").unlink()
    with pytest.raises(ArtifactCorruptError, match="whole"):
        load_checkpoint(tmp_path)


def test_a_full_disk_of_one_rank_stops_all_and_leaves_nothing_half_written(
    tmp_path, monkeypatch, on_ranks
):
    flush = checkpoint._flush

    def full(path):
        if path.name == "rank-00001.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(checkpoint, "_flush", full)

    def work(rank):
        with joined() as world:
            with pytest.raises(StorageFullError if rank else RankLostError):
                save_checkpoint(tmp_path, tensors(1), {}, world=world)
            world.wait()
        return True

    assert all(on_ranks(2, work))
    assert list(tmp_path.iterdir()) == []
