"""The four arms: equal but for the non-linearity, resumable, and measured as they say."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from monosem.core.errors import ConfigError, UnknownNameError
from monosem.metrics.context_space import ContextSpace
from monosem.metrics.sample import read_text
from monosem.models.small import build
from monosem.studies.solu import arms, study


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """The study at its smallest."""
    out = tmp_path_factory.mktemp("solu")
    return out, study.solu(out, store, scale="tiny")


def test_arms_differ_in_their_non_linearity_alone(store):
    setup = study.SCALES["tiny"]
    shapes = {arm: setup.shape(arm, store.context) for arm in arms.ARMS}
    plain = {dataclasses.replace(s, activation="relu", mlp_norm=False) for s in shapes.values()}
    assert plain == {shapes["relu"]}
    assert len(set(shapes.values())) == 4
    assert shapes["solu-norm"].mlp_norm
    sizes = {
        arm: sum(p.numel() for p in build(shape, vocab_size=300, bos=0, eos=0, seed=0).parameters())
        for arm, shape in shapes.items()
    }
    assert sizes["solu-norm"] - sizes["solu"] == 2 * setup.d_mlp
    assert sizes["relu"] == sizes["gelu"] == sizes["solu"]


@pytest.mark.slow
def test_every_arm_is_reported_with_its_interval_and_beside_relu(made):
    out, figures = made
    items = {i.item: i.here for f in figures for i in f.items}
    for arm in arms.ARMS:
        loss, width = items[f"{arm}: held-out loss"], items[f"{arm}: held-out loss, ±"]
        assert 0 < loss < np.log(300)
        assert width >= 0
        if arm != "relu":
            difference = items[f"{arm} − relu: held-out loss"]
            assert difference == pytest.approx(loss - items["relu: held-out loss"], abs=1e-9)
    assert [f.name for f in figures] == ["loss", "polysemanticity", "small-activations"]
    listed = json.loads((out / "report.json").read_text())
    assert len(listed) == sum(len(f.items) for f in figures)
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_asked_again_nothing_is_trained_or_measured_anew(made, store, monkeypatch):
    out, figures = made
    monkeypatch.setattr(arms, "read_model", str)
    before = {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")}
    assert len(before) == 8
    again = study.solu(out, store, scale="tiny")
    assert [f.items for f in again] == [f.items for f in figures]
    assert before == {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")}


@pytest.mark.slow
def test_one_model_lost_is_one_model_trained(made, store):
    import shutil

    out, figures = made
    shutil.rmtree(out / "models/gelu-1")
    kept = (out / "readings/relu-0.json").stat().st_mtime_ns
    again = study.solu(out, store, scale="tiny")
    assert [f.items for f in again] == [f.items for f in figures]  # the same seed, the same model
    assert (out / "readings/relu-0.json").stat().st_mtime_ns == kept


def test_what_is_recovered_grows_with_what_is_kept_and_is_all_of_it_in_the_end(
    store, model, monkeypatch
):
    text = read_text(store, np.asarray(store.contexts("heldout")))
    parts = [store.tokens(np.asarray(store.contexts("train")))]
    space = ContextSpace.fit(parts, text, store.vocab_size)
    monkeypatch.setattr(arms, "KEPT", (0.05, 0.5, 1.0))
    read = arms.read_model(model, store, text, space, 6)
    assert read.recovered == (None, None, None)  # this model's MLP gains less than 0.05 nats
    monkeypatch.setattr("monosem.metrics.loss_recovered.MINIMUM_GAP", 1e-9)
    read = arms.read_model(model, store, text, space, 6)
    assert read.recovered[2] == pytest.approx(1.0, abs=1e-6)
    assert abs(1 - read.recovered[1]) < abs(1 - read.recovered[0])


def test_what_is_kept_is_what_is_largest_whatever_the_means_are():
    import torch

    x, mean = torch.tensor([[0.0, 0.4, 0.0]]), torch.tensor([0.5, 0.0, 0.0])
    assert torch.equal(arms.keep_largest(x, mean, 0.34), torch.tensor([[0.5, 0.4, 0.0]]))


def test_settings_without_intervals_and_unknown_scales_are_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="for intervals"):
        arms.Setup(n_seeds=1)
    with pytest.raises(UnknownNameError, match="huge"):
        study.solu(tmp_path, store, scale="huge")


def test_the_command_line_says_what_it_needs(capsys, tmp_path):
    from monosem import cli

    assert cli.main(["study", "solu"]) == 2
    assert "--tokens STORE" in capsys.readouterr().err
    assert cli.main(["study", "solu", "--tokens", str(tmp_path), "--fresh"]) == 2
    assert "Leave the other options out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_prints_what_was_kept(made, store, capsys):
    from monosem import cli

    out, figures = made
    given = ["--tokens", str(store.path), "--out", str(out), "--scale", "tiny", "--device", "cpu"]
    assert cli.main(["study", "solu", *given, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)
    assert [i["item"] for i in items] == [i.item for f in figures for i in f.items]


def test_means_over_seeds_have_students_interval_and_differences_are_paired():
    def reading(loss):
        return arms.Reading(loss=loss, effective=None, largest=0.5, chance=0.1, recovered=(0.5,))

    losses = {
        "relu": [3.0, 3.5, 4.1],
        "gelu": [2.9, 3.3, 4.0],
        "solu": [3.2, 3.6, 4.4],
        "solu-norm": [2.8, 3.5, 3.8],
    }
    assert set(losses) == set(arms.ARMS)
    found = {arm: [reading(loss) for loss in own] for arm, own in losses.items()}
    items = {i.item: i.here for i in study._means(found, "loss", "nats", lambda r: r.loss)}
    for arm, own in losses.items():
        low, high = stats.t.interval(0.95, 2, np.mean(own), stats.sem(own))
        assert items[f"{arm}: loss"] == pytest.approx((low + high) / 2)
        assert items[f"{arm}: loss, ±"] == pytest.approx((high - low) / 2)
        if arm != "relu":
            pairs = stats.ttest_rel(own, losses["relu"]).confidence_interval(0.95)
            assert items[f"{arm} − relu: loss"] == pytest.approx((pairs.low + pairs.high) / 2)
            assert items[f"{arm} − relu: loss, ±"] == pytest.approx((pairs.high - pairs.low) / 2)
    none = study._means(found, "kinds", "", lambda r: r.effective)
    assert {i.here for i in none} == {"not applicable: 3 of 3 models have none"}
