"""Training with blocks made ahead leaves no thread, however it ends."""

import threading

import pytest

from monosem.activations.capture import CaptureSource
from monosem.core.errors import ConfigError
from monosem.dictionaries.topk import TopKConfig
from monosem.training import trainer
from monosem.training.trainer import TrainConfig, train

SITE = "blocks.0.mlp.hook_post"
CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TopKConfig(n_latents=48, k=4),),
    n_tokens=128 * 20,
    batch_size=128,
    buffer_tokens=1024,
    matmul="fp32",
    log_every=5,
)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_thread_is_left(ends, model, store, tmp_path, monkeypatch):
    made = []

    def ahead(config, model, store, sites, **_):
        options = {"batch_size": config.batch_size, "buffer_tokens": 1024, "ahead": True}
        made.append(CaptureSource(model, store, SITE, seed=config.seed, **options))
        return made[0]

    monkeypatch.setattr(trainer, "source_of", ahead)
    if ends == "badly":
        learn = trainer._Training._learn

        def breaks(self, batch, crew):
            assert [t for t in threading.enumerate() if t.name.startswith("next block")]
            if self.step == 9:
                raise ConfigError("it diverged")
            learn(self, batch, crew)

        monkeypatch.setattr(trainer._Training, "_learn", breaks)
        with pytest.raises(ConfigError, match="diverged"):
            train(CONFIG, model, store, tmp_path / "run")
    else:
        train(CONFIG, model, store, tmp_path / "run")
    assert made
    assert not [t for t in threading.enumerate() if t.name.startswith("next block")]
