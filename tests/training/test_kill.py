"""SIGKILL of sweeps and suites at random moments: who goes on ends with the same weights, bit for bit."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monosem.core import artifact
from monosem.dictionaries.batch_topk import BatchTopKConfig
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.training.optim import OptimConfig
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train, train_suite

SITES = ("blocks.0.hook_attn_out", "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post")
CONFIG = TrainConfig(
    site=SITES[1],
    dictionaries=(
        TopKConfig(n_latents=48, k=4),
        TopKConfig(n_latents=48, k=8, seed=1),
        TopKConfig(n_latents=96, k=4),
        BatchTopKConfig(n_latents=48, k=4),
        ReLUConfig(n_latents=32, resample_at=(0.4, 0.8), resample_window=0.05),
    ),
    n_tokens=128 * 60,
    batch_size=128,
    buffer_tokens=1024,
    optim=OptimConfig(lrs=(2e-4, 4e-4, 4e-4, 2e-4, 1e-3)),
    dead_after_share=0.02,
    matmul="fp32",
    log_every=4,
)


@pytest.fixture(params=[1, 2])
def threads(request):
    """As many threads as the test and its processes have: with several, steps are side by side."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def assert_same_run(one: Path, other: Path) -> None:
    runs = TrainingRun.open(one), TrainingRun.open(other)
    for name in CONFIG.names:
        mine, theirs = (load_file(run.folder(name) / "weights.safetensors") for run in runs)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), (one, name, key)
    logs = [[{k: v for k, v in line.items() if k != "seconds"} for line in r.log] for r in runs]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_same_weights(
    killed, model, store, tmp_path, threads: int
):
    killed(CONFIG, tmp_path / "killed", threads=threads, seed=threads)
    whole = train(CONFIG, model, store, tmp_path / "whole")
    assert_same_run(whole.path, tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}


@pytest.mark.slow
def test_a_suite_killed_at_random_moments_ends_with_the_same_weights(
    killed, model, store, tmp_path, threads: int
):
    out = tmp_path / "killed"
    config = dataclasses.replace(CONFIG, site=SITES[0])
    killed(config, out, sites=SITES, threads=threads, seed=threads)
    whole = train_suite(config, SITES, model, store, tmp_path / "whole")
    for site in whole:
        assert_same_run(whole.folder(site), out / site)
    found = [artifact.read(path, "suite").config["sites"] for path in (whole.path, out)]
    assert found[0] == found[1] == list(SITES)
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}
