"""Training from activations on disk."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from monosem import cli
from monosem.activations import cached
from monosem.activations.store import ActivationStore
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.core.errors import ConfigError, UnknownNameError
from monosem.dictionaries.topk import TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.training import sources
from monosem.training import trainer as module
from monosem.training.objectives import ObjectiveConfig
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train, train_suite

SITES = ("blocks.0.mlp.hook_post", "blocks.0.hook_resid_post")
SHARD = 1024
CONFIG = TrainConfig(
    site=SITES[0],
    dictionaries=(TopKConfig(n_latents=48, k=4),),
    n_tokens=128 * 40,
    batch_size=128,
    buffer_tokens=SHARD,
    matmul="fp32",
    log_every=5,
)


@pytest.fixture(scope="module")
def kept(model, store, tmp_path_factory) -> ActivationStore:
    config = CaptureConfig(sites=SITES, dtype="float32", shard_tokens=SHARD)
    return capture_store(config, model, store, tmp_path_factory.mktemp("acts") / "a")


def weights(run, name="topk"):
    return load_file(run.folder(name) / "weights.safetensors")


def same(first, second) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_live_and_cached_give_the_same_dictionary_where_the_order_is_the_same(
    kept, model, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 500)  # from the first block alone
    live = train(CONFIG, model, store, tmp_path / "live")
    in_order = {"shuffled": False, "ahead": False}
    monkeypatch.setattr(
        sources,
        "StoreSource",
        lambda *args, **options: cached.StoreSource(*args, **{**options, **in_order}),
    )
    monkeypatch.setattr(model, "capture", None)  # the model is not run
    from_disk = train(CONFIG, model, store, tmp_path / "disk", activations=kept)
    assert same(weights(live), weights(from_disk))
    assert live.summary["input_scale"] == from_disk.summary["input_scale"]


def test_a_run_from_a_store_that_was_interrupted_goes_on_to_the_same_weights(
    kept, model, store, tmp_path, monkeypatch
):
    whole = train(CONFIG, model, store, tmp_path / "whole", activations=kept)
    served = cached.StoreSource.__iter__

    def dies(source):
        for number, batch in enumerate(served(source)):
            if number == 23:
                raise KeyboardInterrupt
            yield batch

    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(cached.StoreSource, "__iter__", dies)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, model, store, out, activations=kept, checkpoint_seconds=0.0)
    steps = []
    write = module.RunLog.write
    monkeypatch.setattr(
        module.RunLog, "write", lambda log, **line: steps.append(line["step"]) or write(log, **line)
    )
    again = train(CONFIG, model, store, out, activations=kept)
    assert steps[0] == 25
    assert same(weights(whole), weights(again))


def test_a_suite_reads_its_sites_from_a_store(kept, model, store, tmp_path):
    suite = train_suite(CONFIG, SITES, model, store, tmp_path / "suite", activations=kept)
    for site in SITES:
        alone = dataclasses.replace(CONFIG, site=site)
        run = train(alone, model, store, tmp_path / site, activations=kept)
        assert run.summary["dictionaries"]["topk"]["fvu"] < 1
        assert set(weights(run)) == set(
            load_file(suite.path / site / "topk" / "weights.safetensors")
        )


def test_activations_of_another_model_or_other_tokens_are_refused(kept, model, store, tmp_path):
    torch.manual_seed(1)
    config = GPT2Config(**model.model.config.to_diff_dict())
    other = LanguageModel(GPT2LMHeadModel(config), store.tokenizer, name="other")
    with pytest.raises(ConfigError, match=r"another model .*`random`.*monosem capture"):
        train(CONFIG, other, store, tmp_path / "a", activations=kept)
    damaged = ActivationStore.open(kept.path)
    damaged.config = {**kept.config, "tokens": "0123456789abcdef"}
    with pytest.raises(ConfigError, match="another token store"):
        train(CONFIG, model, store, tmp_path / "a", activations=damaged)


def test_a_site_that_is_not_in_the_store_is_refused(kept, model, store, tmp_path):
    wrong = dataclasses.replace(CONFIG, site="blocks.0.hook_mlp_out")
    with pytest.raises(UnknownNameError, match="Unknown site in"):
        train(wrong, model, store, tmp_path / "a", activations=kept)


def test_an_objective_that_needs_the_model_is_refused(kept, model, store, tmp_path):
    wrong = dataclasses.replace(CONFIG, objective=ObjectiveConfig(kind="kl"))
    with pytest.raises(ConfigError, match="holds single tokens"):
        train(wrong, model, store, tmp_path / "a", activations=kept)


@pytest.fixture(scope="module")
def folder(model, store, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model"
    model.model.save_pretrained(path)
    store.tokenizer.save_pretrained(path)
    return path


def test_capture_then_train_from_the_command_line(folder, store, tmp_path, capsys):
    where = ["--model", str(folder), "--tokens", str(store.path), "--device", "cpu"]
    acts = ["--out", str(tmp_path / "acts")]
    chosen = ["--sites", "blocks.*.hook_{resid_post,mlp_out}", "--n-tokens", "4000"]
    assert cli.main(["capture", *where, *acts, *chosen]) == 0
    assert "4,000 tokens in int8" in capsys.readouterr().out
    assert cli.main(["capture", *where, *acts, *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["widths"]) == {"blocks.0.hook_resid_post", "blocks.0.hook_mlp_out"}
    assert found["bytes_per_value"] < 2.1  # of 16 channels: four bytes a vector, twelve a token
    assert max(found["fvu"].values()) < 1e-3
    words = "--n-tokens 1024 --batch-size 128 --buffer-tokens 1024 --matmul fp32 --n-latents 32"
    site = ["--site", "blocks.0.hook_mlp_out", "--k", "4"]
    out = ["--activations", str(tmp_path / "acts"), "--out", str(tmp_path / "run")]
    assert cli.main(["train", *where, *out, *words.split(), *site]) == 0
    assert "1,024 tokens" in capsys.readouterr().out
    measure = "--n-loss-tokens 200 --n-mean-tokens 200 --n-density-tokens 400 --no-language-model"
    path = ["--out", str(tmp_path / "e")]
    assert cli.main(["evaluate", str(tmp_path / "run"), *path, *measure.split()]) == 0


@pytest.mark.slow
def test_a_run_from_a_store_killed_at_random_moments_ends_with_the_same_weights(
    kept, killed, model, store, tmp_path
):
    longer = dataclasses.replace(CONFIG, n_tokens=128 * 100)
    killed(longer, tmp_path / "killed", activations=kept)
    whole = train(longer, model, store, tmp_path / "whole", activations=kept)
    assert same(weights(whole), weights(TrainingRun.open(tmp_path / "killed")))
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}
