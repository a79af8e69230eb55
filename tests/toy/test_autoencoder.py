"""Toy: the autoencoder of Sharkey et al. finds the features of a small world."""

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.toy.autoencoder import AutoencoderConfig, train_autoencoders
from monosem.toy.sparse_features import Magnitude, SparseFeatures, SparseFeaturesConfig, recovery

WORLD = SparseFeatures(
    SparseFeaturesConfig(
        d=16, n_features=32, l0=2.0, power=0.0, n_groups=1, correlation=0.0,
        magnitude=Magnitude(weakest=0.0),
    )
)  # fmt: skip


def test_latents_and_reconstruction_are_the_equations() -> None:
    config = AutoencoderConfig(n_latents=24, alphas=(0.0, 0.3), n_steps=3, batch=32)
    found = train_autoencoders(config, WORLD)
    x = WORLD.activations(10, seed=9)
    for m in range(2):
        c = np.maximum(x.numpy() @ found.W_enc[m].numpy() + found.b_enc[m].numpy(), 0)
        assert np.allclose(found.encode(x)[m].numpy(), c, atol=1e-5)
        out = c @ found.W_dec[m].numpy()
        assert np.allclose(found.decode(found.encode(x))[m].numpy(), out, atol=1e-5)
    assert torch.allclose(found.W_dec.norm(dim=2), torch.ones(2, 24), atol=1e-5)
    assert not torch.equal(found.W_enc[0], found.W_enc[1])


@pytest.mark.slow
def test_a_penalty_in_the_middle_finds_the_features_and_none_or_too_much_does_not() -> None:
    alphas = (0.0, 0.3, 300.0)
    config = AutoencoderConfig(n_latents=64, alphas=alphas, n_steps=1500, batch=512, lr=3e-3)
    found = train_autoencoders(config, WORLD)
    none, right, much = (float(recovery(WORLD.directions, W).mean()) for W in found.W_dec)
    assert right > 0.85
    assert none < right - 0.1 and much < right - 0.1


def test_penalties_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="alphas"):
        AutoencoderConfig(n_latents=4, alphas=(-1.0,))
