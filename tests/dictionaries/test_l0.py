import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.gated import Gated, GatedConfig
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.start import LONGEST
from monosem.training.settings import TrainConfig


@pytest.mark.parametrize("kind", [ReLUConfig, GatedConfig])
def test_more_active_latents_than_there_are_cannot_be_trained_to(kind):
    with pytest.raises(ConfigError, match=r"`l0` is 9000 active latents.*there are 4096"):
        TrainConfig(site="blocks.0.mlp.hook_post", dictionaries=(kind(n_latents=4096, l0=9000.0),))
    TrainConfig(
        site="blocks.0.mlp.hook_post", dictionaries=(kind(n_latents=16, l1=0.1),)
    )  # l0 is not aimed at
    assert kind(n_latents=16).n_latents == 16  # as one that comes from elsewhere


def test_gated_starts_with_short_encoder_vectors_and_as_many_active_latents_as_it_is_to_have():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 24, generator=generator) * (
        torch.rand(1000, 24, generator=generator) < 0.1
    )
    lengths, active = {}, {}
    for made in (
        Gated(GatedConfig(d_in=24, n_latents=48, l0=3.0)),
        ReLU(ReLUConfig(d_in=24, n_latents=48, l0=3.0)),
    ):
        made.initialise_(x, x)
        kind = made.config.architecture
        lengths[kind] = made.W_enc.norm(dim=0).max().item()
        active[kind] = (made.encode(x) > 0).sum(1).float().mean().item()
    assert lengths["relu"] > 1.5 * LONGEST, "nothing was shortened"
    assert lengths["gated"] == pytest.approx(LONGEST)
    assert active["gated"] == pytest.approx(3.0, rel=0.1)
