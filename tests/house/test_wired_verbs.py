"""Wirings and objectives from the command line: trained, measured, described and reported together."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.cli import evaluate, features, report
from monosem.cli import train as train_cli
from monosem.training.run import TrainingRun

IN = ("blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized")
OUT = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
STREAM = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
WIRED = {
    "clt": ("--wiring", "clt", "--site", *IN, "--target", *OUT),
    "crosscoder": ("--site", *STREAM),
    "skip": ("--site", IN[1], "--target", OUT[1], "--skip"),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(store, tmp_path_factory) -> list[Path]:
    """Two random models of two layers that read the store, as folders."""
    made: list[Path] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=store.vocab_size, n_positions=store.context, n_embd=16, n_layer=2, n_head=2
        )
        path = tmp_path_factory.mktemp("model") / f"m{seed}"
        GPT2LMHeadModel(config).save_pretrained(path)
        store.tokenizer.save_pretrained(path)
        made.append(path)
    return made


def trained(model: Path, store, out: Path, *words: str) -> TrainingRun:
    line = f"--model {model} --tokens {store.path} --out {out} --n-tokens 1024 --batch-size 128"
    line += " --buffer-tokens 1024 --matmul fp32 --device cpu --n-latents 32 --k 4"
    assert train_cli.main([*line.split(), "--architecture", "topk", *words]) == 0
    return TrainingRun.open(out)


def test_dictionaries_of_every_wiring_go_the_whole_way_and_into_one_report(
    folders, store, tmp_path: Path, capsys
) -> None:
    databases: list[str] = []
    for name, words in WIRED.items():
        run = trained(folders[0], store, tmp_path / name, *words)
        assert run["topk"].wiring.kind == {"skip": "transcoder"}.get(name, name)
        own = name if name != "skip" else "skip-of-one"
        said = ["--n-tokens", "600", "--device", "cpu", "--matmul", "fp32"]
        databases.append(str(tmp_path / f"{own}-features"))
        folder = run.folder(run.names[0])
        assert features.main([str(folder), "--out", databases[-1], *said]) == 0
        measured = [str(folder), "--out", str(tmp_path / f"{own}-evaluation"), "--device", "cpu"]
        few = ["--n-loss-tokens", "300", "--n-mean-tokens", "300", "--n-density-tokens", "300"]
        assert evaluate.main([*measured, *few, "--matmul", "fp32"]) == 0
    capsys.readouterr()
    page = tmp_path / "report.html"
    metrics = [str(path) for path in sorted(tmp_path.glob("*-evaluation"))]
    assert report.main([*databases, "--out", str(page), "--metrics", *metrics, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 10_000
    text = page.read_text()
    for site in (IN[1], OUT[1], STREAM[1]):
        assert site in text


@pytest.mark.parametrize("kind", ["kl", "ce"])
def test_an_objective_that_looks_at_the_model_is_asked_for_by_name(
    kind: str, folders, store, tmp_path: Path
) -> None:
    words = ("--site", STREAM[0], "--objective", kind, "--objective-weight", "0.5")
    run = trained(folders[0], store, tmp_path / "run", *words)
    assert run.config.objective.kind == kind
    last = run.log[-1]["topk"]
    assert last[kind] > 0
    assert "mse" in last


def test_a_second_model_is_named_on_the_command_line(folders, store, tmp_path: Path) -> None:
    sites = (STREAM[1], f"second:{STREAM[1]}")
    words = ("--site", *sites, "--second-model", str(folders[1]))
    found = trained(folders[0], store, tmp_path / "run", *words)["topk"]
    assert found.sites_in == sites
    assert found.site_shares().shape == (32, 2)
    assert found.origin.model.count("m0") == found.origin.model.count("m1") == 1
