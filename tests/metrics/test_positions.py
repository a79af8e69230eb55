import copy

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.baselines import Neurons
from monosem.metrics.evaluate import EvaluateConfig, evaluate
from monosem.metrics.positions import Grid, _difference, across, beyond, by_position
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel

SITE = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def found(dictionary, model, store) -> Grid:
    return by_position(
        dictionary, Place(model, store, SITE), n_tokens=10**6, n_mean_tokens=10**6, batch=100
    )


def test_all_positions_together_are_what_an_evaluation_measures(found, dictionary, model, store):
    config = EvaluateConfig(
        n_loss_tokens=10**6, n_mean_tokens=10**6, n_density_tokens=100, matmul="fp32"
    )
    whole = evaluate(dictionary, model, store, config, site=SITE)
    measures = found.measures()
    for name in ("loss", "delta_ce", "fvu", "l0"):
        assert measures[name].value == pytest.approx(whole[name], rel=1e-5), name
        assert measures[name].low <= measures[name].value <= measures[name].high
    assert measures["fvu"].n == 40  # contexts, which are what is drawn anew


def test_each_position_is_that_of_its_own_column(found, dictionary, model, store):
    curves = found.curves()
    contexts = store.contexts("heldout")
    order = contexts.start + np.random.default_rng(0).permutation(len(contexts))
    tokens = torch.from_numpy(store.tokens(order))
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))
    losses = model.losses(tokens)
    at = 5
    mask = ordinary[:, at + 1]
    assert curves["loss"][at] == pytest.approx(float(losses[mask, at].mean()), rel=1e-5)
    x = model.capture(tokens, [SITE])[SITE][:, at][ordinary[:, at]]
    on = (dictionary.encode(x) > 0).sum(1).float()
    assert curves["l0"][at] == pytest.approx(float(on.mean()))
    error = (x - dictionary(x)).square().sum(1).mean()
    assert curves["fvu"][at] == pytest.approx(float(error) / np.nanmean(found.variance), rel=1e-5)
    with model.replaced({SITE: lambda old: torch.where(ordinary[..., None], dictionary(old), old)}):
        spliced = model.losses(tokens)
    rise = (spliced - losses)[mask, at].mean()
    assert curves["delta_ce"][at] == pytest.approx(float(rise), rel=1e-3) and abs(rise) > 1e-3
    assert np.isnan(curves["l0"][0]) and np.isnan(curves["loss"][-1])
    assert np.isfinite(curves["loss"][0])  # predicted from BOS, which keeps its activation
    np.testing.assert_allclose(curves["delta_ce"], curves["spliced"] - curves["loss"])


def test_what_is_perfect_costs_nothing_anywhere(model, store):
    found = by_position(
        Neurons.of_width(24), Place(model, store, SITE), n_tokens=200, n_mean_tokens=200
    )
    assert np.nanmax(np.abs(found.curves()["delta_ce"])) < 1e-5
    assert found.measures()["fvu"].value < 1e-12


def test_positions_beyond_the_trained_ones_stand_beside_them(found):
    parted = beyond(found, 10)
    curves = {name: getattr(found, name) for name in ("error", "variance", "l0")}
    assert parted.inside["l0"].value == pytest.approx(np.nanmean(curves["l0"][:, :10]))
    fvu = np.nansum(curves["error"][:, 10:]) / np.nansum(curves["variance"][:, 10:])
    assert parted.outside["fvu"].value == pytest.approx(fvu)
    rise = parted.rise["fvu"]
    assert rise.value == pytest.approx(fvu - parted.inside["fvu"].value)
    assert rise.low < rise.value < rise.high
    late = Grid(
        loss=found.loss,
        spliced=found.spliced + np.where(np.arange(16) >= 10, 1.0, 0.0),
        error=found.error,
        variance=found.variance,
        l0=found.l0,
    )
    planted = beyond(late, 10).rise["delta_ce"].value - parted.rise["delta_ce"].value
    assert planted == pytest.approx(1, abs=1e-6)
    short = beyond(found, 16).rise["fvu"]
    assert short.void == "not applicable: the text has contexts of 16, no longer than 16"
    with pytest.raises(ConfigError, match="does not record the context"):
        beyond(found, 0)


