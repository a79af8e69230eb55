"""Studies: the dictionaries of Cunningham et al. beside their baselines, at the smallest scale."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem import cli
from monosem.core.errors import ConfigError, MonosemError
from monosem.dictionaries.tied import Tied, TiedConfig
from monosem.metrics.baselines import Fitted, sample
from monosem.metrics.evaluate import EvaluateConfig, evaluate
from monosem.metrics.stream import (
    Place,
    activations,
    blocks,
    enough,
    first,
    ordinary_mean,
    visit,
)
from monosem.models.language_model import LanguageModel
from monosem.studies.sparse_autoencoders.beside import Beside, measured
from monosem.studies.sparse_autoencoders.cases import by_token
from monosem.studies.sparse_autoencoders.control import said
from monosem.studies.sparse_autoencoders.curve import who_won
from monosem.studies.sparse_autoencoders.matched import Row, verdict
from monosem.studies.sparse_autoencoders.overfitting import fits
from monosem.studies.sparse_autoencoders.setting import SCALES, Setting
from monosem.studies.sparse_autoencoders.study import sparse_autoencoders
from monosem.text.tokens import TokenStore

SITE = "blocks.0.hook_resid_post"


def tied(n: int = 12, seed: int = 0) -> Tied:
    generator = torch.Generator().manual_seed(seed)
    dictionary = Tied(TiedConfig(d_in=16, n_latents=n))
    rows = torch.randn(n, 16, generator=generator)
    dictionary.W_dec.data = torch.nn.functional.normalize(rows, dim=1)
    return dictionary


def kept(x: np.ndarray, axes: np.ndarray, k: int) -> float:
    """Return the squared error of keeping the k largest coordinates of each row, whatever their sign."""
    smallest = np.sort(np.square(x @ axes.T), axis=1)[:, :-k]
    return float(smallest.sum())


def test_what_stands_beside_a_dictionary_is_what_an_evaluation_measures(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    names = ("neurons", "identity-relu", "random", "pca", "lasso", "nmf")
    scale = dataclasses.replace(SCALES["tiny"], baselines=names, n_eval=500, n_fit=600)
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    found = measured([tied(12), tied(20, 1)], setting, SITE)
    config = EvaluateConfig(
        n_loss_tokens=500, n_mean_tokens=500, n_density_tokens=scale.n_density, matmul="fp32"
    )
    each = [evaluate(d, model, store, config, site=SITE) for d in (tied(12), tied(20, 1))]
    for row, expected in zip(found.rows["dictionary"], each, strict=True):
        assert row.fvu == pytest.approx(expected["fvu"]) and row.n_dead == expected["n_dead"]
        assert row.l0 == pytest.approx(expected["l0"])
        spliced = math.exp(expected["loss"] + expected["delta_ce"])
        assert row.perplexity == pytest.approx(spliced)
        assert found.plain == pytest.approx(math.exp(expected["loss"]))
    for name in ("neurons", "random", "pca"):
        for row, ours in zip(found.rows[name], found.rows["dictionary"], strict=True):
            if name != "random":  # of 20 directions about half are positive
                assert row.l0 == pytest.approx(ours.l0)
            assert row.low <= row.fvu - ours.fvu <= row.high
    place = Place(model, store, SITE)
    train = sample(place, scale.n_fit, 0, 256).double().numpy()
    contexts = first(visit(store, "heldout", 0), store, scale.n_eval)
    block = next(blocks(store, contexts, 10**6))
    heldout = activations(place, block)[block.ordinary].double().numpy()
    centre = ordinary_mean(place, scale.n_eval, 0, 256).numpy()
    axes = {"pca": np.linalg.svd(train - train.mean(0))[2], "neurons": np.eye(16)}
    for name, read in axes.items():
        for row, ours in zip(found.rows[name], found.rows["dictionary"], strict=True):
            around = [math.floor(ours.l0), math.ceil(ours.l0)]
            left = [kept(heldout - train.mean(0), read, k) for k in around]
            left = np.array(left) / np.square(heldout - centre).sum()
            assert row.fvu == pytest.approx(np.interp(ours.l0, around, left), rel=1e-3)
    assert len(found.rows["identity-relu"]) == 1  # it has an l0 of its own
    assert "not negative" in found.missing["nmf"] and "too long" in found.missing["lasso"]


def test_a_site_too_wide_for_its_baselines_has_the_others_and_says_why(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("neurons", "identity-relu", "pca")
    scale = dataclasses.replace(SCALES["tiny"], baselines=names, n_eval=500, n_fit=63)
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    found = measured([tied()], setting, SITE)
    assert list(found.rows) == ["dictionary", "neurons", "identity-relu"]
    assert "63 activations are too few" in found.missing["pca"]
    assert "n_baseline_tokens" not in found.missing["pca"]  # the study has no such setting
    monkeypatch.setitem(SCALES, "tiny", scale)
    with pytest.raises(ConfigError, match="needs 64 for `control`"):
        sparse_autoencoders(
            tmp_path / "o", model=model, store=store, scale="tiny", figures=("control",)
        )
    assert not (tmp_path / "o").exists()


def test_who_won_is_said_from_the_numbers_at_each_l0() -> None:
    def row(l0: float, fvu: float, low: float = math.nan, high: float = math.nan) -> Row:
        return Row(l0=l0, fvu=fvu, perplexity=2.0, recovered=0.5, low=low, high=high)

    rows = {"dictionary": [row(4.0, 0.3), row(8.0, 0.2)], "identity-relu": [row(50.0, 0.0)]}
    rows |= {"pca": [row(4.0, 0.4, 0.05, 0.2), row(8.0, 0.1, -0.2, -0.05)]}
    rows |= {"neurons": [row(4.0, 0.9, 0.5, 0.7), row(8.0, 0.8, 0.5, 0.7)]}
    found = Beside(rows=rows, plain=2.0, missing={})
    assert who_won(found, SITE) == (
        "Less of the variance than the dictionary is left by PCA (l0 8)."
    )
    worse = Beside(rows={**rows, "pca": rows["neurons"]}, plain=2.0, missing={})
    assert who_won(worse, SITE).startswith("At every l0 here the dictionary leaves less")
    # a tie, more latents on, fewer on and yet less, and a number that is none
    ours, less = row(4.0, 0.3), (-0.2, -0.1)
    assert verdict(row(4.0, 0.29, -0.03, 0.01), ours) == "tied"
    assert verdict(row(4.6, 0.15, *less), ours) == "unmatched"
    assert verdict(row(3.0, 0.15, *less), ours) == "less"
    assert verdict(row(4.6, 0.45, 0.1, 0.2), ours) == "more"
    assert verdict(row(4.0, math.nan, *less), ours) == "unknown"
    other = {**rows, "pca": [row(4.0, 0.29, -0.03, 0.01), row(9.2, 0.1, *less)]}
    text = who_won(Beside(rows=other, plain=2.0, missing={}), SITE)
    assert text.startswith("None of them leaves less of the variance than the dictionary. Tied")
    assert "PCA (l0 4)." in text and "3% off: PCA (l0 8: 9.2)." in text
    swapped = {"dictionary": rows["pca"], "pca": rows["dictionary"]}
    other = Beside(rows=swapped, plain=2.0, missing={})
    words = said({"the model": found, "shuffled": other})
    assert "model's at 1 of 2 l0s, and PCA at 1." in words


def test_atoms_fitted_to_few_vectors_fit_these_and_not_others() -> None:
    random = torch.Generator().manual_seed(0)
    x, other = (torch.randn(n, 8, generator=random) for n in (600, 400))  # nothing is to be learnt
    few, *_, many = [f for f in fits(("classical", "pca"), x, other, 2) if f.name == "classical"]
    assert (few.n, many.n) == (32, 600)
    assert few.train < few.heldout and many.heldout - many.train < few.heldout - few.train
    codes = Fitted(x[:32], n_latents=8).at("classical", 2)
    about = (x[:32] - x.mean(0)).square().sum()
    assert few.train == pytest.approx(float((x[:32] - codes(x[:32])).square().sum() / about))


def test_activation_by_token_is_what_a_loop_over_tokens_adds_up(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    dictionary = tied()
    scale = SCALES["tiny"]
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    mass, counts = by_token(dictionary, setting)
    contexts = enough(visit(store, "heldout", 0), store, scale.n_eval)
    tokens = torch.from_numpy(store.tokens(contexts))
    x = model.capture(tokens, [SITE])[next(iter(model.capture(tokens[:1], [SITE])))]
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))
    mass = mass.toarray()
    expected, fired = np.zeros_like(mass), np.zeros_like(counts)
    for row, token in zip(
        dictionary.encode(x[ordinary]).detach().numpy(), tokens[ordinary], strict=True
    ):
        expected[:, int(token)] += row
        fired += row > 0
    assert np.allclose(mass, expected, rtol=1e-3, atol=1e-3) and np.array_equal(counts, fired)
    assert counts.sum() > 0


def test_names_that_do_not_exist_are_refused_before_anything_is_made(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    for wrong in (
        {"scale": "tin"},
        {"figures": ("size",)},
        {"residual": "blocks.9.hook_resid_post"},
    ):
        with pytest.raises(MonosemError, match=r"[Dd]id you mean|has"):
            sparse_autoencoders(tmp_path / "out", model=model, store=store, **wrong)  # pyright: ignore
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_verb_recomputes_the_paper_at_the_smallest_scale_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = "sparse-autoencoders-find-features", tmp_path / "study"
    given = ["study", name, "--scale", "tiny", "--out", str(out), "--json"]
    assert cli.main(given) == 0
    items = {i["item"]: i for i in json.loads(capsys.readouterr().out)}
    residual = {k: v["here"] for k, v in items.items() if k.startswith("residual")}
    fvus = [v for k, v in residual.items() if k.endswith("FVU of the dictionary")]
    assert len(fvus) == 2 and fvus[1] < fvus[0] < 1
    random = [v for k, v in residual.items() if "random" in k]
    assert all(ours < theirs for ours, theirs in zip(fvus, random, strict=True))
    assert [i for i in items.values() if str(i["here"]).startswith("missing")]
    page = (out / "report.html").read_text("utf-8")
    assert "<svg" in page and "Found again in a larger dictionary" in page
    assert any("classical, OMP" in k and "held out" in k for k in items)
    assert any(k.startswith("shuffled, l0") for k in items)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")}
    assert cli.main(given) == 0
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")} == before
