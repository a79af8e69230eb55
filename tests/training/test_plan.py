"""What a run is said to need, against what can be counted by hand and what it then needs."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from monosem import cli
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.training import calibration
from monosem.training.calibration import Calibration
from monosem.training.objectives import ObjectiveConfig
from monosem.training.plan import plan
from monosem.training.trainer import TrainConfig, train

SITE = "blocks.0.mlp.hook_post"
WIDTH, LATENTS, BATCH = 24, 48, 128
CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TopKConfig(n_latents=LATENTS, k=4), ReLUConfig(n_latents=LATENTS, l1=0.01)),
    n_tokens=BATCH * 40,
    batch_size=BATCH,
    buffer_tokens=1024,
    matmul="fp32",
)


@pytest.fixture(scope="module")
def made(model, store):
    return plan(CONFIG, model, store, seconds=0.5)


def test_sizes_are_those_counted_by_hand(made, model, store):
    parameters = 2 * WIDTH * LATENTS + LATENTS + WIDTH
    assert made.parameters == {"topk": parameters, "relu": parameters}
    assert made.model_bytes == 4 * sum(p.numel() for p in model.model.parameters())
    # weights, gradients and two moments of both; a block of 32 contexts; a batch of latents
    block = 32 * store.context * WIDTH * 4
    assert made.training_bytes == 2 * 16 * parameters + block + 4 * BATCH * LATENTS
    assert made.output_bytes == 2 * 4 * parameters
    assert made.store_bytes["bfloat16"] == store.n_tokens("train") * (2 * WIDTH + 12)
    assert (made.n_steps, made.n_tokens) == (40, 40 * BATCH)


def test_operations_are_those_counted_by_hand(made, model, store):
    d = model.d_model
    # q, k, v and the output, both sides of the MLP; two a weight, and attention's two products
    weights = 4 * d * d + 2 * d * WIDTH
    assert made.flops_per_token["model"] == 2 * weights + 4 * store.context * d
    # of topk the encoder alone is a product; of relu encoder, decoder and both gradients
    product = 2 * WIDTH * LATENTS
    assert product <= made.flops_per_token["dictionaries"] - 5 * product <= 2 * product


def test_an_objective_that_looks_at_the_model_counts_all_of_it_and_gradients(made, model, store):
    looking = dataclasses.replace(CONFIG, objective=ObjectiveConfig(kind="kl"), n_tokens=BATCH)
    found = plan(looking, model, store, seconds=0.1).flops_per_token["model"]
    unembedding = 2 * model.d_model * store.vocab_size
    assert found == 3 * (made.flops_per_token["model"] + unembedding)


def test_only_blocks_up_to_the_last_site_count(store):
    config = GPT2Config(
        vocab_size=store.vocab_size, n_positions=32, n_embd=16, n_layer=3, n_head=2, n_inner=24,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    deep = LanguageModel(GPT2LMHeadModel(config), store.tokenizer, name="deep")
    first, second = (
        plan(dataclasses.replace(CONFIG, site=site), deep, store, seconds=0.1)
        for site in ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    )
    assert second.flops_per_token["model"] == 2 * first.flops_per_token["model"]


def test_a_suite_has_parameters_at_each_site(model, store):
    sites = [SITE, "blocks.0.hook_resid_post"]
    made = plan(CONFIG, model, store, sites=sites, seconds=0.1)
    assert set(made.parameters) == {f"{site}/{name}" for site in sites for name in CONFIG.names}
    assert made.parameters[f"{sites[1]}/topk"] == 2 * 16 * LATENTS + LATENTS + 16


def test_the_command_line_shows_the_plan_and_writes_nothing(model, store, tmp_path, capsys):
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)
    store.tokenizer.save_pretrained(folder)
    words = f"--model {folder} --tokens {store.path} --out {tmp_path / 'run'} --n-tokens 2048"
    words += (
        " --batch-size 128 --buffer-tokens 1024 --matmul fp32 --device cpu --n-latents 32 --k 4"
    )
    assert cli.main(["train", *words.split(), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "1,592 parameters" in shown
    assert "memory: training" in shown
    assert cli.main(["train", *words.split(), "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == {"topk": 1592}
    assert not (tmp_path / "run").exists()


def test_short_runs_are_written_beside_the_run_and_leave_nothing(
    model, store, tmp_path, monkeypatch
):
    places = []
    write = calibration.train

    def noted(config, model, store, out, **options):
        places.append(out)
        return write(config, model, store, out, **options)

    monkeypatch.setattr(calibration, "train", noted)
    few = dataclasses.replace(CONFIG, n_tokens=BATCH * 4)
    plan(few, model, store, out=tmp_path / "not" / "yet" / "run", seconds=0.1)
    assert places
    assert all(place.parents[1] == tmp_path for place in places)
    assert list(tmp_path.iterdir()) == []


MEASURED = """
import json, resource, sys
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore
from monosem.training.plan import plan
from monosem.training.trainer import TrainConfig, train
from monosem.dictionaries.topk import TopKConfig

what, model, tokens, out = sys.argv[1:]
model, store = LanguageModel.load(model, device="cpu"), TokenStore.open(tokens)
config = TrainConfig(
    site="blocks.0.mlp.hook_post", dictionaries=(TopKConfig(n_latents=2**13, k=8),), matmul="fp32",
    n_tokens=2**14, batch_size=512, buffer_tokens=2**14,
)
if what == "plan":
    print(plan(config, model, store, out=out, seconds=1.0).peak_bytes)
else:
    train(config, model, store, out)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
