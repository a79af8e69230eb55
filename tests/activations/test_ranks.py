"""Ranks that share out the shards of a store leave the store of one process."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from monosem.activations import storing
from monosem.activations.capture import CaptureSource
from monosem.activations.store import ActivationStore
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.core.errors import RankLostError
from monosem.runtime import distributed
from monosem.runtime.distributed import joined

CONFIG = CaptureConfig(
    sites=("blocks.0.mlp.hook_post",), dtype="int8", n_tokens=5000, shard_tokens=1024
)


@pytest.fixture(scope="module")
def alone(model, store, tmp_path_factory) -> ActivationStore:
    return capture_store(CONFIG, model, store, tmp_path_factory.mktemp("alone") / "a")


def assert_same(one: ActivationStore, other: ActivationStore) -> None:
    assert one.rows_per_shard == other.rows_per_shard
    assert sum(one.rows_per_shard) == CONFIG.n_tokens
    names = sorted(path.relative_to(one.path) for path in one.path.rglob("*.safetensors"))
    assert names == sorted(
        path.relative_to(other.path) for path in other.path.rglob("*.safetensors")
    )
    for name in names:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert one.summary["fvu"] == other.summary["fvu"]


@pytest.mark.parametrize("n", [2, 3])
def test_ranks_leave_the_store_of_one_process(n, alone, on_ranks, model, store, tmp_path):
    def work(rank):
        with joined() as world:
            capture_store(CONFIG, model, store, tmp_path / "a", world=world)
        return "done"

    assert on_ranks(n, work) == ["done"] * n
    assert_same(alone, ActivationStore.open(tmp_path / "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_capture_whose_rank_was_killed_goes_on_in_one_process(
    alone, on_ranks, model, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
    write = storing._Work._write

    def killed(self, number, rows, channels):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, number, rows, channels)

    def work(rank):
        try:
            with joined() as world:
                capture_store(CONFIG, model, store, tmp_path / "a", world=world)
        except RankLostError as error:
            return str(error)

    with monkeypatch.context() as patch:
        patch.setattr(storing._Work, "_write", killed)
        said, nothing = on_ranks(2, work)
    assert "Rank 1 of 2 has ended" in said
    assert nothing is None
    written: list[int] = []

    def counted(self, number, rows, channels):
        written.append(number)
        return write(self, number, rows, channels)

    monkeypatch.setattr(storing._Work, "_write", counted)
    assert_same(alone, capture_store(CONFIG, model, store, tmp_path / "a"))
    assert written[0] == 2, "shards 0 and 1 were whole"
    assert load_file(tmp_path / "a" / "shards/00000.safetensors")


def test_what_one_rank_cannot_capture_is_said_by_all(on_ranks, model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
    captures = model.captures

    def fails(passes, sites):
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("no room for 3 GiB")
        return captures(passes, sites)

    def store_it(world):
        capture_store(CONFIG, model, store, tmp_path / "a", world=world)

    def serve_it(world):
        next(iter(CaptureSource(model, store, CONFIG.sites, batch_size=512, world=world)))

    def work(rank):
        model.captures = fails
        said = []
        with joined() as world:
            for do in (serve_it, store_it):
                with pytest.raises((RankLostError, torch.OutOfMemoryError)) as stopped:
                    do(world)
                said.append(str(stopped.value))
        return said

    for one, other in zip(*on_ranks(2, work), strict=True):
        assert "Rank 1 of 2 has stopped, so rank 0 stops too" in one
        assert "no room for 3 GiB" in one
        assert other == "no room for 3 GiB"
