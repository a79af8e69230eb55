"""Several ranks leave what one process leaves, whatever they share out."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monosem.core import artifact
from monosem.core.errors import ConfigError, RankLostError
from monosem.dictionaries.batch_topk import BatchTopKConfig
from monosem.dictionaries.gated import GatedConfig
from monosem.dictionaries.jumprelu import JumpReLUConfig
from monosem.dictionaries.matryoshka import MatryoshkaConfig
from monosem.dictionaries.p_anneal import PAnnealConfig
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.runtime import distributed
from monosem.runtime.distributed import World, joined
from monosem.training.objectives import ObjectiveConfig
from monosem.training.run import TrainingRun
from monosem.training.sharing import sharing_of
from monosem.training.trainer import TrainConfig, train, train_suite

SITE = "blocks.0.mlp.hook_post"
TOPK = TopKConfig(n_latents=48, k=4, aux_weight=0.5)
BATCH_TOPK = BatchTopKConfig(n_latents=48, k=4, aux_weight=0.5)
CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TOPK, BATCH_TOPK),
    n_tokens=128 * 30,
    batch_size=128,
    buffer_tokens=1024,
    dead_after_share=0.05,  # so that some die, and are taught
    matmul="fp32",
    log_every=5,
)
KINDS = (
    TopKConfig(n_latents=48, k=3, multi_weight=0.125, aux_fit=False, aux_weight=0.5),
    MatryoshkaConfig(n_latents=48, k=4),
    ReLUConfig(n_latents=48, l0=6.0, resample_at=(0.3, 0.6), resample_window=0.1),
    PAnnealConfig(n_latents=48, l0=6.0),
    JumpReLUConfig(n_latents=48, l0=6.0),
    GatedConfig(n_latents=48, l0=6.0),
)


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "weights.safetensors")


def assert_near(one: Path, other: Path, names, *, tolerance: float = 2e-4) -> None:
    """Assert that two runs left the same dictionaries and logs, up to rounding that steps have grown."""
    for name in names:
        mine, theirs = weights(one, name), weights(other, name)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            torch.testing.assert_close(
                value,
                theirs[key],
                atol=tolerance,
                rtol=tolerance,
                msg=lambda m, k=key, n=name: f"{n} {k} {m}",
            )
    first, second = (TrainingRun.open(path).log for path in (one, other))
    assert len(first) == len(second) > 3
    for mine, theirs in zip(first, second, strict=True):
        assert (mine["step"], mine["epoch"]) == (theirs["step"], theirs["epoch"])
        for name in names:
            assert mine[name]["n_dead"] == theirs[name]["n_dead"]
            for key, value in mine[name].items():
                assert value == pytest.approx(theirs[name][key], rel=1e-3, abs=1e-5), (name, key)


@pytest.fixture
def trained(on_ranks, model, store):
    """`trained(config, out, parallel)`: what two ranks leave there."""

    def train_on(config, out, parallel, n=2, **options):
        def work(rank):
            with joined() as world:
                train(config, model, store, out, world=world, parallel=parallel, **options)
            return "done"

        assert on_ranks(n, work) == ["done"] * n
        return out

    return train_on


@pytest.fixture(scope="module")
def alone(model, store, tmp_path_factory) -> Path:
    return train(CONFIG, model, store, tmp_path_factory.mktemp("alone") / "run").path


def test_two_ranks_that_share_out_rows_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "data")
    assert_near(alone, out, CONFIG.names)
    assert any(line["topk"]["n_dead"] for line in TrainingRun.open(out).log), "nobody died"
    made = artifact.read(out, "training run").config["machine"]
    assert (made["ranks"], made["parallel"]) == (2, "data")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_kind_can_share_out_rows(trained, model, store, tmp_path):
    config = dataclasses.replace(CONFIG, dictionaries=KINDS, n_tokens=128 * 8, log_every=2)
    one = train(config, model, store, tmp_path / "one").path
    out = trained(config, tmp_path / "two", "data")
    assert_near(one, out, config.names)


def test_two_ranks_that_share_out_latents_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "latents")
    assert_near(alone, out, CONFIG.names)
    made = artifact.read(out, "training run").config["machine"]
    assert (made["ranks"], made["parallel"]) == (2, "latents")


def test_two_ranks_that_share_out_a_sweep_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "sweep")
    for name in CONFIG.names:
        mine, theirs = weights(alone, name), weights(out, name)
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    whole, parts = (TrainingRun.open(path) for path in (alone, out))
    without = [
        [{k: v for k, v in x.items() if k != "seconds"} for x in r.log] for r in (whole, parts)
    ]
    assert without[0] == without[1]
