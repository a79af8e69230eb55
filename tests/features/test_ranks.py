"""Ranks that share out the text leave the feature database of one process."""

import dataclasses
import os
import signal

import pytest

from monosem.core.errors import ConfigError, RankLostError
from monosem.features import streaming
from monosem.features.build import build_features
from monosem.features.database import FeatureDatabase
from monosem.runtime import distributed
from monosem.runtime.distributed import joined


@pytest.mark.parametrize("n", [2, 3])
def test_ranks_leave_the_database_of_one_process(
    n, database, on_ranks, dictionary, model, store, config, tmp_path
):
    captured: list[int] = []
    capture = model.capture

    def counted(tokens, sites):
        captured.append(len(tokens))
        return capture(tokens, sites)

    def work(rank):
        model.capture = counted
        with joined() as world:
            build_features(dictionary, model, store, tmp_path / "f", config, world=world)
        return sum(captured)

    contexts = on_ranks(n, work)
    made = FeatureDatabase.open(tmp_path / "f", tokens=store.path)
    assert sum(contexts) == made.metrics["n_contexts"], "no context is captured twice"
    assert max(contexts) - min(contexts) <= 2 * config.batch_tokens // store.context
    assert [path.name for path in tmp_path.iterdir()] == ["f"], "scratch files were left behind"
    assert made.hash == database.hash, "another configuration, or another byte in some file"
    told = {k: v for k, v in made.metrics.items() if k not in ("seconds", "tokens_at")}
    assert told == {k: database.metrics[k] for k in told}


def test_more_ranks_than_blocks_leave_the_same(
    on_ranks, dictionary, model, store, config, tmp_path
):
    few = dataclasses.replace(config, n_tokens=200, batch_tokens=4096)
    one = build_features(dictionary, model, store, tmp_path / "one", few)

    def work(rank):
        with joined() as world:
            made = build_features(dictionary, model, store, tmp_path / "two", few, world=world)
            again = build_features(dictionary, model, store, tmp_path / "two", few, world=world)
            with pytest.raises((ConfigError, RankLostError), match="another features"):
                build_features(dictionary, model, store, tmp_path / "two", config, world=world)
        return made.hash == again.hash == one.hash

    assert on_ranks(2, work) == [True, True]


def test_a_rank_that_is_killed_is_named_and_nothing_is_left(
    on_ranks, dictionary, model, store, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
    take = streaming.Pass.take

    def killed(self, block, start):
        if os.environ["RANK"] == "1" and start >= 1280:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, block, start)

    def work(rank):
        streaming.Pass.take = killed
        try:
            with joined() as world:
                build_features(dictionary, model, store, tmp_path / "f", config, world=world)
        except RankLostError as error:
            return str(error)

    said, nothing = on_ranks(2, work)
    assert "Rank 1 of 2 has ended" in said
    assert nothing is None
    assert list(tmp_path.iterdir()) == []
