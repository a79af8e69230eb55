import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import binomtest, ttest_1samp

from monosem.core.errors import ConfigError, UnknownNameError
from monosem.dictionaries.linear import Linear
from monosem.dictionaries.normalised import Normalised, NormalisedConfig
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics import labels
from monosem.metrics.evaluate import EvaluateConfig
from monosem.metrics.geometry import geometry
from monosem.metrics.matching import matching
from monosem.metrics.measure import Measure, not_applicable
from monosem.metrics.positions import by_position
from monosem.metrics.sample import Sample, Text, draw
from monosem.metrics.stream import Place
from monosem.metrics.subject import COMPARED, NAMES, SurveyConfig
from monosem.metrics.survey import MEASURES, Other, _accounted, _over, survey

SITE = "blocks.0.mlp.hook_post"
FEW = SurveyConfig(n_tokens=1500, n_units=5, ks=(1, 2), rules=("word=regex:1.", "tokens:5,6"))


@pytest.fixture
def worded(store, monkeypatch):
    """The store in memory, with the number of a token as its text."""
    monkeypatch.setattr(
        type(store),
        "pieces",
        lambda self, c, start, stop: [str(t) for t in self.tokens([c])[0][start:stop]],
        raising=False,
    )
    return store


def compare(measures, dictionary, model, store, **given):
    other = Other(TopK(TopKConfig(d_in=24, n_latents=30, k=3, seed=1)), Place(model, store, SITE))
    config = dataclasses.replace(FEW, measures=measures)
    found = survey({"mine": dictionary}, model, store, config, site=SITE, other=other, **given)
    return found, other.dictionary


def test_measures_are_those_of_their_own_functions(dictionary, model, worded):
    assert list(MEASURES) == list(NAMES) and set(COMPARED) <= set(NAMES)
    chosen = ("geometry", "mmcs", "universality", "positions", "proxies")
    found, other = compare(chosen, dictionary, model, worded, neurons=False)
    mine = found["mine"]
    assert list(mine) == list(chosen)
    assert mine["geometry"] == geometry(dictionary.encoder(), dictionary.W_dec).measures()
    assert mine["mmcs"] == matching(dictionary.W_dec, other.W_dec).measures()
    assert mine["positions"]["l0"].value == pytest.approx(5, abs=0.2)
    void = mine["positions"]["l0 past its context"].void
    assert void == "not applicable: it does not record the context it was trained on"
    assert any(name.startswith("word (latent ") for name in mine["proxies"])
    assert mine["universality"]["correlation"].null is not None


def test_positions_past_the_trained_context_are_those_of_the_grid(dictionary, model, worded):
    short = copy.deepcopy(dictionary)
    short.origin = dataclasses.replace(short.origin, context=6)
    found, _ = compare(("positions",), short, model, worded, neurons=False)
    l0 = by_position(dictionary, Place(model, worded, SITE), n_tokens=FEW.n_tokens).l0
    mine = found["mine"]["positions"]
    for where, part in (("in its context", l0[:, :6]), ("past it", l0[:, 6:])):
        assert mine[f"l0 {where}"].value == pytest.approx(np.nanmean(part))
        assert mine[f"fvu {where}"].applicable


def test_coordinates_are_made_up_by_one_unit_each_where_units_are_the_coordinates(model, worded):
    config = dataclasses.replace(FEW, measures=("polysemanticity",))
    found = survey(
        {"mine": Linear.of(torch.eye(24))}, model, worded, config, site=SITE, neurons=False
    )
    mine = found["mine"]["polysemanticity"]
    assert mine["units_needed"].value == mine["coordinates_explained_to_0.8"].value == 1
    assert mine["coordinates_explained_to_0.8"].null == 0  # coordinates of other contexts


@pytest.mark.slow
def test_every_measure_is_taken_of_neurons_and_baselines_too(dictionary, model, worded):
    beside = EvaluateConfig(baselines=("pca",), n_baseline_tokens=500, matmul="fp32")
    found, _ = compare(tuple(NAMES), dictionary, model, worded, beside=beside)
    assert list(found) == ["mine", "neurons", "neurons_all", "pca"]
    for measured in found.values():
        assert list(measured) == list(NAMES)
        for name, measures in measured.items():
            assert measures, name
            for measure in measures.values():
                assert measure.applicable or measure.void.startswith("not applicable: ")


def test_a_researchers_own_tensors_are_measured_like_any_other(model, worded):
    mine = Linear.of(torch.randn(40, 24, generator=torch.Generator().manual_seed(0)), k=4)
    config = dataclasses.replace(FEW, measures=("geometry", "polysemanticity"))
    found = survey({"mine": mine}, model, worded, config, site=SITE, neurons=False)
    assert list(found) == ["mine"]
    assert found["mine"]["geometry"]["encoder_decoder_cosine"].value == pytest.approx(1)
    assert found["mine"]["polysemanticity"]["effective_contexts"].applicable


def test_what_needs_another_dictionary_or_has_no_name_is_refused(dictionary, model, worded):
    with pytest.raises(ConfigError, match="`mmcs` compares with another dictionary"):
        survey({"d": dictionary}, model, worded, SurveyConfig(measures=("mmcs",)), site=SITE)
    with pytest.raises(UnknownNameError, match="measure `mcs`. Did you mean `mmcs`"):
        SurveyConfig(measures=("mcs",))
    with pytest.raises(ConfigError, match="`ks` must be numbers from 1 on"):
        SurveyConfig(ks=(0,))
    with pytest.raises(ConfigError, match="`n_units` must be at least 1, got 0"):
        SurveyConfig(n_units=0)


