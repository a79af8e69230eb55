"""A model of GPT-2-small's shape, with GPT-2's tokenizer, through every verb."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.slow
SITE = "blocks.6.hook_resid_post"


@pytest.fixture(scope="module")
def world(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    model = GPT2LMHeadModel(GPT2Config())
    model.save_pretrained(folder / "gpt2-shape")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(data / "tokenizers" / "gpt2" / name, folder / "gpt2-shape" / name)
    text = (data / "corpora" / "wikitext-2" / "valid.txt").read_text("utf-8")
    (folder / "text").mkdir()
    for i in range(24):
        (folder / "text" / f"{i:02}.txt").write_text(text[i * 10_000 : (i + 1) * 10_000], "utf-8")
    return folder


def run(world: Path, *arguments: str) -> tuple[str, float, float]:
    """Run a verb; return its stdout, its seconds and its peak memory in GB."""
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", "import sys; from monosem.cli import main; sys.exit(main())"]
    with (world / "out").open("w") as out, (world / "err").open("w") as err:
        process = subprocess.Popen(
            [*command, *arguments], cwd=world, stdout=out, stderr=err, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (world / "err").read_text()[-2000:]
    return (world / "out").read_text(), time.perf_counter() - start, usage.ru_maxrss / 2**20


def test_every_verb_takes_a_model_of_gpt2s_shape(world: Path) -> None:
    steps = {
        "tokens": ["tokens", "--corpora", "text", "--tokenizer", "gpt2-shape", "--out", "tokens"],
        "train": ["train", "--model", "gpt2-shape", "--tokens", "tokens", "--site", SITE]
        + ["--dictionaries", "topk", "relu", "--n-latents", "6144", "--k", "32"]
        + ["--n-tokens", "16384", "--batch-size", "2048", "--buffer-tokens", "16384"]
        + ["--out", "run"],
        "evaluate": ["evaluate", "run", "--out", "evaluation", "--n-loss-tokens", "1024"]
        + ["--n-mean-tokens", "2048", "--n-density-tokens", "8192", "--json"],
        "features": ["features", "run/topk", "--tokens", "tokens", "--n-tokens", "16384"]
        + ["--out", "features"],
        "report": ["report", "features", "--metrics", "evaluation", "--out", "report.html"],
    }
    table = {}
    for verb, arguments in steps.items():
        out, seconds, gigabytes = run(world, *arguments)
        table[verb] = (round(seconds, 1), round(gigabytes, 2))
        if verb == "evaluate":
            results = json.loads(out)
    print("\nseconds and peak GB:", json.dumps(table))
    assert set(results["dictionaries"]) >= {"topk", "relu", "neurons"}
    assert results["dictionaries"]["topk"]["l0"] <= 32
    assert 0 < results["dictionaries"]["topk"]["fvu"] < 1.5
    page = (world / "report.html").read_text("utf-8")
    assert SITE in page
    assert max(gigabytes for _, gigabytes in table.values()) < 8
