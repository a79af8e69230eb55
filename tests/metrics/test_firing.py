import pytest
import torch

from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics.firing import Counter


@pytest.mark.parametrize(
    "dictionary",
    [TopK(TopKConfig(d_in=8, n_latents=20, k=3)), ReLU(ReLUConfig(d_in=8, n_latents=20))],
)
def test_a_counter_counts_what_the_dense_encoder_gives(dictionary):
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    counter = Counter(dictionary)
    with torch.no_grad():
        for part in (x[:10], x[10:2500], x[2500:]):
            counter.add(part)
        assert torch.equal(counter.n_fired, (dictionary.encode(x) > 0).sum(0))
