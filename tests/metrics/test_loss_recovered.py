import numpy as np
import pytest
import torch

from monosem.metrics.loss_recovered import delta_ce, loss_recovered, share


def losses(*values):
    return torch.tensor(values)


def test_delta_ce_is_the_mean_of_paired_differences():
    original, spliced = losses(1.0, 2.0, 3.0), losses(1.5, 2.0, 2.8)
    assert delta_ce(spliced, original) == pytest.approx(np.mean([0.5, 0.0, -0.2]))


def test_loss_recovered_by_hand():
    original, spliced, ablated = losses(1.0, 2.0), losses(1.1, 2.3), losses(2.0, 3.0)
    assert loss_recovered(original, spliced, ablated).value == pytest.approx(1 - 0.2 / 1.0)
    # The same as (ablated − spliced) / (ablated − original), which others write.
    other = (ablated.mean() - spliced.mean()) / (ablated.mean() - original.mean())
    assert loss_recovered(original, spliced, ablated).value == pytest.approx(float(other))


def test_a_perfect_splice_recovers_all_and_an_ablation_nothing():
    original, ablated = losses(1.0, 2.0), losses(2.0, 4.0)
    assert loss_recovered(original, original, ablated).value == 1
    assert loss_recovered(original, ablated, ablated).value == 0
    assert loss_recovered(original, losses(5.0, 7.0), ablated).value == pytest.approx(-2)


@pytest.mark.parametrize("gap", [0.0, 0.0499, -1.0, float("nan")])
def test_a_small_gap_is_void_and_says_so(gap):
    measure = share(0.01, gap)
    assert measure.value is None
    assert measure.void == f"gap {gap:.3g} nats < 0.05 nats"


def test_a_gap_of_exactly_the_minimum_counts():
    assert share(0.01, 0.05).value == pytest.approx(0.8)
