"""Baselines beside a dictionary: fitted to the training split, measured on the held-out one."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from monosem.core.errors import ConfigError, UnknownNameError
from monosem.dictionaries import coded
from monosem.metrics import baselines
from monosem.metrics import evaluate as evaluation
from monosem.metrics.baselines import BASELINES, Fitted
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.metrics.stream import Place

SITE = "blocks.0.mlp.hook_post"
ALL = EvaluateConfig(
    n_loss_tokens=10**6,
    n_mean_tokens=10**6,
    n_density_tokens=1000,
    n_baseline_tokens=10**6,
    batch_tokens=256,
    matmul="fp32",
    baselines=("random", "pca"),
)


def rows(model, store, split) -> np.ndarray:
    """Neurons of all ordinary tokens, from the module itself."""
    taken = []
    hook = model.model.transformer.h[0].mlp.act.register_forward_hook(
        lambda _, __, out: taken.append(out)
    )
    tokens = store.tokens(list(store.contexts(split)))
    model.model(input_ids=torch.tensor(tokens))
    hook.remove()
    return taken[0].double().numpy()[store.ordinary(tokens)]


def test_principal_axes_explain_on_heldout_text_what_scikit_learns_do(dictionary, model, store):
    found = evaluate_many({"mine": dictionary}, model, store, ALL, site=SITE, neurons=False)
    assert list(found) == ["mine", "random", "pca"]
    k = found["pca"]["config"]["k"]
    assert k == found["random"]["config"]["k"] == round(found["mine"]["l0"])
    train, heldout = (rows(model, store, split) for split in ("train", "heldout"))
    theirs = PCA().fit(train)
    kept = theirs.transform(heldout)
    np.put_along_axis(kept, np.abs(kept).argsort(1)[:, :-k], 0.0, 1)
    left = np.square(heldout - theirs.inverse_transform(kept)).sum()
    expected = left / np.square(heldout - train.mean(0)).sum()
    assert found["pca"]["fvu"] == pytest.approx(expected, rel=1e-3)
    assert found["pca"]["fvu"] < found["random"]["fvu"] < 1.1  # about the mean, and no overshoot
    assert found["random"]["config"]["n_latents"] == dictionary.n_latents


def test_baselines_that_cannot_be_are_refused_before_anything_is_read(dictionary, model, store):
    with pytest.raises(UnknownNameError, match=r"baseline `pac`.*pca"):
        dataclasses.replace(ALL, baselines=("pac",))
    with pytest.raises(ConfigError, match="`n_baseline_tokens` must be at least 1, got 0"):
        dataclasses.replace(ALL, n_baseline_tokens=0)
    few = dataclasses.replace(ALL, n_baseline_tokens=20)
    with pytest.raises(
        ConfigError, match="20 activations are too few.*to 96 or more.*`n_baseline_tokens`"
    ):
        evaluate_many({"mine": dictionary}, model, store, few, site=SITE)
    with pytest.raises(ConfigError, match="`pca` is the name of a baseline"):
        evaluate_many({"pca": dictionary}, model, store, ALL, site=SITE)


SOLVED = {"n_loss_tokens": 70, "n_density_tokens": 40, "n_baseline_tokens": 100}
"""Of 16 in a context, of which 15 are ordinary: 80 tokens for losses, 56 for density, 1,200 tried."""


@pytest.mark.parametrize(
    ("one", "tokens", "instead"),
    [
        ({}, "80 tokens for losses + 56 tokens for density + 1,200 tokens", ""),
        ({"n_loss_tokens": 71}, "80 tokens for losses", ""),
        ({"n_loss_tokens": 76}, "96 tokens for losses", "Lower `n_loss_tokens` to"),
        ({"n_loss_tokens": 10**6}, "640 tokens for losses", "Lower `n_loss_tokens` to"),
        ({"n_density_tokens": 42}, "58 tokens for density", "Lower `n_loss_tokens` to"),
        ({"n_density_tokens": 10**6}, "3,840 tokens for density", "and `n_density_tokens` to"),
        (
            {"n_loss_tokens": 10**6, "n_density_tokens": 10**6},
            "640 tokens for losses + 3,840 tokens for density",
            "Lower `n_loss_tokens` and `n_density_tokens` to",
        ),
        ({"n_baseline_tokens": 101}, "1,212 tokens for the search of a penalty", "Lower `n_l"),
        ({"n_baseline_tokens": 200}, "2,400 tokens for the search of a penalty", "Leave `lasso`"),
        ({"n_baseline_tokens": 10**6}, "24,576 tokens for the search of a pe", "Leave `lasso`"),
    ],
)
def test_lasso_is_refused_for_each_kind_of_token_that_has_codes_before_one_is_read(
    one, tokens, instead, dictionary, model, store, monkeypatch
):
    n_atoms = dictionary.n_latents
    monkeypatch.setattr(evaluation, "MOST_LASSO", (80 + 56 + 1200) * n_atoms**2)
    place = Place(model, store, SITE)
    settings = {**SOLVED, **one}

    def check(**changes):
        config = dataclasses.replace(ALL, baselines=("lasso",), **{**settings, **changes})
        evaluation._check_beside({"mine": dictionary}, place, config, False)

    if not instead:
        check()
        monkeypatch.setattr(evaluation, "MOST_LASSO", (80 + 56 + 1200) * n_atoms**2 - 1)
    with monkeypatch.context() as unread, pytest.raises(ConfigError) as caught:
        unread.setattr(type(store), "tokens", None)
        config = dataclasses.replace(ALL, baselines=("lasso",), **settings)
        evaluate_many({"mine": dictionary}, model, store, config, site=SITE)
    said = str(caught.value)
    assert f"`lasso` over {n_atoms} atoms can take hours or days" in said
    assert tokens in said and instead in said
    told = re.search(r"Lower (.*) to ([\d,]+) or fewer, or leave `lasso` out", said)
    if told:  # which is enough
        fewer = int(told[2].replace(",", ""))
        check(**{name: fewer for name in re.findall("`(.*?)`", told[1])})


def test_the_tokens_that_are_counted_for_lasso_are_those_that_have_codes(
    dictionary, model, store, monkeypatch
):
    solved, phase = {}, ["search"]
    plain = coded.nonnegative_lasso

    def counted(x, *given):
        solved[phase[0]] = solved.get(phase[0], 0) + len(x)
        return plain(x, *given)

    def named(name, function):
        def entered(*given, **settings):
            phase[0] = name
            return function(*given, **settings)

        return entered

    monkeypatch.setattr(coded, "nonnegative_lasso", counted)
    monkeypatch.setattr(evaluation, "held_out", named("losses", evaluation.held_out))
    monkeypatch.setattr(evaluation, "count_firing", named("density", evaluation.count_firing))
    config = dataclasses.replace(ALL, baselines=("lasso",), **SOLVED)
    evaluate_many({"mine": dictionary}, model, store, config, site=SITE, neurons=False)
    losses, density, search = evaluation._solved_tokens(Place(model, store, SITE), config).values()
    assert solved["losses"] == losses
    assert 40 <= solved["density"] <= density
    assert solved["search"] % 100 == 0 and 200 <= solved["search"] <= search == 12 * 100


def test_lasso_is_there_with_the_default_numbers_of_tokens_over_as_many_atoms_as_are_learned():
    config = EvaluateConfig()
    counted = config.n_loss_tokens + min(config.n_density_tokens, evaluation.MOST_SOLVED)
    counted += baselines.PENALTY_TRIES * baselines.PENALTY_ROWS
    assert 1.05 * counted * baselines.MOST_ATOMS**2 < evaluation.MOST_LASSO


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Baselines of what neurons are like: sums of a few non-negative directions, after a ReLU."""
    random = torch.Generator().manual_seed(0)
    on = torch.rand(600, 10, generator=random) * (torch.rand(600, 10, generator=random) < 0.3)
    atoms = torch.rand(10, 8, generator=random) * (torch.rand(10, 8, generator=random) < 0.5)
    x = on @ atoms + 0.02 * torch.rand(600, 8, generator=random)
    return Fitted(x, n_latents=32, seed=0)


