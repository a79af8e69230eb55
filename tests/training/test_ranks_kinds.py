"""Every architecture, and every wiring, on two ranks that share out rows: what one process leaves."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from monosem.dictionaries.base import architecture, architectures
from monosem.dictionaries.topk import TopKConfig
from monosem.dictionaries.wiring import Wiring
from monosem.runtime.distributed import joined
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train

pytestmark = pytest.mark.slow

TRAINABLE = [name for name, kind in architectures().items() if kind.trainable]
IN = "blocks.0.ln2.hook_normalized, blocks.1.ln2.hook_normalized"
OUT = "blocks.0.hook_mlp_out, blocks.1.hook_mlp_out"
STREAM = "blocks.0.hook_resid_post, blocks.1.hook_resid_post"
WIRINGS = {
    "transcoder": (Wiring(), IN.split(", ")[0], OUT.split(", ")[0]),
    "skip": (Wiring(kind="transcoder", skip=True), IN.split(", ")[0], OUT.split(", ")[0]),
    "crosscoder": (Wiring(), STREAM, ""),
    "clt": (Wiring(kind="clt"), IN, OUT),
}
BASE = TrainConfig(
    site="blocks.0.mlp.hook_post",
    dictionaries=(TopKConfig(n_latents=48, k=4),),
    n_tokens=128 * 24,
    batch_size=128,
    buffer_tokens=1024,
    dead_after_share=0.1,
    matmul="fp32",
    log_every=4,
)


def assert_same_on_ranks(config, parallel, on_ranks, model, store, folder) -> None:
    def work(rank):
        with joined() as world:
            train(config, model, store, folder / "two", world=world, parallel=parallel)
        return "done"

    one = train(config, model, store, folder / "one")
    assert on_ranks(2, work) == ["done", "done"]
    for name in config.names:
        alone, ranks = (
            load_file(folder / run / name / "weights.safetensors") for run in ("one", "two")
        )
        for key, value in alone.items():
            torch.testing.assert_close(value, ranks[key], atol=2e-4, rtol=2e-4)
        last, theirs = one.log[-1][name], TrainingRun.open(folder / "two").log[-1][name]
        assert (last["n_dead"], last["l0"]) == (theirs["n_dead"], theirs["l0"])


@pytest.mark.parametrize("kind", TRAINABLE)
def test_every_architecture(kind, on_ranks, model, store, tmp_path):
    made = architecture(kind).config_type(n_latents=48)
    if hasattr(made, "k"):
        made = dataclasses.replace(made, k=4)
    config = dataclasses.replace(BASE, dictionaries=(made,))
    assert_same_on_ranks(config, "data", on_ranks, model, store, tmp_path)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("wired", list(WIRINGS))
def test_every_wiring(wired, kind, on_ranks, deep, store, tmp_path):
    wiring, site, target = WIRINGS[wired]
    made = dataclasses.replace(architecture(kind).config_type(n_latents=48), wiring=wiring)
    if hasattr(made, "k"):
        made = dataclasses.replace(made, k=4)
    config = dataclasses.replace(BASE, dictionaries=(made,), site=site, target=target)
    assert_same_on_ranks(config, "data", on_ranks, deep, store, tmp_path)


@pytest.mark.parametrize("wired", ["transcoder", "skip", "crosscoder"])
def test_wirings_whose_latents_are_shared_out(wired, on_ranks, deep, store, tmp_path):
    wiring, site, target = WIRINGS[wired]
    made = architecture("topk").config_type(n_latents=48)
    made = dataclasses.replace(made, wiring=wiring, k=4)
    config = dataclasses.replace(BASE, dictionaries=(made,), site=site, target=target)
    assert_same_on_ranks(config, "latents", on_ranks, deep, store, tmp_path)
