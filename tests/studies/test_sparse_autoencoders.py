"""Studies: the dictionaries of Cunningham et al. beside their baselines, at the smallest scale."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosem import cli
from monosem.core.errors import ConfigError, MonosemError
from monosem.dictionaries import coded
from monosem.dictionaries.tied import Tied, TiedConfig
from monosem.metrics import baselines
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
from monosem.studies.sparse_autoencoders import overfitting
from monosem.studies.sparse_autoencoders.beside import Beside, measured, of_residual
from monosem.studies.sparse_autoencoders.cases import by_token
from monosem.studies.sparse_autoencoders.matched import (
    overstated,
)
from monosem.studies.sparse_autoencoders.opponents import no_lasso, sought
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
    assert "not negative" in found.missing["nmf"] and "solves 0" in found.missing["lasso"]


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


def test_codes_under_a_penalty_have_the_l0_of_the_dictionary_and_atoms_are_as_many_as_its_latents(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    names = ("classical", "lasso", "pca")
    scale = dataclasses.replace(
        SCALES["tiny"], baselines=names, n_eval=500, n_fit=600, most_lasso=2**40, n_density=500
    )
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    ours = tied(20, 1)
    found = measured([ours], setting, SITE)
    (row,), (own,) = found.rows["lasso"], found.rows["dictionary"]
    assert row.l0 == pytest.approx(own.l0, rel=0.03) and row.l0 != own.l0
    assert found.learned["classical"].startswith("20 atoms (as many as the dictionary has latents)")
    assert setting.fitted(20).at("classical", 3).n_latents == 2 * 20
    # the line is seen to add no more than it can: at a whole number, where the truth is known
    x = sample(Place(model, store, SITE), 500, 0, 256).double().numpy()
    x -= x.mean(0)
    left = [kept(x, np.linalg.svd(x)[2], k) / np.square(x).sum() for k in (2, 4, 6, 8, 5)]
    line = (left[1] + left[2]) / 2
    assert 0 < line - left[4] <= overstated(left[:4], 0.5)
    assert 0 < found.overstated["pca"] < 0.05 and set(found.overstated) == {"classical", "pca"}


def test_lasso_is_left_out_before_a_code_is_solved_where_all_of_them_would_take_too_long(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_eval": 100, "n_fit": 120, "n_density": 100}
    scale = dataclasses.replace(SCALES["tiny"], baselines=("lasso",), **sizes)
    n_text = len(first(visit(store, "heldout", 0), store, 100)) * store.context
    n_own = min(100 + store.context, int(n_text))  # ordinary tokens of the same contexts, at most
    solved: list[int] = []
    plain = coded.nonnegative_lasso

    def counted(x: torch.Tensor, *given: Any) -> torch.Tensor:
        solved.append(len(x))
        return plain(x, *given)

    monkeypatch.setattr(coded, "nonnegative_lasso", counted)

    def beside(most: int) -> Beside:
        own = dataclasses.replace(scale, most_lasso=most)
        setting = Setting(own, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
        return measured([tied(12), tied(12, 1)], setting, SITE)

    found = beside(2**40)
    assert "lasso" in found.rows and sum(solved) > 2 * n_text  # of both, and of two searches
    most = 2 * (n_text + 12 * n_own)
    assert sum(solved) <= most
    solved.clear()
    with monkeypatch.context() as unlearned:
        unlearned.setattr(baselines, "classical", None)  # nor is an atom learned
        found = beside(2 * n_text * 12**2)  # the searches have no room
    assert not solved and "lasso" not in found.rows
    assert "over 12 atoms, each a problem" in found.missing["lasso"]
    assert found.missing["lasso"].endswith(f"this scale solves {2 * n_text:,}")
    (many,) = re.findall(r"of ([\d,]+) vectors", found.missing["lasso"])
    n = int(many.replace(",", ""))
    assert 2 * n_text < n <= most
    assert "lasso" in beside(n * 12**2).rows and "lasso" in beside(n * 12**2 - 1).missing


def test_what_one_figure_has_measured_is_not_measured_again(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("neurons", "pca", "nmf")
    scale = dataclasses.replace(
        SCALES["tiny"], baselines=names, n_eval=200, n_fit=200, n_density=200
    )
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    monkeypatch.setitem(vars(setting), "curve", {8.0: tied()})
    found = of_residual(setting, ("pca",))
    assert set(found.rows) == {"dictionary", "pca"} and of_residual(setting, ("pca",)) is found
    more = of_residual(setting)  # of which one cannot be there, and is known not to
    assert {*more.rows, *more.missing} == {"dictionary", *names}
    assert of_residual(setting) is more and of_residual(setting, ("pca",)) is more
    assert more.rows["pca"][0].fvu == found.rows["pca"][0].fvu


def test_the_vectors_of_a_dictionary_are_those_it_was_trained_on(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = dataclasses.replace(SCALES["tiny"], n_tokens=1024, batch=128, l0s=(4.0,))
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    seen: list[torch.Tensor] = []
    plain = Tied.loss_terms

    def spied(self: Tied, x: torch.Tensor, *args: object) -> object:
        seen.append(x.detach().clone())
        return plain(self, x, *args)  # pyright: ignore

    monkeypatch.setattr(Tied, "loss_terms", spied)
    assert len(setting.curve) == 1
    met, learned = setting.met(300), torch.cat(seen)[:300]
    assert met.shape == (300, 16)
    scales = learned.norm(dim=1) / met.norm(dim=1)  # it learns from scaled ones
    assert torch.allclose(scales, scales[0].expand(300), rtol=1e-4)
    assert torch.allclose(learned, scales[0] * met, atol=1e-4)
    assert len(setting.met(10**6)) == 1024


def test_fresh_trains_a_damaged_dictionary_anew_and_uses_a_good_one(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_tokens": 512, "batch": 128, "n_eval": 200, "n_density": 200, "n_cases": 1}
    scale = dataclasses.replace(SCALES["tiny"], ratios=(1.0,), l0s=(4.0,), **sizes)
    monkeypatch.setitem(SCALES, "tiny", scale)

    def study() -> None:
        shared: dict[str, Any] = {"scale": "tiny", "residual": SITE, "figures": ("cases",)}
        sparse_autoencoders(tmp_path, model=model, store=store, fresh=True, **shared)

    study()
    (weights,) = tmp_path.rglob("*.safetensors")
    whole, written = weights.read_bytes(), weights.stat().st_mtime_ns
    study()
    assert weights.stat().st_mtime_ns == written
    weights.write_bytes(whole[:-9])
    study()
    assert weights.read_bytes() == whole


def test_another_constant_makes_figures_anew(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        sparse_autoencoders(tmp_path, model=model, store=store, scale="tiny", figures=("missing",))
        return json.loads((tmp_path / "missing.figure.json").read_text("utf-8"))["key"]

    before = key()
    assert key() == before
    monkeypatch.setattr(baselines, "FACTOR_ROWS", 99)
    assert key() != before


def test_atoms_fitted_to_few_vectors_fit_these_and_not_others() -> None:
    random = torch.Generator().manual_seed(0)
    x, other = (torch.randn(n, 8, generator=random) for n in (600, 400))  # nothing is to be learnt
    found = fits(("classical", "pca"), Fitted(x, n_latents=12), other, 2)
    few, *_, many = [f for f in found if f.name == "classical"]
    assert (few.n, many.n) == (48, 600)
    assert few.train < few.heldout and many.heldout - many.train < few.heldout - few.train
    some = x[torch.randperm(600, generator=torch.Generator().manual_seed(0))[:48]]
    codes = Fitted(some, n_latents=12).at("classical", 2)
    about = (some - x.mean(0)).square().sum()
    assert few.train == pytest.approx(float((some - codes(some)).square().sum() / about))
    # three fits, each of them a search and two errors
    assert overfitting.growing(Fitted(x, n_latents=12)) == [48, 192, 600]
    n = 12 * (48 + 192 + 600) + (48 + 192 + 600) + 3 * 400
    assert overfitting.n_solved(Fitted(x, n_latents=12), 400) == n
    said = overfitting.said(found)
    assert f"classical, OMP {few.heldout / few.train - 1:+.0%} of 48 and" in said
    free = overfitting.Fit("classical", 9, 0.0, 0.5)  # each vector its own atom
    assert "unbounded of 9 vectors" in overfitting.said([free])


def test_codes_that_would_take_too_long_are_not_solved_where_overfitting_is_looked_at(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figure(most: int) -> dict[str, object]:
        scale = dataclasses.replace(SCALES["tiny"], n_tokens=512, n_fit=100, l0s=(4.0,))
        scale = dataclasses.replace(scale, batch=128, most_lasso=most)
        setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
        monkeypatch.setitem(vars(setting), "curve", {4.0: tied()})
        return {item.item: item.here for item in overfitting.overfitting(setting).items}

    left_out = figure(12**2 * 99)
    why = left_out.pop("classical, LASSO")
    assert str(why).startswith("not applicable: codes of") and str(why).endswith("solves 99")
    assert not [item for item in left_out if "LASSO" in item]
    there = figure(2**40)
    assert "classical, LASSO" not in there
    assert len([item for item in there if item.startswith("classical, LASSO, ")]) == 4
    assert {item: there[item] for item in left_out} == left_out


def test_lasso_is_there_at_small_beside_512_atoms_and_not_at_paper_beside_4096() -> None:
    """At the sizes that `small` is run at, and at those of the paper: 512 dimensions, 4,096 latents."""
    small, paper = SCALES["small"], SCALES["paper"]
    for scale, n_atoms, there in ((small, 512, True), (paper, 1024, True), (paper, 4096, False)):
        n = len(scale.l0s) * (scale.n_eval + sought(scale.n_eval))
        assert (no_lasso(n, n_atoms, scale.most_lasso) == "") is there
    assert "1,433,600 vectors over 4,096 atoms" in no_lasso(n, 4096, paper.most_lasso)


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
    assert all(any(k.startswith(f"shuffled by {n}, l0") for k in items) for n in (0, 1))
    for name in ("PCA", "PCA, first k axes", "coordinates"):
        at = [re.fullmatch(rf"residual, l0 (.*): FVU of {name}, (.*) on", k) for k in residual]
        assert sum(m is not None and m[1] == m[2] for m in at) == 2
    left = {k.split(": FVU of ")[1]: v for k, v in residual.items() if ": FVU of PCA" in k}
    for name in ("first k axes", "one sign"):  # the k largest of both signs explain most
        pairs = [(left[k.replace(f", {name}", "")], v) for k, v in left.items() if name in k]
        assert len(pairs) == 2 and all(both < some for both, some in pairs)
    assert "leave more of the variance than PCA by" in page
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")}
    assert cli.main(given) == 0
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")} == before