def test_every_baseline_has_as_many_latents_on_as_the_dictionary_it_stands_beside(fitted):
    for name in BASELINES:
        for k in (1, 3):
            d = fitted.at(name, k)
            l0 = len(d.encode_sparse(fitted.x).active()) / len(fitted.x)
            if name in ("pca-one", "ica-one"):  # of one sign fewer may be positive
                assert 0.3 * k <= l0 <= k, (name, k, l0)
            else:
                off = 0.1 * k if name in ("nmf", "lasso") else 0.05
                assert abs(l0 - k) <= off, (name, k, l0)


@pytest.mark.parametrize("name", ["nmf", "lasso"])
def test_a_penalty_holds_for_vectors_it_was_not_sought_on_though_contexts_differ(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """Contexts are ever denser and larger, so that the first of them are like no other."""
    monkeypatch.setattr(baselines, "PENALTY_ROWS", 512)  # of 1,024
    random = torch.Generator().manual_seed(1)
    dense = torch.linspace(0.1, 0.9, 64).repeat_interleave(32)[:, None]
    on = torch.rand(2048, 12, generator=random) * (torch.rand(2048, 12, generator=random) < dense)
    atoms = torch.rand(12, 8, generator=random) * (torch.rand(12, 8, generator=random) < 0.5)
    x = on @ atoms * (1 + dense) + 0.05 * torch.rand(2048, 8, generator=random)
    found = Fitted(x[::2], n_latents=16).at(name, 2)
    l0 = len(found.encode_sparse(x[1::2]).active()) / len(x[1::2])
    assert l0 == pytest.approx(2, rel=0.1)


def test_there_are_as_many_atoms_as_latents_unless_that_is_too_many(fitted: Fitted) -> None:
    atoms = {n: Fitted(fitted.x, n_latents=n, most_atoms=12) for n in (6, 11, 40)}
    assert [f.n_atoms for f in atoms.values()] == [6, 11, 12]  # more than 8, the width
    assert Fitted(fitted.x, n_latents=40, most_atoms=4).n_atoms == 8
    made = atoms[11].at("classical", 3)
    assert made.n_latents == 22  # a latent for either sign
    said = atoms[11].learned_from["classical"]
    assert said.startswith("11 atoms (as many as the dictionary has latents), learned from 600 vec")
    assert "12 atoms (the dictionary has 40 latents" in atoms[40].learned_from["classical"]
    assert "8 factors" in atoms[40].learned_from["nmf"]
    few, many = (
        float((fitted.x - atoms[n].at("classical", 2)(fitted.x)).square().sum()) for n in (6, 40)
    )
    assert many < few


@pytest.mark.parametrize("name", ["nmf", "lasso"])
def test_a_penalty_is_sought_on_the_vectors_that_are_given(fitted: Fitted, name: str) -> None:
    other = fitted.x[fitted.x.square().sum(1).argsort()[:200]]  # the smallest need fewest latents
    found = fitted.penalised(name, 1.3, other)
    assert len(found.encode_sparse(other).active()) / 200 == pytest.approx(1.3, rel=0.02)
    assert len(found.encode_sparse(fitted.x).active()) / len(fitted.x) > 1.4
    with pytest.raises(UnknownNameError, match="baseline with a penalty `pca`"):
        fitted.penalised("pca", 1.0, other)


def test_the_next_penalty_lies_between_those_on_either_side_or_a_step_further() -> None:
    after = baselines._next_penalty
    assert after({0.1: 9.0}, 4.0) == pytest.approx(0.3) and after({0.6: 9.0}, 4.0) == 1.0
    assert after({0.1: 2.0}, 4.0) == pytest.approx(0.1 / 3) and after({0.002: 2.0}, 4.0) == 0
    # 8 at 0.1 and 2 at 0.4: 4 is half way of the logarithms
    assert after({0.1: 8.0, 0.4: 2.0, 0.9: 0.0, 0.01: 30.0}, 4.0) == pytest.approx(0.2)
    assert 0.1 < after({0.1: 4.01, 0.4: 0.0}, 4.0) < 0.4  # never where one has been tried


def test_the_first_axes_are_the_best_linear_ones_and_one_sign_leaves_more_than_both(fitted):
    x = fitted.x.double().numpy()
    left = np.square(np.linalg.svd(x - x.mean(0))[1])[3:].sum()  # Eckart and Young
    made = fitted.at("pca-first", 3)(fitted.x).double().numpy()
    assert np.square(x - made).sum() == pytest.approx(left, rel=1e-4)

    def error(name: str, k: int) -> float:
        return float((fitted.x - fitted.at(name, k)(fitted.x)).square().sum())

    for axes in ("pca", "ica"):
        assert error(axes, 3) < error(f"{axes}-one", 3)
    whole = fitted.at("pca-one", 8)  # each axis reads the sign with the longer tail
    read = (fitted.x - whole.b_dec) @ whole.W_enc + whole.b_enc
    assert (read.pow(3).sum(0) >= 0).all()
    for name in ("pca-one", "ica-one"):  # what they leave has no offset that would be for free
        one = fitted.at(name, 3)
        assert torch.allclose((fitted.x - one(fitted.x)).mean(0), torch.zeros(8), atol=1e-5)


def test_codes_are_solved_better_than_read_and_factors_need_what_is_not_negative(fitted):
    error = {n: float((fitted.x - fitted.at(n, 2)(fitted.x)).square().sum()) for n in BASELINES}
    assert error["classical"] < min(error["random"], error["pca-first"])
    free = fitted.at("nmf", 10)
    assert float(free.alpha) == 0 < float(fitted.at("nmf", 1).alpha)
    with pytest.raises(ConfigError, match="NMF is of activations that are not negative"):
        Fitted(fitted.x - 1, n_latents=8).at("nmf", 2)
    with pytest.raises(UnknownNameError, match="baseline `ic`"):
        fitted.at("ic", 2)


def test_components_that_cannot_be_found_are_looked_for_once(fitted, monkeypatch):
    asked = []

    def never(x, **_):
        asked.append(len(x))
        raise ConfigError("ICA has not converged.")

    monkeypatch.setattr(baselines, "ica", never)
    again = Fitted(fitted.x, n_latents=8)
    for name in ("ica", "ica", "ica-one"):
        with pytest.raises(ConfigError, match="not converged"):
            again.at(name, 2)
    assert asked == [600]
    assert again.at("pca", 2).config.k == 2
