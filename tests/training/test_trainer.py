import dataclasses
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monosem.activations.capture import CaptureSource
from monosem.core import artifact
from monosem.core.config import from_json, to_json
from monosem.core.errors import (
    ArtifactBusyError,
    ArtifactCorruptError,
    ArtifactKindError,
    ConfigError,
    ResumeError,
    ShapeMismatchError,
    UnknownNameError,
)
from monosem.dictionaries.base import load
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.reconstruction import fvu
from monosem.runtime.lock import only_writer
from monosem.training import trainer as module
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig
from monosem.training.trainer import TrainConfig, TrainingRun, train

SITE = "blocks.0.mlp.hook_post"
TOPK = TopKConfig(n_latents=48, k=4)
RELU = ReLUConfig(n_latents=48, l1=0.01, resample_at=(0.3, 0.6), resample_window=0.1)
CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TOPK, RELU),
    n_tokens=128 * 40,
    batch_size=128,
    buffer_tokens=1024,
    optim=OptimConfig(lr=2e-4),
    matmul="fp32",
    log_every=5,
)


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    names = ("topk", "relu")
    return {name: load_file(out / name / "weights.safetensors") for name in names}


def assert_equal(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    for name, tensors in first.items():
        for key, value in tensors.items():
            assert torch.equal(value, second[name][key]), (name, key)


@pytest.fixture(scope="module")
def whole(model, store, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    return train(CONFIG, model, store, tmp_path_factory.mktemp("whole") / "run").path


def test_the_configuration_comes_back_from_json():
    assert from_json(TrainConfig, to_json(CONFIG)) == CONFIG


def test_a_run_leaves_dictionaries_for_raw_activations(whole, model, store):
    run = TrainingRun.open(whole)
    x = CaptureSource(model, store, SITE, batch_size=128, buffer_tokens=1024).sample(500).x
    for name in ("topk", "relu"):
        dictionary = run[name]
        assert dictionary.site == SITE and dictionary.origin.context == store.context
        assert dictionary.conventions.folded
        assert dictionary.conventions.input_scale == run.summary["input_scale"] != 1
        norms = dictionary.W_dec.detach().norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        with torch.no_grad():
            measured = fvu(x, dictionary(x))
        assert measured == pytest.approx(run.summary["dictionaries"][name]["fvu"], abs=0.15)
        assert measured < 0.9
        assert torch.equal(load(whole / name).W_dec, dictionary.W_dec)
    assert float((run["topk"].encode(x) > 0).sum(1).float().mean()) <= 4


def test_the_log_names_what_a_run_was_like(whole):
    run = TrainingRun.open(whole)
    assert [line["step"] for line in run.log] == list(range(5, 41, 5))
    assert [line["tokens"] for line in run.log] == [128 * s for s in range(5, 41, 5)]
    last = run.log[-1]
    assert {"loss", "mse", "aux_k", "l0", "fvu", "n_dead", "lr"} == set(last["topk"])
    assert {"loss", "mse", "l1", "l0", "fvu", "n_dead", "lr"} == set(last["relu"])
    assert last["topk"]["loss"] == pytest.approx(last["topk"]["mse"] + last["topk"]["aux_k"])
    assert last["topk"]["loss"] < run.log[0]["topk"]["loss"]
    assert last["epoch"] == pytest.approx(run.summary["epochs"], abs=1e-3)


def test_two_dictionaries_on_one_stream_learn_what_each_learns_alone(whole, model, store, tmp_path):
    alone = dataclasses.replace(CONFIG, dictionaries=(RELU,))
    run = train(alone, model, store, tmp_path / "alone")
    for key, value in weights(whole)["relu"].items():
        assert torch.equal(value, load_file(run.folder("relu") / "weights.safetensors")[key])


def test_a_finished_run_is_used_again(whole, model, store, capsys, monkeypatch):
    monkeypatch.setattr(Learner, "learn", None)
    assert train(CONFIG, model, store, whole).names == ("topk", "relu")
    assert "is already there" in capsys.readouterr().err


def test_a_finished_run_of_other_settings_is_replaced_only_when_asked(model, store, tmp_path):
    out = tmp_path / "run"
    short = dataclasses.replace(CONFIG, dictionaries=(TOPK,), n_tokens=256)
    train(short, model, store, out)
    other = dataclasses.replace(short, seed=1)
    with pytest.raises(ArtifactKindError, match=r"`seed` 0 instead of 1.*--fresh"):
        train(other, model, store, out)
    assert train(other, model, store, out, fresh=True).config.seed == 1


def test_of_a_dictionary_that_differs_only_what_differs_is_named(whole, model, store):
    other = dataclasses.replace(TOPK, k=TOPK.k + 1)
    with pytest.raises(ArtifactKindError) as refused:
        train(dataclasses.replace(CONFIG, dictionaries=(other, RELU)), model, store, whole)
    assert f"`dictionaries[0].k` {TOPK.k} instead of {other.k}. Choose" in str(refused.value)
    assert "relu" not in str(refused.value).removeprefix(f"`{whole}`")
    fewer = dataclasses.replace(CONFIG, dictionaries=(RELU,), seed=3)
    with pytest.raises(ArtifactKindError, match="another `dictionaries`, `seed` 0 instead of 3"):
        train(fewer, model, store, whole)


def stop_after(monkeypatch, n_steps, how):
    """Let the run be cut in its step `n_steps`."""
    step, done = Learner.learn, []

    def counted(self, batch):
        step(self, batch)
        done.append(self.name)
        if done.count("relu") == n_steps and self.name == "relu":
            how()

    monkeypatch.setattr(Learner, "learn", counted)
    return lambda: monkeypatch.setattr(Learner, "learn", step)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("n_steps", [1, 13, 39])
def test_an_interrupted_run_saves_and_goes_on_to_the_same_weights(
    whole, model, store, tmp_path, monkeypatch, n_steps, signal_number
):
    out = tmp_path / "cut"
    undo = stop_after(monkeypatch, n_steps, lambda: signal.raise_signal(signal_number))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, model, store, out)
    assert not out.exists()
    undo()
    train(CONFIG, model, store, out)
    assert_equal(whole, out)
    assert not out.with_name("cut.checkpoint").exists()
    read = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in TrainingRun.open(p).log]
        for p in (whole, out)
    ]
    assert read[0] == read[1]


