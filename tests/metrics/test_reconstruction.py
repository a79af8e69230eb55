import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import explained_variance_score, r2_score

from monosem.metrics.reconstruction import (
    ReconstructionSums,
    cosine,
    fvu,
    fvu_per_token,
    l0,
    l2_ratio,
    relative_reconstruction_bias,
)


def pair(n=200, d=7, seed=0, noise=0.3):
    generator = torch.Generator().manual_seed(seed)
    # A large mean: what tells a centred measure from one that is not.
    x = torch.randn(n, d, generator=generator) + 5 * torch.arange(d)
    return x, x + noise * torch.randn(n, d, generator=generator)


def by_hand(x, x_hat, mean):
    error = variance = 0.0
    for row, row_hat in zip(x.tolist(), x_hat.tolist(), strict=True):
        for j in range(len(row)):
            error += (row[j] - row_hat[j]) ** 2
            variance += (row[j] - mean[j]) ** 2
    return error / variance


def test_fvu_is_the_sum_over_tokens_and_coordinates_done_by_hand():
    x, x_hat = pair()
    mean = torch.linspace(0, 30, 7)
    assert fvu(x, x_hat, mean) == pytest.approx(by_hand(x, x_hat, mean.tolist()), rel=1e-9)
    own = np.asarray(x, dtype=np.float64).mean(0)
    assert fvu(x, x_hat) == pytest.approx(by_hand(x, x_hat, own.tolist()), rel=1e-9)


def test_fvu_is_one_minus_sklearns_variance_weighted_r2():
    x, x_hat = pair()
    expected = 1 - r2_score(x.numpy(), x_hat.numpy(), multioutput="variance_weighted")
    assert fvu(x, x_hat) == pytest.approx(expected, rel=1e-5)


def test_fvu_equals_sklearns_explained_variance_only_where_the_error_has_no_mean():
    x, x_hat = pair()
    unbiased = x_hat - (x_hat - x).mean(0)
    expected = 1 - explained_variance_score(
        x.numpy(), unbiased.numpy(), multioutput="variance_weighted"
    )
    assert fvu(x, unbiased) == pytest.approx(expected, rel=1e-4)
    # sklearn forgives a constant error; the fvu does not.
    forgiven = explained_variance_score(x.numpy(), (x + 3).numpy(), multioutput="variance_weighted")
    assert forgiven == pytest.approx(1, abs=1e-5)
    assert fvu(x, x + 3) > 1


def test_fvu_is_not_the_measure_that_subtracts_the_mean_square():
    x, x_hat = pair()
    wrong = float((x - x_hat).square().sum() / (x.square().sum()))
    assert fvu(x, x_hat) > 10 * wrong


def test_perfect_mean_and_constant_reconstructions():
    x, _ = pair()
    assert fvu(x, x) == 0
    assert fvu(x, x.double().mean(0).float().expand_as(x)) == pytest.approx(1, rel=1e-6)
    constant = torch.ones(5, 3)
    assert math.isnan(fvu(constant, constant))


def test_per_token_errors_average_to_the_fvu():
    x, x_hat = pair()
    mean = x.mean(0)
    errors = fvu_per_token(x, x_hat, mean)
    assert errors.shape == (200,)
    assert float(errors.mean()) == pytest.approx(fvu(x, x_hat, mean), rel=1e-9)
    lone = x.clone()
    lone[17] += 100
    assert int(fvu_per_token(x, lone, mean).argmax()) == 17


def test_leading_axes_do_not_matter():
    x, x_hat = pair()
    folded, folded_hat = x.view(10, 20, 7), x_hat.view(10, 20, 7)
    assert fvu(folded, folded_hat) == pytest.approx(fvu(x, x_hat), rel=1e-12)
    assert cosine(folded, folded_hat).shape == (10, 20)


def test_cosine_norm_ratio_and_bias_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    x_hat = torch.tensor([[4.0, 3.0], [0.0, 1.0], [1.0, 0.0]])
    assert cosine(x, x_hat).tolist() == pytest.approx([24 / 25, 1, 0])
    assert l2_ratio(x, x_hat).tolist() == pytest.approx([1, 0.5, 0])
    assert relative_reconstruction_bias(x, x_hat) == pytest.approx((25 + 1 + 1) / (24 + 2 + 0))
    assert relative_reconstruction_bias(x, 0.5 * x) == pytest.approx(0.5)


def test_relative_reconstruction_bias_is_the_best_divisor():
    x, x_hat = pair()
    gamma = relative_reconstruction_bias(x, x_hat)
    best = fvu(x, x_hat / gamma)
    assert best <= min(fvu(x, x_hat / (gamma + d)) for d in (-0.01, 0.01))


def test_l0_counts_what_is_not_zero():
    assert l0(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, -3.0]])) == 1.5


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 199), max_size=6), seed=st.integers(0, 5))
def test_a_stream_in_any_pieces_equals_the_pure_functions(cuts, seed):
    x, x_hat = pair(seed=seed)
    mean = x[:50].mean(0)
    sums = ReconstructionSums(mean=mean)
    edges = [0, *sorted(set(cuts)), 200]
    for start, stop in zip(edges, edges[1:], strict=False):
        sums.add(x[start:stop], x_hat[start:stop], 3 * (stop - start))
    found = sums.measures()
    errors = fvu_per_token(x, x_hat, mean)
    expected = {
        "fvu": fvu(x, x_hat, mean),
        "fvu_p99": float(np.percentile(errors.numpy(), 99)),
        "l0": 3.0,
        "cosine": float(cosine(x, x_hat).mean()),
        "l2_ratio": float(l2_ratio(x, x_hat).mean()),
        "relative_reconstruction_bias": relative_reconstruction_bias(x, x_hat),
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_sums_keep_small_errors_that_float32_would_lose():
    x = torch.full((50_000, 4), 1000.0)
    x[::2] += 1
    sums = ReconstructionSums(mean=torch.full((4,), 1000.5))
    for part, part_hat in zip(x.split(500), (x + 0.25).split(500), strict=True):
        sums.add(part, part_hat)
    assert sums.fvu == pytest.approx(0.25, rel=1e-12)


def test_an_empty_stream_has_no_fvu():
    sums = ReconstructionSums(mean=torch.zeros(3))
    assert all(math.isnan(value) for value in sums.measures().values())
