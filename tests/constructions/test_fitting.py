"""Approximations by few heads: their certified errors, and a fitter that finds better ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.constructions.certificate import certify
from monosem.constructions.fitting import FitConfig, fit
from monosem.constructions.functions import Activation, function
from monosem.constructions.terms import SILU_DIP, HeadSum, Term, scaled_silu
from monosem.core.errors import ConfigError, UnknownNameError


def published(gains, scales):
    """The constants of the derivation: the last scale makes the slope at +∞ exactly 1."""
    last = (1 - sum(c * b for c, b in zip(scales, gains, strict=False))) / gains[-1]
    pairs = zip([*scales, last], gains, strict=True)
    return HeadSum(terms=tuple(scaled_silu(c, b) for c, b in pairs))


@pytest.mark.parametrize(
    ("gains", "scales", "error"),
    [
        ((1.702,), (), 0.0203),
        ((1.773,), (), 0.01393),
        ((2.3827, 2.4554), (6.0,), 5.3e-3),
        ((2.0544, 1.6741, 1.8358), (-2.4647, -2.9575), 2.0e-3),
    ],
)
def test_gelu_by_one_two_and_three_silu_heads_errs_as_derived(gains, scales, error):
    certificate = certify(function("gelu"), published(gains, scales), tolerance=0.01)
    assert certificate.inside == pytest.approx(error, rel=0.03)
    assert certificate.outside < 1e-9
    assert certificate.everywhere == certificate.inside


def test_the_certificate_of_relu_is_the_dip_of_silu_over_the_gain():
    certificate = certify(function("relu"), HeadSum(terms=(scaled_silu(0.1, 10.0),)))
    assert certificate.reached == pytest.approx(SILU_DIP / 10, rel=1e-6)
    assert SILU_DIP / 10 <= certificate.inside <= SILU_DIP / 10 * 1.0011
    assert abs(certificate.at) == pytest.approx(0.127846, rel=1e-2)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["gelu", "relu", "mish", "gelu_tanh"]),
    gain=st.floats(0.3, 5),
    shift=st.floats(-2, 2),
    offset=st.floats(-1, 1),
)
def test_no_sampled_error_exceeds_the_certified_one(name, gain, shift, offset):
    heads = HeadSum(terms=(Term(slope=1.0, offset=offset, gain=gain, shift=shift),))
    activation = function(name)
    certificate = certify(activation, heads, radius=8.0, tolerance=0.02)
    inside = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    assert (activation(inside) - heads(inside)).abs().max() <= certificate.inside
    assert certificate.reached <= certificate.inside
    if math.isfinite(certificate.outside):
        outside = torch.linspace(8, 60, 20_001, dtype=torch.float64)
        for x in (outside, -outside):
            assert (activation(x) - heads(x)).abs().max() <= certificate.outside + 1e-13


def test_a_sum_with_another_slope_has_no_certificate_outside_the_interval():
    certificate = certify(function("gelu"), HeadSum(terms=(Term(slope=0.9, gain=1.7),)))
    assert certificate.outside == math.inf
    assert certificate.everywhere == math.inf


def test_the_fitter_finds_the_best_single_head_for_gelu():
    found = fit(function("gelu"), FitConfig(n_heads=1, n_starts=2))
    assert found.certificate.everywhere < 0.01394
    assert found.heads.terms[0].gain == pytest.approx(1.7729, abs=2e-3)


def test_the_fitter_beats_the_published_two_heads_of_gelu():
    found = fit(function("gelu"), FitConfig(n_heads=2, n_starts=2))
    assert found.certificate.everywhere < 4.0e-3  # published: 5.3e-3 with terms six times as large
    assert found.heads.size < 1.5
    assert found.heads.line(1) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_the_fitter_takes_a_function_nobody_named():
    square_root = Activation(
        name="smooth ramp",
        function=lambda x: (x + (x * x + 1).sqrt()) / 2,
        lipschitz=1.0,
        tail=lambda r: 1 / (4 * r),
    )
    found = fit(square_root, FitConfig(n_heads=2, n_starts=2))
    x = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    assert (square_root(x) - found.heads(x)).abs().max() <= found.certificate.inside < 0.08


def test_what_cannot_be_fitted_is_refused():
    leaky = Activation(
        name="leaky", function=torch.abs, lipschitz=1.0, left=(-1.0, 0.0), tail=lambda r: 0.0
    )
    with pytest.raises(ConfigError, match="linear head"):
        fit(leaky, FitConfig(n_heads=1))
    with pytest.raises(ConfigError, match="n_heads"):
        FitConfig(n_heads=0)
    with pytest.raises(ConfigError, match="max_size"):
        fit(function("gelu"), FitConfig(n_heads=1, n_starts=1, max_size=0.5))
    with pytest.raises(UnknownNameError, match="gelu_tanh"):
        function("gelu_tan")
