"""The firing pass against counts of dense latents."""

import pytest
import torch

from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.runtime import matmul

KINDS = [
    TopK(TopKConfig(d_in=8, n_latents=20, k=3)),
    ReLU(ReLUConfig(d_in=8, n_latents=20)),
    Neurons.of_width(8),
    Neurons.of_width(8, 2),
]


@pytest.mark.parametrize("dictionary", KINDS, ids=["topk", "relu", "all neurons", "neurons"])
def test_firings_are_what_the_dense_encoder_gives(dictionary):
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (dictionary.encode(x) > 0).sum(0)
        assert torch.equal(dictionary.firings(x), expected)
        assert torch.equal(sum(dictionary.firings(rows) for rows in x.split(700)), expected)
        assert dictionary.firings(x[:0]).sum() == 0


def test_in_bf16_a_relu_dictionary_fires_as_often_but_at_the_edge():
    generator = torch.Generator().manual_seed(1)
    dictionary = ReLU(ReLUConfig(d_in=64, n_latents=500))
    with torch.no_grad():
        dictionary.b_enc.uniform_(-0.5, 0.5, generator=generator)
        x = torch.randn(5000, 64, generator=generator)
        exact = dictionary.firings(x)
        with matmul.scope("bf16"):
            rough = dictionary.firings(x)
    assert exact.sum() > 100_000
    assert (rough - exact).abs().max() < 0.01 * len(x)
