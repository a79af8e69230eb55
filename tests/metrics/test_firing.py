import pytest
import torch

from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics.firing import Counter, positive


@pytest.mark.parametrize("rows", [1, 255, 256, 700])
def test_positive_entries_are_counted_whatever_the_number_of_rows(rows):
    latents = torch.randn(rows, 9, generator=torch.Generator().manual_seed(rows))
    latents[:, 0], latents[:, 1] = 1, 0  # always and never: neither may run over
    assert positive(latents).tolist() == [sum(v > 0 for v in c) for c in latents.T.tolist()]


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