def test_another_checkpoint_is_measured_on_the_same_contexts(dictionary, model, store):
    tuned = copy.deepcopy(model.model)
    with torch.no_grad():
        for block in tuned.transformer.h:
            block.mlp.c_fc.bias += 0.3
    models = {"base": model, "same": model, "tuned": LanguageModel(tuned, name="tuned")}
    place = Place(model, store, SITE)
    found = across(dictionary, models, place, n_tokens=500, n_mean_tokens=500)
    for same in found.differences["same"].values():
        assert (same.value, same.low, same.high) == (0, 0, 0)
    for name, measure in found.differences["tuned"].items():
        values = [found.measures[which][name].value for which in ("tuned", "base")]
        assert measure.value == pytest.approx(values[0] - values[1])
    assert found.differences["tuned"]["loss"].value > 0
    config = EvaluateConfig(
        n_loss_tokens=500, n_mean_tokens=500, n_density_tokens=100, matmul="fp32"
    )
    alone = evaluate(dictionary, models["tuned"], store, config, site=SITE)
    for name, measure in found.measures["tuned"].items():
        assert measure.value == pytest.approx(alone[name], rel=1e-5), name
    with pytest.raises(ConfigError, match="no model"):
        across(dictionary, {}, place)


def test_intervals_are_those_of_drawing_contexts_anew_and_differences_are_paired(found, drawn_anew):
    """The later positions beside the earlier ones; and another grid on the same contexts."""
    early, late = slice(0, 10), slice(10, None)
    parted = [beyond(found, 10, seed=seed) for seed in range(5)]
    contexts = np.arange(len(found.loss))

    def loss(grid, i, at):
        return np.nanmean(grid.loss[i][:, at])

    def delta_ce(grid, i, at):
        return np.nanmean((grid.spliced - grid.loss)[i][:, at])

    def fvu(grid, i, at):
        return np.nansum(grid.error[i][:, at]) / np.nansum(grid.variance[i][:, at])

    for of in (loss, delta_ce, fvu):
        name = of.__name__
        by_hand = {
            "inside": lambda i, of=of: of(found, i, early),
            "outside": lambda i, of=of: of(found, i, late),
            "rise": lambda i, of=of: of(found, i, late) - of(found, i, early),
        }
        for part, statistic in by_hand.items():
            each = [getattr(one, part)[name] for one in parted]
            ends = np.mean([[measure.low, measure.high] for measure in each], axis=0)
            plainly = drawn_anew(statistic, contexts, n=800, within=0.4)
            assert tuple(ends) == plainly, (part, name)
    random = np.random.default_rng(0)
    other = Grid(
        loss=found.loss + random.normal(0.1, 0.05, found.loss.shape),
        spliced=found.spliced,
        error=found.error * random.uniform(1.0, 1.1, found.error.shape),
        variance=found.variance,
        l0=found.l0 + (random.random(found.l0.shape) < 0.1),
    )
    apart = _difference(other, found, 0)
    whole = slice(None)
    for name, of in (("loss", loss), ("delta_ce", delta_ce), ("fvu", fvu)):
        ends = drawn_anew(lambda i, of=of: of(other, i, whole) - of(found, i, whole), contexts)
        assert (apart[name].low, apart[name].high) == ends, name
    l0 = drawn_anew(lambda i: np.nanmean(other.l0[i]) - np.nanmean(found.l0[i]), contexts)
    assert (apart["l0"].low, apart["l0"].high) == l0
    mine, theirs = other.measures()["loss"], apart["loss"]
    assert theirs.high - theirs.low < 0.2 * (mine.high - mine.low)


def test_every_position_has_an_interval_of_its_own(found, drawn_anew):
    curves, bands = found.curves(), [found.bands(seed=seed) for seed in range(4)]
    assert set(bands[0]) == set(curves)
    for at in (4, 12):
        by_hand = {
            "loss": lambda i, at=at: np.nanmean(found.loss[i, at]),
            "spliced": lambda i, at=at: np.nanmean(found.spliced[i, at]),
            "delta_ce": lambda i, at=at: np.nanmean(found.spliced[i, at] - found.loss[i, at]),
            "fvu": lambda i, at=at: np.nanmean(found.error[i, at]) / np.nanmean(found.variance[i]),
        }
        for name, statistic in by_hand.items():
            ends = np.mean([[end[at] for end in band[name]] for band in bands], axis=0)
            plainly = drawn_anew(statistic, np.arange(len(found.loss)), n=1000, within=0.35)
            assert tuple(ends) == plainly, (name, at)
        assert [end[at] for end in bands[0]["l0"]] == pytest.approx([curves["l0"][at]] * 2)
    for name, curve in curves.items():
        for end in bands[0][name]:
            np.testing.assert_array_equal(np.isnan(end), np.isnan(curve))