def test_labels_are_those_of_the_text():
    pieces = [["", " The", "cat", "_x", "12", "\n ", "é"], ["", "=", "Dog", " tea", "!", "7", "7a"]]
    tokens = np.arange(14).reshape(2, 7)
    ordinary = np.ones((2, 7), bool)
    ordinary[:, 0] = False
    text = Text(np.arange(2), tokens, ordinary, pieces)
    alphabetic, letters = labels.first_letters(text)
    assert (
        alphabetic.tolist()
        == [True, True, False, False, False, False] + [False, True, True] + [False] * 3
    )
    assert letters["t"].tolist() == [True] + [False] * 7 + [True] + [False] * 3
    assert letters["d"].sum() == 1
    found = labels.kinds(text)
    words = [labels.KINDS[k] for k in found["kind of token"]]
    assert words == [
        *["word"] * 3,
        "number",
        "space",
        "other",
        "sign",
        "word",
        "word",
        "sign",
        "number",
        "other",
    ]
    before = [labels.KINDS[k] for k in found["kind of token before"]]
    assert before == ["special", *words[:5], "special", *words[6:11]]
    assert found["space in front"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    kept = labels.frequent({"a": found["kind of token"]}, 2)
    assert [w for w, k in zip(words, kept, strict=True) if not k] == ["space"]


def test_the_rest_of_a_character_is_of_its_kind_and_rare_kinds_take_others_along():
    pieces = [["", "é", "", "a", "", "b"]]
    ordinary = np.array([[False, True, True, True, False, True]])
    text = Text(np.arange(1), np.arange(6)[None], ordinary, pieces)
    found = labels.kinds(text)
    assert [labels.KINDS[k] for k in found["kind of token"]] == ["other", "other", "word", "word"]
    before = [labels.KINDS[k] for k in found["kind of token before"]]
    assert before == ["special", "other", "other", "special"]
    a, b = np.array([0] * 60 + [1] * 50), np.array([0] * 50 + [1] * 60)
    kept = labels.frequent({"a": a, "b": b}, 50)
    for classes in (a[kept], b[kept]):
        assert (np.bincount(classes)[np.unique(classes)] >= 50).all()


def test_rows_that_are_scaled_by_each_activation_are_not_edited(model, worded):
    inner = TopKConfig(n_latents=30, k=3)
    scaled = Normalised(NormalisedConfig(d_in=24, n_latents=30, inner=inner))
    config = dataclasses.replace(FEW, measures=("perturbation", "absorption", "disentanglement"))
    found = survey({"n": scaled}, model, worded, config, site=SITE, neurons=False)
    voids = {m.void for measures in found["n"].values() for m in measures.values()}
    assert voids == {"not applicable: its rows are scaled by each activation"}


def test_the_help_of_measures_names_them_all():
    source = inspect.getsource(SurveyConfig)
    said = source[source.index('"""Which:') : source.index("rules: tuple")]
    assert all(name in said for name in NAMES)


def test_shares_have_wilsons_interval(dictionary, model, worded):
    config = dataclasses.replace(FEW, measures=("density",), n_tokens=60)
    found = survey({"mine": dictionary}, model, worded, config, site=SITE, neurons=False)
    alive = found["mine"]["density"]["alive"]
    fired = draw(dictionary, Place(model, worded, SITE), n_tokens=60).n_fired()
    assert 0 < int((fired > 0).sum()) < alive.n == 40
    theirs = binomtest(int((fired > 0).sum()), 40).proportion_ci(0.95, method="wilson")
    assert (alive.low, alive.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_units_that_coordinates_need_are_counted_and_so_are_those_that_none_make_up(
    is_that_of_a_median,
):
    """Nine coordinates are sums of one, two or three units; six are noise."""
    random = np.random.default_rng(0)
    units = random.random((1200, 18)) * (random.random((1200, 18)) < 0.3)
    x, first = random.normal(size=(1200, 15)), 0
    for coordinate in range(9):
        n = 1 + coordinate % 3
        x[:, coordinate] = units[:, first : first + n].sum(1)
        first += n
    ordinary = np.ones((60, 20), bool)
    text = Text(np.arange(60), np.ones((60, 20), int), ordinary, [[""] * 20] * 60)
    found = _accounted(Sample(text, torch.from_numpy(x), csr_array(units)), 0)
    share = found["coordinates_explained_to_0.8"]
    theirs = binomtest(9, 15).proportion_ci(0.95, method="wilson")
    assert (share.low, share.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert is_that_of_a_median(found["units_needed"], [1, 2, 3] * 3 + [33.0] * 6)


def test_the_mean_over_labels_has_students_interval():
    values = np.array([0.7, 0.95, 0.6, 0.8])
    known = [Measure(value=float(v), null=0.5 - v / 10, n=99) for v in values]
    found = _over([*known, not_applicable("made by hand")])
    theirs = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 4)
    assert found.null == pytest.approx(0.5 - values.mean() / 10)
    assert _over(known[:2]).void == "not applicable: it applies to 2 of 2 labels, of at least 3"
