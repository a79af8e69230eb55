"""A model of GPT-2-small's shape, with GPT-2's tokenizer, through every verb: seconds and memory."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from monosem.features.database import FeatureDatabase

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("large")]  # one worker makes it once
SITE = "blocks.6.hook_resid_post"
VOCAB = 50_257
MODEL = "gpt2-shape"
SMALL = ["--device", "cpu", "--tokens", "tokens"]
ROAD = {
    "tokens": ["--corpora", "text", "--tokenizer", MODEL, "--out", "tokens", "--json"],
    "train": ["--model", MODEL, *SMALL, "--site", SITE, "--architecture", "topk", "relu"]
    + ["--n-latents", "3072", "--k", "32", "--n-tokens", "8192", "--batch-size", "1024"]
    + ["--out", "run", "--json"],
    "evaluate": ["run", *SMALL, "--n-loss-tokens", "512", "--n-mean-tokens", "1024"]
    + ["--n-density-tokens", "2048", "--batch-tokens", "1024", "--out", "evaluation", "--json"],
    "features": ["run/topk", *SMALL, "--n-tokens", "8192", "--out", "features", "--json"],
    "report": ["features", "--metrics", "evaluation", "--out", "report.html"],
    "explore": ["features", "--metrics", "evaluation", "--port", "0"],
    "pretrain": ["tiny", "--context", "128", *SMALL, "--n-tokens", "2048"]
    + ["--batch-contexts", "4", "--keep-checkpoints", "0", "--out", "small-model", "--json"],
    "demo": ["--model", MODEL, "--corpus", "few", "--device", "cpu", "--n-latents", "256"]
    + ["--n-tokens", "4096", "--n-density-tokens", "2048", "--out", "demo", "--json"],
}
"""The arguments of each verb, in the order in which they need one another."""
MAKE = f"""
import torch
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config()).save_pretrained({MODEL!r})
"""
"""In a process of its own: a child's peak memory counts what its parent held when it was forked."""


@dataclasses.dataclass(frozen=True)
class Done:
    """What a verb said, and what it cost."""

    out: str
    seconds: float
    processor_seconds: float
    gigabytes: float


@pytest.fixture(scope="module")
def home(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the model, some text, and less text for the demo; half a gigabyte, removed after."""
    folder = tmp_path_factory.mktemp("large")
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(data / "tokenizers" / "gpt2" / name, folder / MODEL / name)
    text = (data / "corpora" / "wikitext-2" / "valid.txt").read_text("utf-8")
    for corpus, n_documents, length in (("text", 24, 6_000), ("few", 12, 2_000)):
        (folder / corpus).mkdir()
        for i in range(n_documents):
            part = text[i * length : (i + 1) * length]
            (folder / corpus / f"{i:02}.txt").write_text(part, "utf-8")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def road(home: Path) -> dict[str, Done]:
    """Every verb, run once in a process of its own; on one thread, or on `OMP_NUM_THREADS`."""
    done = {verb: walk(home, verb, arguments) for verb, arguments in ROAD.items()}
    print("\n| verb | seconds | processor seconds | peak GB |\n|---|---|---|---|")
    for verb, d in done.items():
        print(f"| {verb} | {d.seconds:.1f} | {d.processor_seconds:.1f} | {d.gigabytes:.2f} |")
    return done


def walk(home: Path, verb: str, arguments: list[str]) -> Done:
    """Run a verb to its end; `explore` is looked at and interrupted."""
    start = time.perf_counter()
    program = "import sys; from monosem.cli import main; sys.exit(main())"
    with (home / f"{verb}.out").open("w") as out, (home / f"{verb}.err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", program, verb, *arguments],
            cwd=home,
            stdout=out,
            stderr=err,
            env={"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        if verb == "explore":
            try:
                look(home)
            finally:
                process.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    expected = 130 if verb == "explore" else 0  # 128 + SIGINT
    assert process.returncode == expected, f"{verb}: {(home / f'{verb}.err').read_text()[-2000:]}"
    return Done(
        out=(home / f"{verb}.out").read_text("utf-8"),
        seconds=time.perf_counter() - start,
        processor_seconds=usage.ru_utime + usage.ru_stime,
        gigabytes=usage.ru_maxrss / 2**20,
    )


def look(home: Path) -> None:
    """Fetch the list and a feature from the explorer, and keep both pages."""
    limit = time.monotonic() + 120
    while (found := re.search(r"http://\S+", (home / "explore.out").read_text())) is None:
        assert time.monotonic() < limit, (home / "explore.err").read_text()
        time.sleep(0.1)
    for page in ("", "0"):
        with urllib.request.urlopen(f"{found[0]}topk/{page}", timeout=60) as answer:
            assert answer.status == 200
            (home / f"page{page}.html").write_bytes(answer.read())


@pytest.mark.parametrize("verb", ROAD)
def test_every_verb_takes_it_in_little_memory(road: dict[str, Done], verb: str) -> None:
    assert road[verb].gigabytes < 4


def test_the_tokens_are_gpt2s_and_shown_in_their_text(road, home: Path) -> None:
    assert json.loads(road["tokens"].out)["vocab_size"] == VOCAB
    feature = FeatureDatabase.open(home / "features")[0]
    assert max(token for token, _, _ in feature.top_logits + feature.bottom_logits) > 10_000
    for _, window in feature.windows:
        text = (home / window.document.name).read_text("utf-8")
        assert "".join(window.pieces) in text


def test_a_random_model_knows_nothing_and_its_activations_are_explained(road) -> None:
    results = json.loads(road["evaluate"].out)
    assert results["language_model"]["loss"] == pytest.approx(math.log(VOCAB), abs=0.5)
    rows = results["dictionaries"]
    assert set(rows) == {"topk", "relu", "neurons", "neurons_all"}
    assert 31 < rows["topk"]["l0"] <= 32
    assert 0 < rows["topk"]["fvu"] < 1, "eight steps explain something"
    assert rows["topk"]["fvu"] < rows["neurons"]["fvu"]


def test_its_features_are_in_the_report_and_in_the_explorer(road, home: Path) -> None:
    counts = json.loads(road["features"].out)
    assert (counts["n_latents"], counts["site"]) == (3072, SITE)
    assert counts["n_alive"] > 1000
    report = (home / "report.html").read_text("utf-8")
    listing, feature = ((home / f"page{page}.html").read_text("utf-8") for page in ("", "0"))
    assert SITE in report
    assert "3,072" in listing
    assert "promote" in feature.lower()


def test_a_small_model_is_trained_with_its_vocabulary(road) -> None:
    summary = json.loads(road["pretrain"].out)
    assert summary["n_parameters"] > 2 * 32 * VOCAB, "embedding and unembedding"
    assert summary["loss"] < math.log(VOCAB) + 0.5


def test_the_demo_looks_into_it(road, home: Path) -> None:
    metrics = json.loads(road["demo"].out)
    assert {"topk", "relu", "neurons"} <= set(metrics["dictionaries"])
    assert metrics["dictionaries"]["topk"]["l0"] <= 16
    assert metrics["language_model"]["loss"] == pytest.approx(math.log(VOCAB), abs=0.5)
    assert "blocks.0.mlp.hook_post" in (home / "demo/report.html").read_text("utf-8")
