"""Clipping inside Adam's own pass is clipping before it, however the weights lie in memory."""

import pytest
import torch
from torch import nn

from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.dictionaries.wiring import Wiring
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig, adam, step_clipped


def weights() -> list[nn.Parameter]:
    """A matrix with contiguous rows, one with contiguous columns, and a vector without a gradient."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randn(6, 4, generator=generator) for _ in range(2))
    return [nn.Parameter(rows), nn.Parameter(columns.t()), nn.Parameter(torch.zeros(3))]


@pytest.mark.parametrize("length", [0.1, 10.0])
def test_steps_equal_clipping_and_then_adam(length: float) -> None:
    config = OptimConfig(lr=0.1, clip=1.0)
    mine, plain = weights(), weights()
    ours, theirs = adam(mine, config), adam(plain, config)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for a, b in zip(mine[:2], plain[:2], strict=True):
            gradient = length * torch.randn(4, 6, generator=generator)
            gradient = gradient if a.shape == (4, 6) else gradient.t()
            a.grad = gradient.clone(memory_format=torch.preserve_format)
            b.grad = gradient.clone()
        step_clipped(ours, config.clip)
        nn.utils.clip_grad_norm_(plain, config.clip)
        theirs.step()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        ours.state[mine[1]]["exp_avg_sq"], theirs.state[plain[1]]["exp_avg_sq"]
    )
    assert not mine[2].any()


def test_a_step_turns_a_unit_row_by_the_same_angle_at_any_width_up_to_512() -> None:
    config = OptimConfig()
    turns = [config.peak(1024, d) * d**0.5 for d in (8, 64, 512)]
    assert turns == pytest.approx([turns[0]] * 3)
    assert config.peak(1024, 4096) == config.peak(1024, 512) == 2 * config.peak(4096, 512)


def test_latents_of_a_cross_layer_transcoder_learn_as_fast_as_those_of_one_site() -> None:
    sites = (32, 32, 32)
    clt = TopKConfig(
        d_in=96,
        d_out=96,
        n_latents=96,
        wiring=Wiring(kind="clt", widths_in=sites, widths_out=sites),
    )
    plain = TopKConfig(d_in=32, n_latents=96)
    a, b = (
        Learner("it", TopK(config), OptimConfig(), n_steps=10, dead_tokens=10)
        for config in (clt, plain)
    )
    assert a.lr == b.lr
