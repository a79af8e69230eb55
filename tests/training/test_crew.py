"""Several dictionaries on several threads: what is promised of their weights, and of who does what."""

import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

from monosem.dictionaries.batch_topk import BatchTopKConfig
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.runtime import matmul
from monosem.training.crew import Crew, rounds
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig
from monosem.training.trainer import TrainConfig, train

CONFIG = TrainConfig(
    site="blocks.0.mlp.hook_post",
    dictionaries=(
        TopKConfig(n_latents=48, k=4),
        TopKConfig(n_latents=48, k=8, seed=1),
        BatchTopKConfig(n_latents=64, k=4),
        ReLUConfig(n_latents=48, l1=0.01, resample_at=(0.3, 0.6), resample_window=0.1),
    ),
    n_tokens=128 * 10,
    batch_size=128,
    buffer_tokens=1024,
    optim=OptimConfig(lrs=(2e-4, 4e-4, 4e-4, 1e-3)),
    dead_after_share=0.05,
    matmul="fp32",
    log_every=5,
)


@pytest.fixture
def threads():
    """Sets the number of torch's threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def weights(run):
    return {name: load_file(run.folder(name) / "weights.safetensors") for name in run.names}


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("n_works", [1, 2, 3, 8, 21])
def test_every_work_is_done_and_no_more_threads_are_used_than_there_are(
    n_works: int, n_threads: int
) -> None:
    found = rounds(n_works, n_threads)
    assert sum(n for n, _, _ in found) == n_works
    for n, side_by_side, each in found:
        assert n % side_by_side == 0, "a thread would have nothing to do in the end"
        assert side_by_side * each <= n_threads
        assert 2 * side_by_side * each > n_threads


def test_each_work_has_its_share_of_the_threads_and_the_policy_of_the_run(threads) -> None:
    threads(2)
    seen: dict[int, tuple[int, str, int]] = {}
    together = threading.Barrier(2)

    def work(which: int) -> None:
        if begun and which < 2:
            together.wait(60)  # both are at it at the same time
        seen[which] = (torch.get_num_threads(), matmul.current(), threading.get_ident())

    with Crew(3, 2) as crew, matmul.scope("bf16"):
        works = [lambda which=which: work(which) for which in range(3)]
        begun = False
        crew.run(works)
        begun = True
        crew.run(works)
    assert {which: found[:2] for which, found in seen.items()} == {
        0: (1, "bf16"),
        1: (1, "bf16"),
        2: (2, "bf16"),
    }
    assert seen[2][2] == threading.get_ident()
    assert torch.get_num_threads() == 2
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [2], "a thread that is begun later has the number of the process"


def test_the_first_error_is_raised_when_all_are_done() -> None:
    done: list[int] = []

    def work(which: int) -> None:
        done.append(which)
        if which in (1, 2):
            raise ValueError(str(which))

    with Crew(4, 2) as crew, pytest.raises(ValueError, match="1"):
        crew.run([lambda which=which: work(which) for which in range(4)])
    assert sorted(done) == [0, 1, 2, 3]


def test_dictionaries_side_by_side_learn_what_each_learns_alone(
    model, store, tmp_path, threads
) -> None:
    threads(1)
    alone = weights(train(CONFIG, model, store, tmp_path / "alone"))
    threads(2)
    together = weights(train(CONFIG, model, store, tmp_path / "together"))
    for name, tensors in alone.items():
        for key, value in tensors.items():
            torch.testing.assert_close(
                together[name][key], value, rtol=1e-4, atol=1e-5, msg=f"{name} {key}"
            )


def test_an_interrupted_run_goes_on_bit_for_bit_side_by_side(
    model, store, tmp_path, threads, monkeypatch
) -> None:
    threads(2)
    whole = weights(train(CONFIG, model, store, tmp_path / "whole"))
    learn, done = Learner.learn, []

    def counted(self, batch):
        learn(self, batch)
        done.append(self.name)
        if len(done) == 4 * 6 + 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "learn", counted)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, model, store, tmp_path / "cut")
    monkeypatch.setattr(Learner, "learn", learn)
    again = weights(train(CONFIG, model, store, tmp_path / "cut"))
    for name, tensors in whole.items():
        for key, value in tensors.items():
            assert torch.equal(again[name][key], value), (name, key)


def test_a_sweep_does_not_depend_on_which_thread_is_quicker(
    model, store, tmp_path, threads, monkeypatch
) -> None:
    threads(2)
    first = weights(train(CONFIG, model, store, tmp_path / "first"))
    learn, turn = Learner.learn, []

    def delayed(self, batch):
        turn.append(self.name)
        if len(turn) % 3 == 0:
            threading.Event().wait(0.003)
        learn(self, batch)

    monkeypatch.setattr(Learner, "learn", delayed)
    second = weights(train(CONFIG, model, store, tmp_path / "second"))
    for name, tensors in first.items():
        for key, value in tensors.items():
            assert torch.equal(second[name][key], value), (name, key)
