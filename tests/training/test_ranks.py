"""Several ranks leave what one process leaves, whatever they share out."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monosem.activations import capture
from monosem.activations.capture import CaptureSource
from monosem.core import artifact
from monosem.core.errors import ConfigError, RankLostError
from monosem.dictionaries.base import architecture
from monosem.dictionaries.batch_topk import BatchTopKConfig
from monosem.dictionaries.gated import GatedConfig
from monosem.dictionaries.jumprelu import JumpReLUConfig
from monosem.dictionaries.matryoshka import MatryoshkaConfig
from monosem.dictionaries.p_anneal import PAnnealConfig
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.runtime import distributed
from monosem.runtime.distributed import World, joined
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training import trainer
from monosem.training.objectives import ObjectiveConfig
from monosem.training.run import TrainingRun
from monosem.training.sharing import sharing_of
from monosem.training.trainer import TrainConfig, train, train_suite

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
SITE = "blocks.0.mlp.hook_post"
TOPK = TopKConfig(n_latents=48, k=4, aux_weight=0.5)
BATCH_TOPK = BatchTopKConfig(n_latents=48, k=4, aux_weight=0.5)
CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TOPK, BATCH_TOPK),
    n_tokens=128 * 30,
    batch_size=128,
    buffer_tokens=1024,
    dead_after_share=0.05,  # so that some die, and are taught
    matmul="fp32",
    log_every=5,
)
KINDS = (
    TopKConfig(n_latents=48, k=3, multi_weight=0.125, aux_fit=False, aux_weight=0.5),
    MatryoshkaConfig(n_latents=48, k=4),
    ReLUConfig(n_latents=48, l0=6.0, resample_at=(0.3, 0.6), resample_window=0.1),
    PAnnealConfig(n_latents=48, l0=6.0),
    JumpReLUConfig(n_latents=48, l0=6.0),
    GatedConfig(n_latents=48, l0=6.0),
)


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "weights.safetensors")


def assert_near(one: Path, other: Path, names, *, tolerance: float = 2e-4) -> None:
    """Assert that two runs left the same dictionaries and logs, up to rounding that steps have grown."""
    for name in names:
        mine, theirs = weights(one, name), weights(other, name)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            torch.testing.assert_close(
                value,
                theirs[key],
                atol=tolerance,
                rtol=tolerance,
                msg=lambda m, k=key, n=name: f"{n} {k} {m}",
            )
    first, second = (TrainingRun.open(path).log for path in (one, other))
    assert len(first) == len(second) > 3
    for mine, theirs in zip(first, second, strict=True):
        assert (mine["step"], mine["epoch"]) == (theirs["step"], theirs["epoch"])
        for name in names:
            assert mine[name]["n_dead"] == theirs[name]["n_dead"]
            for key, value in mine[name].items():
                assert value == pytest.approx(theirs[name][key], rel=1e-3, abs=1e-5), (name, key)


@pytest.fixture
def trained(on_ranks, model, store):
    """`trained(config, out, parallel)`: what two ranks leave there."""

    def train_on(config, out, parallel, n=2, *, store=store, **options):
        def work(rank):
            with joined() as world:
                train(config, model, store, out, world=world, parallel=parallel, **options)
            return "done"

        assert on_ranks(n, work) == ["done"] * n
        return out

    return train_on


@pytest.fixture(scope="module")
def alone(model, store, tmp_path_factory) -> Path:
    return train(CONFIG, model, store, tmp_path_factory.mktemp("alone") / "run").path


def test_two_ranks_that_share_out_rows_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "data")
    assert_near(alone, out, CONFIG.names)
    assert any(line["topk"]["n_dead"] for line in TrainingRun.open(out).log), "nobody died"
    made = artifact.read(out, "training run").config["machine"]
    assert (made["ranks"], made["parallel"]) == (2, "data")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_kind_can_share_out_rows(trained, model, store, tmp_path):
    config = dataclasses.replace(CONFIG, dictionaries=KINDS, n_tokens=128 * 8, log_every=2)
    one = train(config, model, store, tmp_path / "one").path
    out = trained(config, tmp_path / "two", "data")
    assert_near(one, out, config.names)


def test_two_ranks_that_share_out_latents_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "latents")
    assert_near(alone, out, CONFIG.names)
    made = artifact.read(out, "training run").config["machine"]
    assert (made["ranks"], made["parallel"]) == (2, "latents")


@pytest.fixture(scope="module")
def repeated(store, tmp_path_factory) -> TokenStore:
    """Six documents that are there twenty times each, so that a batch has most of its rows twice."""
    folder = tmp_path_factory.mktemp("repeated")
    for i in range(120):
        (folder / f"{i}.txt").write_text(" ".join(f"the {w} {i % 6}." for w in WORDS * 20))
    store.tokenizer.save_pretrained(folder / "tokenizer")
    config = TokensConfig(
        corpora=(str(folder),), tokenizer=str(folder / "tokenizer"), context=store.context
    )
    return build_token_store(config, folder / "tokens")


@pytest.mark.parametrize(
    ("kind", "parallel"),
    [
        ("batch_topk", "data"),
        ("batch_topk", "latents"),
        pytest.param("matryoshka", "data", marks=pytest.mark.slow),
    ],
)
def test_of_equal_rows_ranks_keep_those_that_one_process_keeps(
    kind, parallel, trained, model, repeated, tmp_path
):
    dictionary = architecture(kind).config_type(n_latents=96, k=7)
    config = dataclasses.replace(CONFIG, dictionaries=(dictionary,), n_tokens=128 * 20, log_every=4)
    one = train(config, model, repeated, tmp_path / "one").path
    two = trained(config, tmp_path / "two", parallel, store=repeated)
    assert_near(one, two, config.names, tolerance=2e-5)


def test_two_ranks_that_share_out_a_sweep_leave_what_one_process_leaves(alone, trained, tmp_path):
    out = trained(CONFIG, tmp_path / "run", "sweep")
    for name in CONFIG.names:
        mine, theirs = weights(alone, name), weights(out, name)
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    whole, parts = (TrainingRun.open(path) for path in (alone, out))
    without = [
        [{k: v for k, v in x.items() if k != "seconds"} for x in r.log] for r in (whole, parts)
    ]
    assert without[0] == without[1]


def stops_after(n_steps: int, monkeypatch) -> None:
    """Every rank is told to stop after so many steps, the first one somewhat earlier than the others."""
    done: list[int] = []
    learn = trainer._Training._learn

    def counted(self, batch, crew):
        learn(self, batch, crew)
        done.append(1)
        if len(done) == n_steps + self.world.rank:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer._Training, "_learn", counted)


MORE = [("data", "alone"), ("alone", "latents"), ("sweep", "data")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("latents", "alone"),
        ("alone", "data"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE),
    ],
)
def test_an_interrupted_run_goes_on_on_another_number_of_ranks(
    before, after, alone, on_ranks, model, store, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def run(kind):
        def work(rank):
            with joined() as world:
                try:
                    train(
                        CONFIG,
                        model,
                        store,
                        out,
                        world=world,
                        parallel="data" if kind == "alone" else kind,
                    )
                except KeyboardInterrupt:
                    return "stopped"
            return "done"

        return set(on_ranks(1 if kind == "alone" else 2, work))

    with monkeypatch.context() as patch:
        stops_after(13, patch)
        assert run(before) == {"stopped"}
    assert not out.exists()
    assert run(after) == {"done"}
    assert_near(alone, out, CONFIG.names)
    assert not out.with_name("run.checkpoint").exists()


@pytest.mark.slow
def test_who_is_lost_is_said_and_the_run_goes_on_from_its_checkpoint(
    alone, on_ranks, model, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
    out = tmp_path / "run"
    learn = trainer._Training._learn

    def killed(self, batch, crew):
        learn(self, batch, crew)
        if self.world.rank == 1 and self.step == 17:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(rank):
        try:
            with joined() as world:
                options = {"checkpoint_seconds": 0.0, "world": world, "parallel": "data"}
                train(CONFIG, model, store, out, **options)
        except RankLostError as error:
            return str(error)
        return "done"

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_learn", killed)
        said, nothing = on_ranks(2, work)
    assert nothing is None
    assert "Rank 1 of 2 has ended" in said
    assert "Run the same command again: it goes on from the last checkpoint" in said
    assert on_ranks(2, work) == ["done", "done"]
    assert_near(alone, out, CONFIG.names)


def test_ranks_share_out_the_passes_of_the_model_and_see_the_same_stream(
    on_ranks, model, store, monkeypatch
):
    monkeypatch.setattr(capture, "PASS_TOKENS", 64)
    whole = CaptureSource(model, store, SITE, batch_size=64, buffer_tokens=512)
    batches = [batch for batch, _ in zip(whole, range(20), strict=False)]
    sample = whole.sample(700)
    asked: list[int] = []
    captures = model.captures

    def counted(passes, sites):
        passes = list(passes)
        asked.append(sum(tokens.numel() for tokens in passes))
        return captures(iter(passes), sites)

    def work(rank):
        with joined() as world:
            model.captures = counted
            own = CaptureSource(
                model, store, SITE, batch_size=64, buffer_tokens=512, world=world.beside()
            )
            for batch, theirs in zip(own, batches, strict=False):
                assert torch.equal(batch.x, theirs.x)
                assert torch.equal(batch.rows, theirs.rows)
            assert torch.equal(own.sample(700).x, sample.x)
        return sum(asked)

    first, second = on_ranks(2, work)
    assert abs(first - second) <= 0.1 * first, "one rank ran the model more often than the other"


def test_what_cannot_be_shared_out_is_refused_at_the_door(model, store, tmp_path):
    two, change = World(0, 2), dataclasses.replace
    with pytest.raises(ConfigError, match=r"among 3 ranks. Choose a `batch_size` of 126"):
        sharing_of("data", CONFIG, World(0, 3))
    with pytest.raises(ConfigError, match="share out 2 dictionaries"):
        sharing_of("sweep", CONFIG, World(0, 3))
    with pytest.raises(
        ConfigError, match=r"`relu` cannot be shared out.*those of topk, batch_topk can"
    ):
        sharing_of("latents", change(CONFIG, dictionaries=(ReLUConfig(n_latents=48),)), two)
    with pytest.raises(ConfigError, match="2 ranks have 3 each, fewer than `k` 4"):
        sharing_of("latents", change(CONFIG, dictionaries=(TopKConfig(n_latents=6, k=4),)), two)
    with pytest.raises(ConfigError, match="`multi_weight`"):
        sharing_of("latents", change(CONFIG, dictionaries=KINDS[:1]), two)
    looking = change(CONFIG, objective=ObjectiveConfig(kind="kl"))
    with pytest.raises(ConfigError, match="whole contexts"):
        sharing_of("data", looking, two)
    assert sharing_of("sweep", looking, two).kind == "sweep"


def test_auto_shares_out_dictionaries_then_latents_then_rows():
    two, change = World(0, 2), dataclasses.replace
    assert sharing_of("auto", CONFIG, World()).kind == "alone"
    assert sharing_of("auto", CONFIG, two).kind == "sweep"
    assert sharing_of("auto", CONFIG, two, n_sites=2).kind == "sweep"
    assert sharing_of("auto", change(CONFIG, dictionaries=(TOPK,)), two).kind == "data"
    wide = (change(TOPK, n_latents=1024),)
    assert sharing_of("auto", change(CONFIG, dictionaries=wide), two).kind == "latents"
    assert (
        sharing_of("auto", change(CONFIG, dictionaries=(ReLUConfig(n_latents=1024),)), two).kind
        == "data"
    )


@pytest.mark.slow
def test_a_suite_is_shared_out_too(on_ranks, model, store, tmp_path):
    sites = (SITE, "blocks.0.hook_resid_post")
    short = dataclasses.replace(CONFIG, n_tokens=128 * 8, log_every=2)
    one = train_suite(short, sites, model, store, tmp_path / "one")

    def work(rank):
        with joined() as world:
            for kind in ("sweep", "latents"):
                options = {"world": world, "parallel": kind}
                train_suite(short, sites, model, store, tmp_path / kind, **options)
        return "done"

    assert on_ranks(2, work) == ["done", "done"]
    for kind in ("sweep", "latents"):
        for site in sites:
            assert_near(one.folder(site), tmp_path / kind / site, CONFIG.names)