def test_memory_is_near_what_a_process_of_its_own_takes(store, tmp_path):
    config = GPT2Config(
        vocab_size=store.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=2, n_inner=768,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    store.tokenizer.save_pretrained(tmp_path / "model")
    found = {}
    for what in ("plan", "train"):
        words = [what, str(tmp_path / "model"), str(store.path), str(tmp_path / "run")]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *words],
            env={**os.environ, "MONOSEM_PROGRESS": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        found[what] = int(done.stdout)
    assert 0.7 < found["plan"] / found["train"] < 1.3, found


@pytest.mark.slow
def test_the_estimate_is_near_what_the_run_takes(model, store, tmp_path):
    """Of the processor's time, which other work on the machine does not stretch twofold."""
    longer, ratios = dataclasses.replace(CONFIG, n_tokens=BATCH * 800), []
    while len(ratios) < 3 and not (ratios and abs(ratios[-1] - 1) < 0.3):
        made = plan(longer, model, store, seconds=2.0, clock=time.process_time)
        started = time.process_time()
        train(longer, model, store, tmp_path / str(len(ratios)))
        ratios.append(made.seconds / (time.process_time() - started))
    assert abs(ratios[-1] - 1) < 0.3, ratios


class Clock:
    """Counts what is done: `each` second a step, `once` a run, `row` for a row that is sampled alone."""

    def __init__(self, *, each, once, row, stretched=0.0) -> None:
        self.each, self.once, self.row, self.stretched = each, once, row, stretched
        self.now, self.runs = 0.0, []

    def __call__(self) -> float:
        return self.now

    def train(self, config, *_, **__) -> None:
        n = config.n_steps
        self.runs.append(n)
        apart = max(
            0, min(n * BATCH, calibration.SAMPLE_ROWS) - min(n * BATCH, config.buffer_tokens)
        )
        self.now += self.once + self.each * n + self.row * apart
        self.now += self.stretched if len(self.runs) == 2 else 0.0


class Rows:
    """A source whose rows beyond a block cost time."""

    def __init__(self, clock, block) -> None:
        self.clock, self.block = clock, block

    def sample(self, n):
        self.clock.now += self.clock.row * max(0, n - self.block)
        return range(n)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("each", "once", "row"),
    [(0.02, 1.0, 0.0), (0.02, 1.0, 1e-4), (1e-3, 0.1, 1e-5), (5.0, 9.0, 1e-3)],
)
def test_the_estimate_is_exact_where_every_step_takes_the_same(
    each, once, row, model, store, monkeypatch
):
    clock, long = (
        Clock(each=each, once=once, row=row),
        dataclasses.replace(CONFIG, n_tokens=BATCH * 9000),
    )
    monkeypatch.setattr(calibration, "train", clock.train)
    monkeypatch.setattr(
        Calibration, "_source", lambda self, n: Rows(clock, self.config.buffer_tokens)
    )
    made = Calibration(long, model, store, (), None, None, None, clock)
    found = made.seconds(10.0)
    assert clock.now < 60 or each == 5.0, "an estimate takes seconds"
    clock.now = 0.0
    clock.train(long)
    assert found == pytest.approx(clock.now, rel=1e-6)


@pytest.mark.parametrize("off", [0.0, 0.7, 1.3, 10.0])
def test_a_row_that_is_timed_wrongly_does_not_spoil_the_estimate(off, model, store, monkeypatch):
    # A step captures its rows too: it takes longer than they do.
    clock = Clock(each=2e-3 + 1e-4 * BATCH, once=0.1, row=1e-4)
    long = dataclasses.replace(CONFIG, n_tokens=BATCH * 100_000)
    monkeypatch.setattr(calibration, "train", clock.train)
    monkeypatch.setattr(Calibration, "_of_row", lambda self: off * clock.row)
    found = Calibration(long, model, store, (), None, None, None, clock).seconds(10.0)
    clock.now = 0.0
    clock.train(long)
    assert found == pytest.approx(clock.now, rel=0.35 if 0.5 < off < 2 else 1.1)
    assert found > 0.45 * clock.now


def test_a_short_run_that_other_work_stretched_is_made_again(model, store, monkeypatch):
    clock = Clock(each=0.01, once=0.1, row=0.0, stretched=50.0)
    monkeypatch.setattr(calibration, "train", clock.train)
    long = dataclasses.replace(CONFIG, n_tokens=BATCH * 9000)
    found = Calibration(long, model, store, (), None, None, None, clock).seconds(1.0)
    assert found == pytest.approx(0.1 + 0.01 * 9000)
    assert len(clock.runs) == 5


def test_folders_of_runs_that_were_killed_are_removed_and_those_in_use_stay(model, store, tmp_path):
    left, used = tmp_path / ".plan-1-0123abcd", tmp_path / ".plan-2-89ef0123"
    (left / "run.checkpoint").mkdir(parents=True)
    (left / ".writer").write_text("1\n")
    mine = tmp_path / ".plan-of-mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    (tmp_path / ".plan-notes.md").write_text("keep")
    (tmp_path / ".plan-3-0123abcd").symlink_to(mine)
    (tmp_path / ".plan-4-0123abcd").mkdir()
    strangers = {".plan-of-mine", ".plan-notes.md", ".plan-3-0123abcd", ".plan-4-0123abcd"}
    held = f"from monosem.runtime.lock import only_writer\nwith only_writer(Path({str(used)!r})):\n"
    script = f"from pathlib import Path\n{held}    print('held', flush=True)\n    input()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        few = dataclasses.replace(CONFIG, n_tokens=BATCH * 4)
        plan(few, model, store, out=tmp_path / "run", seconds=0.1)
        assert {path.name for path in tmp_path.iterdir()} == {used.name, *strangers}
        assert [path.name for path in mine.iterdir()] == ["notes.txt"]
        other.communicate("\n")
