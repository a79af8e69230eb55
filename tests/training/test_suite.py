import dataclasses
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from monosem import cli
from monosem.cli.train import main
from monosem.core.errors import ArtifactKindError, ConfigError, ResumeError, UnknownNameError
from monosem.dictionaries.base import load
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.models.patterns import matching_sites
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig
from monosem.training.run import TrainingRun
from monosem.training.suite import Suite
from monosem.training.trainer import TrainConfig, train, train_suite

SITES = ("blocks.0.hook_attn_out", "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post")
RELU = ReLUConfig(n_latents=32, l1=0.01, resample_at=(0.4,), resample_window=0.1)
CONFIG = TrainConfig(
    site=SITES[0],
    dictionaries=(TopKConfig(n_latents=48, k=4), TopKConfig(n_latents=48, k=8), RELU),
    n_tokens=128 * 20,
    batch_size=128,
    buffer_tokens=1024,
    optim=OptimConfig(lrs=(2e-4, 4e-4, 2e-4)),
    matmul="fp32",
    log_every=5,
)


def assert_same(one, other):
    for name in CONFIG.names:
        mine, theirs = (load_file(p / name / "weights.safetensors") for p in (one, other))
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert torch.equal(mine[key], theirs[key]), (one, name, key)


@pytest.fixture(scope="module")
def suite(model, store, tmp_path_factory) -> Suite:
    return train_suite(CONFIG, SITES, model, store, tmp_path_factory.mktemp("suite") / "suite")


def test_each_site_of_a_suite_is_the_run_that_would_be_trained_there_alone(
    suite, model, store, tmp_path
):
    for number, site in enumerate(suite):
        config = dataclasses.replace(CONFIG, site=site)
        alone = train(config, model, store, tmp_path / str(number))
        run = suite[site]
        assert_same(alone.path, run.path)
        assert run.config == config
        assert run.summary["input_scale"] == alone.summary["input_scale"]
        short = [{k: v for k, v in line.items() if k != "seconds"} for line in run.log]
        assert short == [{k: v for k, v in x.items() if k != "seconds"} for x in alone.log]
    assert len({suite[site].summary["input_scale"] for site in SITES}) == 3


def test_dictionaries_with_learning_rates_of_their_own_learn_what_each_learns_alone(
    suite, model, store, tmp_path
):
    site = SITES[1]
    for i, name in enumerate(CONFIG.names):
        config = dataclasses.replace(
            CONFIG, site=site, dictionaries=CONFIG.dictionaries[i : i + 1], optim=CONFIG.optim.of(i)
        )
        (alone,) = (train(config, model, store, tmp_path / name).path / n for n in config.names)
        mine = load_file(suite.folder(site) / name / "weights.safetensors")
        for key, value in load_file(alone / "weights.safetensors").items():
            assert torch.equal(mine[key], value), (name, key)


def test_the_index_leads_to_every_dictionary(suite, model):
    index = json.loads((suite.path / "index.json").read_text())
    assert list(index) == list(SITES) == list(suite)
    for site, found in index.items():
        assert tuple(found) == CONFIG.names
        for entry in found.values():
            dictionary = load(suite.path / entry["folder"])
            assert dictionary.site == site
            assert dictionary.d_in == model.width(site) == entry["config"]["d_in"]
            assert dictionary.origin.metrics["fvu"] == entry["metrics"]["fvu"]


@pytest.mark.parametrize("n_steps", [1, 9])
def test_an_interrupted_suite_goes_on_to_the_same_weights(
    suite, model, store, tmp_path, monkeypatch, n_steps
):
    step, done = Learner.learn, []

    def counted(self, batch):
        step(self, batch)
        done.append(self.name)
        if len(done) == n_steps * 9 - 4:  # in the midst of a step
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Learner, "learn", counted)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_suite(CONFIG, SITES, model, store, out)
    assert not out.exists()
    monkeypatch.setattr(Learner, "learn", step)
    with pytest.raises(ResumeError, match="another sites"):
        train_suite(CONFIG, SITES[:2], model, store, out)
    resumed = train_suite(CONFIG, SITES, model, store, out)
    for site in SITES:
        assert_same(suite.folder(site), resumed.folder(site))
    assert [p.name for p in tmp_path.iterdir()] == ["cut"]


