"""Studies: the toy models' figures are made, kept, used again, and say what they should."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem import cli
from monosem.core.errors import ConfigError
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.sample import draw
from monosem.metrics.stream import Place
from monosem.metrics.token_explanations import token_explanations
from monosem.models.language_model import LanguageModel, load_model
from monosem.studies import report
from monosem.studies.report import Figure, Item, Stage
from monosem.studies.toy_models.budget import shared
from monosem.studies.toy_models.phase import by_hand, phase_of
from monosem.studies.toy_models.study import FIGURES
from monosem.studies.toy_models.undertraining import undertraining
from monosem.studies.toy_models.worlds import beside_a_world, firings
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.toy.fitting import failing, measure
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train


def test_the_phases_by_hand_are_those_of_the_paper() -> None:
    """Dense and unimportant: left out; dense and important: alone; rare: shared, whatever its importance."""
    assert by_hand(importance=0.3, density=1.0) == 0
    assert by_hand(importance=3.0, density=1.0) == 1
    assert [by_hand(importance=i, density=0.01) for i in (0.1, 1.0, 10.0)] == [2, 2, 2]
    assert [phase_of(0.1, 0.0), phase_of(1.0, 0.1), phase_of(1.0, 0.9)] == [0, 1, 2]


def test_a_stage_that_is_done_is_not_done_again_and_another_key_does_it_anew(
    tmp_path: Path,
) -> None:
    calls: list[str] = []

    def stage() -> Figure:
        calls.append("done")
        items = (Item(item="<b>", here=0.5, how="by hand", paper=1.0),)
        return Figure(
            name="one",
            title="One & two",
            text="t",
            drawings=("<svg/>",),
            captions=("c",),
            items=items,
        )

    first = report.run_stages({"one": Stage(make=stage, key="key")}, tmp_path)
    assert report.run_stages({"one": Stage(make=stage, key="key")}, tmp_path) == first
    assert len(calls) == 1
    report.run_stages({"one": Stage(make=stage, key="other")}, tmp_path)
    report.run_stages({"one": Stage(make=stage, key="other")}, tmp_path, fresh=True)
    assert len(calls) == 3
    stages = {"one": Stage(make=stage, key="other"), "two": Stage(make=stage, key="k")}
    page = report.write(report.kept(stages, tmp_path), tmp_path, title="T", lead="L").read_text(
        "utf-8"
    )
    assert "One &amp; two" in page and "&lt;b&gt;" in page and "<svg/>" in page
    listed = json.loads((tmp_path / report.REPORT).read_text("utf-8"))
    assert listed == [
        {
            "item": "<b>",
            "paper": 1.0,
            "paper_certainty": "—",
            "here": 0.5,
            "unit": "",
            "how": "by hand",
        }
    ]


def test_a_figure_that_is_no_json_is_refused_in_words(tmp_path: Path) -> None:
    damaged = ("{", "[]", '{"key": "k"}', '{"key": "k", "figure": {"name": "one"}}')
    for text in damaged:
        (tmp_path / "one.figure.json").write_text(text)
        with pytest.raises(ConfigError, match="--fresh"):
            report.kept(
                {"one": Stage(make=lambda: Figure(name="", title="", text=""), key="k")}, tmp_path
            )
    with pytest.raises(ConfigError, match="--fresh"):
        report.run_stages(
            {"one": Stage(make=lambda: Figure(name="", title="", text=""), key="k")}, tmp_path
        )


@pytest.mark.slow
def test_the_verb_makes_every_figure_at_the_smallest_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "toy"
    assert cli.main(["toy", "--scale", "tiny", "--out", str(out), "--json"]) == 0
    items = {i["item"]: i["here"] for i in json.loads(capsys.readouterr().out)}
    assert items["cells whose phase is the one computed by hand (two features)"] > 0.9
    assert items["dimensions per feature, every feature on"] == pytest.approx(1, abs=0.05)
    assert items["features per neuron, cross-entropy, 3 neurons, best of all"] > 1
    assert items["features per neuron, squared error, 3 neurons, best of all"] == 1
    assert items["best MMCS with the truth"] > items["MMCS of as many random directions"] + 0.15
    assert {p.name for p in out.glob("*.figure.json")} == {f"{n}.figure.json" for n in FIGURES}
    assert json.loads((out / "report.json").read_text("utf-8"))


def test_what_needs_a_model_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "worlds"]) == 2
    assert "--dictionary" in capsys.readouterr().err
    assert cli.main(["toy", "phases"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert cli.main(["toy", "--scale", "smal"]) == 2
    assert "Did you mean" in capsys.readouterr().err


@pytest.mark.slow
def test_at_mlp_neurons_directions_are_not_random_and_at_the_residual_stream_they_are(
    tmp_path: Path,
) -> None:
    """What a toy world takes for granted, and where it fails: Bricken's site against Cunningham's."""
    config = TokensConfig(corpora=("python",), tokenizer="1L-a", context=128, max_tokens=400_000)
    store = build_token_store(config, tmp_path / "tokens")
    model = load_model("1L-a")
    failed: dict[str, list[str]] = {}
    for site in ("blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"):
        kinds = (TopKConfig(n_latents=512, k=16),)
        trained = TrainConfig(
            site=site, dictionaries=kinds, n_tokens=150_000, batch_size=512, matmul="fp32"
        )
        run = train(trained, model, store, tmp_path / site)
        dictionary = run[run.names[0]]
        found = measure(firings(dictionary, model, store, site, 8_000), dictionary.W_dec.detach())
        failed[site] = failing(beside_a_world(found, 8_000))
    assert "basis" in failed["blocks.0.mlp.hook_post"]
    assert "basis" not in failed["blocks.0.hook_resid_post"]


@pytest.mark.slow
def test_undertraining_compares_models_and_lengths(
    tmp_path: Path, model: LanguageModel, store: TokenStore
) -> None:
    figure = undertraining(
        {1: model}, store, "blocks.0.hook_resid_post", (2_000, 8_000), tmp_path, n_latents=32, k=4
    )
    items = {i.item: i.here for i in figure.items}
    short, long = (items[f"FVU, model at step 1, {n} tokens"] for n in ("2,000", "8,000"))
    assert isinstance(short, float) and isinstance(long, float) and long < short
    assert figure.captions == (
        "FVU, held out",
        "MMCS across seeds",
        "Score of explanations by tokens",
    )
    (folder,) = tmp_path.glob("step-1-tokens-8000-*")
    run = TrainingRun.open(folder)
    left, right = (run[name].W_dec.detach().double().numpy() for name in run.names)
    cosines = left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)
    best = cosines.max(1)
    assert items["MMCS, model at step 1, 8,000 tokens"] == pytest.approx(best.mean(), abs=1e-5)
    ends = items["interval of MMCS over latents, model at step 1, 8,000 tokens"]
    low, high = (float(end) for end in str(ends).strip("[]").split(", "))
    error = best.std() / 32**0.5
    wanted = (best.mean() - 1.96 * error, best.mean() + 1.96 * error)
    assert error > 0 and (low, high) == pytest.approx(wanted, abs=0.3 * error)
    place = Place(model, store, "blocks.0.hook_resid_post")
    explained = token_explanations(
        draw(run[run.names[0]], place, n_tokens=20_000), store.vocab_size
    )
    said = items["score of explanations by 20 tokens, model at step 1, 8,000 tokens"]
    assert said == str(explained.score) and explained.score.applicable
    again = undertraining(
        {1: model}, store, "blocks.0.hook_resid_post", (2_000, 8_000), tmp_path, n_latents=32, k=4
    )
    assert again == figure


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["weights.safetensors", "config.json"])
def test_fresh_trains_a_damaged_dictionary_of_undertraining_anew(
    tmp_path: Path,
    model: LanguageModel,
    store: TokenStore,
    damaged: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, checkpoint = tmp_path / "out", tmp_path / "checkpoints" / "step-1"
    model.model.save_pretrained(checkpoint)
    store.tokenizer.save_pretrained(checkpoint)
    study = ["toy", "undertraining", "--checkpoints", str(checkpoint.parent), "--device", "cpu"]
    study += ["--tokens", str(store.path), "--out", str(out), "--n-tokens", "1000"]
    assert cli.main(study) == 0
    weights = next(out.rglob("weights.safetensors"))
    whole = weights.read_bytes()
    run = weights.parent.parent
    file = weights if damaged == weights.name else run / damaged
    file.write_bytes(file.read_bytes()[:-9])
    (out / "undertraining.figure.json").unlink()
    assert cli.main(study) == 2
    assert "`--fresh`" in capsys.readouterr().err
    assert cli.main([*study, "--fresh"]) == 0
    assert weights.read_bytes() == whole
    assert TrainingRun.open(run).names


def test_firings_are_the_latents_above_zero(model: LanguageModel, store: TokenStore) -> None:
    torch.manual_seed(0)
    from monosem.dictionaries.topk import TopK

    dictionary = TopK(TopKConfig(d_in=16, n_latents=24, k=3))
    found = firings(dictionary, model, store, "blocks.0.hook_resid_post", 300)
    assert found.n_rows == 300 and int(found.rows.max()) < 300
    assert bool((found.values > 0).all()) and len(found.values) <= 900


def test_the_page_is_there_after_each_figure_and_numbers_that_are_none_are_null(
    tmp_path: Path,
) -> None:
    seen: list[int] = []

    def figure(name: str) -> Figure:
        items = (Item(item=name, here=float("nan"), how="by hand"),)
        return Figure(name=name, title=name, text="", items=items)

    stages = {n: Stage(make=lambda n=n: figure(n), key="k") for n in ("one", "two")}

    def page() -> None:
        report.write(report.kept(stages, tmp_path), tmp_path, title="T", lead="L")
        seen.append(len(json.loads((tmp_path / report.REPORT).read_text("utf-8"))))

    report.run_stages(stages, tmp_path, done=page)
    assert seen == [1, 2]
    assert "NaN" not in (tmp_path / report.REPORT).read_text("utf-8")


def test_neurons_to_which_two_features_write_are_shared() -> None:
    W = torch.tensor([[[1.0, 0.0], [-0.5, 0.0], [0.0, 0.05]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert shared(W).tolist() == [1.0, 0.0]
