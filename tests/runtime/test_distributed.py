"""Ranks: what they tell each other, on two processes over gloo."""

import datetime
import os
import signal
import time

import pytest
import torch

from monosem.core.errors import ConfigError, RankLostError
from monosem.runtime import distributed
from monosem.runtime.distributed import ALONE, World, device_of, joined


def test_a_world_of_one_gives_back_what_it_was_given():
    x = torch.randn(3)
    same = [ALONE.sum_(x), ALONE.smallest_(x), ALONE.total(x), ALONE.mean(x), ALONE.copy_(x)]
    assert all(each is x for each in (*same, *ALONE.gathered(x)))
    assert ALONE.heard({"a": 1}) == [{"a": 1}]
    assert ALONE.any_of(True, False) == [True, False]
    assert ALONE.by_first(lambda: 3) == 3
    assert ALONE.all_do(lambda: 3) == [3]
    assert ALONE.beside() is ALONE
    with joined() as world:
        assert world is ALONE


def test_shares_are_whole_and_differ_by_one_at_most():
    for n, size in ((10, 4), (3, 4), (8, 2), (0, 3)):
        shares = [World(rank, size).share(n) for rank in range(size)]
        assert [i for share in shares for i in range(n)[share]] == list(range(n))
        lengths = [share.stop - share.start for share in shares]
        assert max(lengths) - min(lengths) <= 1
    assert [i for i in range(5) if World(1, 2).has(i)] == [1, 3]


def test_ranks_tell_each_other_tensors_and_values(on_ranks):
    def work(rank):
        with joined() as world:
            mine = torch.tensor([1.0, 5.0]) if rank == 0 else torch.tensor([2.0, 3.0])
            assert world.sum_(mine.clone()).tolist() == [3, 8]
            assert world.smallest_(mine.clone()).tolist() == [1, 3]
            assert [each.tolist() for each in world.gathered(mine)] == [[1, 5], [2, 3]]
            assert world.copy_(mine.clone(), source=1).tolist() == [2, 3]
            assert world.any_of(rank == 1, False) == [True, False]
            assert world.heard({"rank": rank, "text": "ä" * rank}) == [
                {"rank": 0, "text": ""},
                {"rank": 1, "text": "ä"},
            ]
            several = [mine.clone(), torch.ones(3)]
            world.sum_all_(several)
            assert [each.tolist() for each in several] == [[3, 8], [2, 2, 2]]
            done = []
            assert world.by_first(lambda: done.append(rank) or {"by": rank}) == {"by": 0}
            assert done == [0] * (rank == 0)
            assert world.beside().sum_(mine.clone()).tolist() == [3, 8]
        return "done"

    assert on_ranks(2, work) == ["done", "done"]


def test_gradients_of_totals_and_means_are_those_of_one_process(on_ranks):
    def work(rank):
        with joined() as world:
            own = 3.0 + rank
            x = torch.tensor(own, requires_grad=True)
            (gradient,) = torch.autograd.grad(world.total(x * x).square(), x)
            assert float(gradient) == 2 * (9 + 16) * 2 * own
            (gradient,) = torch.autograd.grad(world.mean(x * x).square(), x)
            # a rank's own part of the mean; averaged over ranks it is the mean's gradient
            assert float(gradient) == 2 * 12.5 * 2 * own
        return True

    assert all(on_ranks(2, work))


@pytest.mark.parametrize("error", [ConfigError("no"), RuntimeError("out of memory")])
def test_an_error_of_one_rank_stops_all_and_its_words_are_said(error, on_ranks, monkeypatch):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)

    def work(rank):
        def refuses():
            if rank == 1:
                raise error
            return rank

        with pytest.raises((RankLostError, type(error))) as stopped, joined() as world:
            world.all_do(refuses)
        assert isinstance(stopped.value, RankLostError) is (rank != 1)
        return str(stopped.value)

    first, second, third = on_ranks(3, work)
    assert second == str(error)
    assert first.startswith("Rank 1 of 3 has stopped, so rank 0 stops too: ")
    assert str(error) in first and str(error) in third


def test_what_one_rank_does_by_itself_may_outlast_the_patience_of_the_others(on_ranks, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", datetime.timedelta(seconds=3))
    monkeypatch.setattr(distributed, "SIGN_SECONDS", 0.15)

    def work(rank):
        with joined() as world:
            assert world.by_first(lambda: time.sleep(4.5) or "written") == "written"
        return True

    assert all(on_ranks(2, work))


def test_a_rank_that_is_killed_while_others_wait_for_its_work_is_named(on_ranks, monkeypatch):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)

    def work(rank):
        def ends():
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(RankLostError) as lost, joined() as world:
            world.by_first(ends)
        return str(lost.value)

    nothing, said = on_ranks(2, work)
    assert nothing is None
    assert "Rank 0 of 2 has ended" in said


def test_an_error_that_all_ranks_have_is_said_once(on_ranks, monkeypatch):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 60.0)  # which a busy first rank may need

    def work(rank):
        try:
            with joined():
                raise ConfigError("the same of all")
        except ConfigError:
            return "said"
        except SystemExit:
            return "silent"

    assert on_ranks(2, work) == ["said", "silent"]


def test_a_rank_whose_neighbour_was_killed_says_which_one_it_was_and_what_to_do(
    on_ranks, monkeypatch
):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)

    def work(rank):
        with pytest.raises(RankLostError) as lost, joined() as world:
            world.wait()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            started = time.monotonic()
            world.sum_(torch.ones(4))
        assert time.monotonic() - started < 0.2 * distributed.PATIENCE.total_seconds()
        return str(lost.value)

    said, nothing = on_ranks(2, work)
    assert nothing is None
    assert said.startswith(
        "Rank 1 of 2 has ended or no longer answers, so rank 0 stops too. Run the"
    )


def test_each_rank_has_a_device_of_its_own(monkeypatch):
    assert device_of(ALONE, "cpu") == "cpu"
    assert device_of(World(1, 2), "cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="2 ranks cannot have `mps` each"):
        device_of(World(1, 2), "mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="1 CUDA devices"):
        device_of(World(1, 2), "cuda")
