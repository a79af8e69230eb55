"""Masks in the weights: within the bound for any mask, and a model whose heads see a causal mask only."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.constructions.conversion import convert
from monosem.constructions.heads import Heads, attend, augment, causal, self_and_bias
from monosem.constructions.pseudo_mask import (
    PrecisionWarning,
    leak,
    margin,
    omega_for,
    one_hot,
    ramp,
    random_codes,
    slack,
    with_codes,
    with_mask,
    with_ramp,
)
from monosem.core.errors import ConfigError, ShapeMismatchError


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(seed, n, density):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, n, generator=generator) < density) | torch.eye(n, dtype=torch.bool)


def random_heads(seed, d_in):
    shapes = {"W_Q": (2, d_in, 3), "W_K": (2, d_in, 3), "W_V": (2, d_in, 3), "W_O": (2, 3, 4)}
    parts = {k: draw(seed + i, *s) / 2 for i, (k, s) in enumerate(shapes.items())}
    return Heads(**parts, bias=draw(seed + 9, 4))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 12),
    density=st.floats(0.0, 1.0),
    omega=st.floats(0.0, 30.0),
)
def test_no_mask_lets_through_more_than_its_bound(seed, n, density, omega):
    scores, mask = 2 * draw(seed, 3, n, n), random_mask(seed, n, density)
    found = leak(scores, mask, omega)
    assert found.measured <= found.bound * (1 + 1e-9)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 9),
    density=st.floats(0.0, 1.0),
    wanted=st.sampled_from([1e-2, 1e-4, 1e-8]),
)
def test_omega_gives_the_wanted_error_for_any_mask(seed, n, density, wanted):
    heads, x, mask = random_heads(seed, 5), draw(seed + 50, n, 5), random_mask(seed, n, density)
    scores = torch.einsum(
        "rd,hde,fe,hgf->hrg",
        x,
        heads.W_Q,
        torch.eye(3, dtype=x.dtype),
        torch.einsum("rd,hdf->hrf", x, heads.W_K),
    )
    written = torch.einsum("rd,hde,heo->hro", x, heads.W_V, heads.W_O)
    largest = float(written.norm(dim=-1).amax(-1).sum())  # of all heads together
    omega = omega_for(wanted, slack=slack(scores, mask), n_keys=n, largest_value=max(largest, 1e-9))
    masked = with_mask(heads, one_hot(n), mask, omega)
    gap = attend(masked, with_codes(x, one_hot(n))) - attend(heads, x, mask)
    assert gap.norm(dim=-1).max() <= wanted * (1 + 1e-6)


@pytest.mark.parametrize("codes", ["one_hot", "ramp"])
@pytest.mark.parametrize("omega", [15.0, 25.0])
def test_a_model_whose_neuron_heads_see_a_causal_mask_only(tiny, tokens, codes, omega):
    model = tiny("gpt2", "silu")
    converted = convert(model).model

    class Pseudo(torch.nn.Module):
        def __init__(self, heads):
            super().__init__()
            self.heads = heads

        def forward(self, x):
            rows = augment(x)
            n = rows.shape[-2]
            own = one_hot(n) if codes == "one_hot" else ramp(n)
            heads = (
                with_mask(self.heads, own, self_and_bias(n), omega)
                if codes == "one_hot"
                else with_ramp(self.heads, omega, n)
            )
            out = attend(heads, with_codes(rows, own), causal(n))[..., 1:, :]
            # Forbidden keys have at most the own row's score before the bonus, hence Δ ≤ ln 1.
            z = torch.nn.functional.linear(rows, self.heads.W_V.squeeze(-1)).abs().amax((0, 1))
            bound = (
                2 * (n - 2) * math.exp(-omega) * z[:, None] * self.heads.W_O.squeeze(1).abs()
            ).sum(0)
            exact = attend(self.heads, rows, self_and_bias(n))[..., 1:, :]
            assert ((out - exact).abs().amax((0, 1)) <= bound + 1e-12).all()
            return out

    with torch.no_grad():
        true = model(tokens).logits
        for block in converted.transformer.h:
            block.mlp = Pseudo(block.mlp.sublayers[0].as_heads())
        gap = (converted(tokens).logits - true).abs().max()
    assert 0 < gap < {15.0: 1e-3, 25.0: 1e-7}[omega]


def test_narrow_codes_trade_width_for_margin():
    n, own = 32, torch.eye(32, dtype=torch.bool)
    codes = random_codes(n, 24, seed=0)
    left = margin(codes, own)
    assert 0.05 < left < 1
    assert margin(one_hot(n), own) == pytest.approx(1.0)
    assert margin(random_codes(n, 30, seed=0), own) > left
    heads, x = random_heads(0, 5), draw(50, n, 5)
    q, k = (torch.einsum("rd,hde->hre", x, w) for w in (heads.W_Q, heads.W_K))
    values = torch.einsum("rd,hde,heo->hro", x, heads.W_V, heads.W_O)
    largest = float(values.norm(dim=-1).amax(-1).sum())
    needed = omega_for(
        1e-4, slack=slack(q @ k.transpose(1, 2), own), n_keys=n, largest_value=largest
    )
    masked = with_mask(heads, codes, own, needed / left)
    gap = attend(masked, with_codes(x, codes)) - attend(heads, x, own)
    assert gap.norm(dim=-1).max() <= 1e-4


def test_too_large_a_bonus_is_warned_of():
    heads = random_heads(0, 5)
    with pytest.warns(PrecisionWarning, match="float32"):
        with_mask(heads.to(torch.float32), one_hot(3), random_mask(0, 3, 0.5), 1e5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_mask(heads.to(torch.float32), one_hot(3), random_mask(0, 3, 0.5), 30.0)
        with_mask(heads, one_hot(3), random_mask(0, 3, 0.5), 1e5)


def test_masks_without_keys_and_codes_without_rows_are_refused():
    none = torch.zeros(3, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match="allows none"):
        slack(draw(0, 3, 3), none)
    with pytest.raises(ConfigError, match="error"):
        omega_for(0.0, slack=0.0, n_keys=3, largest_value=1.0)
    with pytest.raises(ShapeMismatchError, match="4 position codes and 3 rows"):
        with_mask(random_heads(0, 5), one_hot(4), random_mask(0, 3, 1.0), 10.0)