def test_a_finished_suite_is_used_again_and_no_run_replaces_it(
    suite, model, store, capsys, monkeypatch
):
    monkeypatch.setattr(Learner, "learn", None)
    assert train_suite(CONFIG, SITES, model, store, suite.path).sites == SITES
    assert "used again" in capsys.readouterr().err
    with pytest.raises(ArtifactKindError, match="holds a suite"):
        train(CONFIG, model, store, suite.path)


def test_a_suite_has_no_target(model, store, tmp_path):
    with pytest.raises(ConfigError, match="no `target`"):
        train_suite(
            dataclasses.replace(CONFIG, target=SITES[1]), SITES, model, store, tmp_path / "run"
        )


def test_patterns_name_sites_in_forward_order(model):
    found = matching_sites(model, ["blocks.*.hook_{resid_post,attn_out}", "blocks.0.mlp.post"])
    assert found == SITES
    everywhere = matching_sites(model, ["blocks.*"])
    assert not any("scores" in name or "pattern" in name or "scale" in name for name in everywhere)
    assert "blocks.0.attn.hook_z" in everywhere
    assert matching_sites(model, ["blocks.*.hook_attn_scores", "blocks.0.attn.*pattern"])
    with pytest.raises(UnknownNameError, match=r"matches `blocks.\*.hook_mpl_out`.*mlp_out"):
        matching_sites(model, ["blocks.*.hook_mpl_out"])
    with pytest.raises(UnknownNameError, match=r"its part `blocks.\*.hook_resid_pots`"):
        matching_sites(model, ["blocks.*.hook_{resid_post,resid_pots}"])


def test_the_command_line_trains_and_measures_a_suite(model, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model.model.save_pretrained("model")
    store.tokenizer.save_pretrained("model")
    words = f"--model model --tokens {store.path} --n-tokens 512 --batch-size 128 --device cpu"
    words += " --buffer-tokens 1024 --matmul fp32 --n-latents 32 --k 2 4 --out suite"
    assert main([*words.split(), "--sites", "blocks.*.hook_{attn_out,resid_post}"]) == 0
    said = capsys.readouterr()
    assert "4 dictionaries at 2 sites, in about 0.00 GiB" in said.err
    assert "blocks.0.hook_attn_out/topk-k2" in said.out
    assert TrainingRun.open("suite/blocks.0.hook_resid_post").names == ("topk-k2", "topk-k4")
    assert "topk-k2, topk-k4 at blocks.0.hook_r" in repr(
        Suite.open("suite")["blocks.0.hook_resid_post"]
    )
    assert (
        repr(Suite.open("suite"))
        == "<Suite suite: blocks.0.hook_attn_out, blocks.0.hook_resid_post>"
    )
    short = "--n-loss-tokens 200 --n-mean-tokens 200 --n-density-tokens 400 --no-language-model"
    evaluate = ["evaluate", "suite", *short.split(), "--no-neurons", "--device", "cpu"]
    assert cli.main([*evaluate, "--out", "evaluation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sites"]
    assert list(found) == ["blocks.0.hook_attn_out", "blocks.0.hook_resid_post"]
    assert list(found["blocks.0.hook_attn_out"]["dictionaries"]) == ["topk-k2", "topk-k4"]
    assert cli.main([*evaluate, "--out", "evaluation"]) == 0
    said = capsys.readouterr().out
    assert said.count("delta CE") == 1  # one table for all sites
    assert "blocks.0.hook_resid_post/topk-k4" in said
    assert cli.main(["evaluate", "suite/blocks.0.hook_attn_out/topk-k2", *short.split()]) == 0
    assert cli.main(["features", "suite"]) == 2
    assert "suite/blocks.0.hook_attn_out/topk-k2" in capsys.readouterr().err