@pytest.fixture
def cut(model, store, tmp_path, monkeypatch) -> Path:
    """Where an interrupted run lies."""
    out = tmp_path / "cut"
    undo = stop_after(monkeypatch, 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, model, store, out)
    undo()
    return out


def test_another_configuration_does_not_resume(cut, model, store):
    other = dataclasses.replace(CONFIG, optim=OptimConfig(lr=1e-3))
    with pytest.raises(ResumeError, match=r"`optim.lr` 0.0002 instead of 0.001.*--fresh"):
        train(other, model, store, cut)


def test_another_matmul_choice_does_not_resume(cut, model, store):
    with pytest.raises(ResumeError, match="matmul"):
        train(dataclasses.replace(CONFIG, matmul="bf16"), model, store, cut)


def test_another_thread_count_does_not_resume(cut, model, store, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(ResumeError, match="threads 1; here it is 7"):
        train(CONFIG, model, store, cut)


def test_fresh_throws_an_interrupted_run_away(cut, whole, model, store):
    train(CONFIG, model, store, cut, fresh=True)
    assert_equal(whole, cut)


def test_the_recorded_arithmetic_is_used_again(model, store, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, matmul="auto")
    monkeypatch.setattr(module.matmul, "choose", lambda device: "bf16")
    undo = stop_after(monkeypatch, 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(config, model, store, tmp_path / "cut")
    undo()
    monkeypatch.setattr(module.matmul, "choose", lambda device: "fp32")
    run = train(config, model, store, tmp_path / "cut")
    assert artifact.read(run.path, "training run").config["machine"]["matmul"] == "bf16"


def test_a_step_asks_the_device_for_nothing(model, store, monkeypatch, tmp_path):
    """Values are read when a line is logged; a step in between reads none (`revive_` apart)."""
    asked = []
    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self, *arguments, original=original, name=name):
            if stepping:
                asked.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counted)
    stepping: list[int] = []
    step = Learner.learn

    def marked(self, batch):
        stepping.append(1)
        step(self, batch)
        stepping.clear()

    monkeypatch.setattr(Learner, "learn", marked)
    quiet = dataclasses.replace(RELU, resample_at=())
    config = dataclasses.replace(CONFIG, dictionaries=(quiet,), n_tokens=1024, log_every=100)
    train(config, model, store, tmp_path / "run")
    assert asked == []


def test_divergence_is_said(model, store, tmp_path):
    config = dataclasses.replace(CONFIG, dictionaries=(RELU,), optim=OptimConfig(lr=1e30))
    with pytest.raises(ConfigError, match="diverged"):
        train(config, model, store, tmp_path / "run")


def test_a_transcoder_reads_one_site_and_writes_another(model, store, tmp_path):
    config = dataclasses.replace(
        CONFIG, site="blocks.0.ln2.hook_normalized", target="blocks.0.hook_mlp_out"
    )
    run = train(config, model, store, tmp_path / "run")
    assert run["relu"].origin.target == "blocks.0.hook_mlp_out"
    assert run.log[-1]["relu"]["loss"] < run.log[0]["relu"]["loss"]


def test_bad_input_is_refused_at_the_door(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(CaptureSource, "_capture", None)
    change = dataclasses.replace
    with pytest.raises(UnknownNameError, match="Did you mean"):
        train(change(CONFIG, site="blocks.0.mlp.hook_pst"), model, store, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"1\.\.n_latents=48"):
        TopKConfig(n_latents=48, k=49)
    wide = change(CONFIG, dictionaries=(change(TOPK, d_in=25),))
    with pytest.raises(ShapeMismatchError, match="25"):
        train(wide, model, store, tmp_path / "run")
    with pytest.raises(ConfigError, match="baseline"):
        change(CONFIG, dictionaries=(Neurons.config_type(),))
    with pytest.raises(ConfigError, match="empty"):
        change(CONFIG, dictionaries=())
    with pytest.raises(ArtifactKindError, match="token store"):
        train(CONFIG, model, store, store.path)
    with pytest.raises(ConfigError, match="exceed the run"):
        OptimConfig(warmup=0.5, decay=0.6)
    assert list(tmp_path.iterdir()) == []


def test_damaged_checkpoints_are_said(cut, model, store):
    for manifest in cut.with_name("cut.checkpoint").glob("state-*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(ArtifactCorruptError, match="--fresh"):
        train(CONFIG, model, store, cut)


def test_two_runs_do_not_write_to_one_folder(cut, whole, model, store):
    with only_writer(cut.with_name("cut.checkpoint")):
        for fresh in (False, True):
            with pytest.raises(ArtifactBusyError, match="another process"):
                train(CONFIG, model, store, cut, fresh=fresh)
    train(CONFIG, model, store, cut)
    assert_equal(whole, cut)


def test_a_run_killed_at_random_moments_ends_with_the_same_weights(killed, model, store, tmp_path):
    longer, out = dataclasses.replace(CONFIG, n_tokens=2 * CONFIG.n_tokens), tmp_path / "killed"
    killed(longer, out)
    assert_equal(train(longer, model, store, tmp_path / "whole").path, out)
    artifact.read(out, "training run")
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}
