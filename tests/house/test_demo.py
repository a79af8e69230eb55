"""The demo on a small model: what it leaves, that a rerun uses it again, and that it survives SIGKILL."""

import json
import random
from pathlib import Path

import pytest

SIZES = ["--n-latents", "64", "--n-tokens", "20000", "--n-density-tokens", "10000"]
STAGES = ["tokens", "train", "features topk", "features neurons", "evaluate", "report"]
MEASURES = [
    "fvu fvu_special fvu_p99 l0 delta_ce loss_recovered_zero loss_recovered_mean gap_zero gap_mean",
    "n_dead n_ultralow ultralow_below n_density_tokens n_latents",
]


@pytest.fixture(scope="module")
def demo(world) -> list[str]:
    """The command of a small demo."""
    read = ["--model", str(world.home / "model/model"), "--corpus", str(world.home / "corpus")]
    return ["demo", *read, "--device", "cpu", *SIZES]


@pytest.fixture(scope="module")
def made(demo: list[str], command_line, tmp_path_factory: pytest.TempPathFactory):
    """A folder in which the demo ran once, and what it said."""
    place = tmp_path_factory.mktemp("demo")
    done = command_line.run(demo, place)
    assert done.code == 0, done.err
    return place, done


def stamps(place: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in place.rglob("config.json")}


def test_it_leaves_the_metrics_of_the_issue(made) -> None:
    metrics = json.loads((made[0] / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["language_model"]) == {"loss", "unigram", "bigram", "trigram"}
    assert {"topk", "relu", "neurons"} <= set(metrics["dictionaries"])
    for name in ("topk", "relu", "neurons"):
        assert set(" ".join(MEASURES).split()) <= set(metrics["dictionaries"][name]), name
    assert list(metrics["seconds"]) == STAGES
    assert all(value >= 0 for value in metrics["seconds"].values())


def test_it_says_what_it_found_and_how_to_go_on(made) -> None:
    place, done = made
    assert "10 features of topk, chosen for their evidence" in done.out
    assert "20 drawn at random by seed 0, failures included" in done.out
    assert (place / "runs/demo/report.html").resolve().as_uri() in done.out
    assert "\n  monosem explore runs/demo/features/topk runs/demo/features/neurons\n" in done.out
    assert "<bdi" not in done.out, "markup in a terminal"
    assert "\x1b" not in done.out, "colours where nobody sees them"


def test_a_rerun_uses_every_finished_stage_again(made, demo: list[str], command_line) -> None:
    place, _ = made
    before = stamps(place)
    metrics = json.loads((place / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    done = command_line.run(demo, place)
    assert done.code == 0, done.err
    assert stamps(place) == before
    assert done.out.count("is used again") == len(STAGES) - 1
    again = json.loads((place / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    for part in ("language_model", "dictionaries"):
        assert again[part] == metrics[part]


@pytest.mark.slow
def test_fresh_makes_every_stage_anew_and_json_prints_the_metrics(
    made, demo: list[str], command_line
) -> None:
    place, _ = made
    before = stamps(place)
    done = command_line.run([*demo, "--fresh", "--json"], place)
    assert done.code == 0, done.err
    after = stamps(place)
    assert set(after) == set(before)
    assert all(after[path] != before[path] for path in before)
    written = json.loads((place / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    assert json.loads(done.out) == written


@pytest.mark.slow
def test_it_can_train_its_own_language_model(demo: list[str], command_line, tmp_path: Path) -> None:
    done = command_line.run([*demo, "--pretrain", "--pretrain-tokens", "20000"], tmp_path)
    assert done.code == 0, done.err
    seconds = json.loads((tmp_path / "runs/demo/metrics.json").read_text("utf-8"))["seconds"]
    assert list(seconds) == ["tokens", "pretrain", *STAGES[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(4))
def test_killed_twice_it_finishes(
    repetition: int, made, demo: list[str], command_line, randomness: random.Random, tmp_path: Path
) -> None:
    for _ in range(2):
        after = randomness.uniform(0, made[1].seconds)
        print(f"killed after {after:.3f} s")
        command_line.kill(demo, tmp_path, after)
    done = command_line.run(demo, tmp_path)
    assert done.code == 0, done.err
    names = {path.relative_to(made[0]) for path in stamps(made[0])}
    assert {path.relative_to(tmp_path) for path in stamps(tmp_path)} == names
    left = [p for p in (tmp_path / "runs").rglob("*") if "partial" in p.name or "check" in p.name]
    assert left == []
