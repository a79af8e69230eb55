"""A specification becomes a dictionary that computes what it says, and gives back what it was."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary, DictionaryConfig, architectures, load
from monosem.dictionaries.formats.build import dictionary_of, exceeded, specification_of
from monosem.dictionaries.formats.specification import Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

D, F = 12, 40
KINDS = ("relu", "topk", "jumprelu", "gated")
AXES = {
    "plain": Axes(subtract_b_dec=False),
    "subtracting": Axes(subtract_b_dec=True),
    "scaled": Axes(subtract_b_dec=True, normalisation="scale", scale=3.7, output_scale=3.7),
    "rescaled": Axes(subtract_b_dec=False, normalisation="scale", scale=0.3, output_scale=2.0),
    "both": Axes(subtract_b_dec=True, normalisation="scale", scale=0.3, output_scale=2.0),
    "layer_norm": Axes(subtract_b_dec=True, normalisation="layer_norm"),
    "unit_rms": Axes(subtract_b_dec=False, normalisation="unit_rms"),
    "by_norm": Axes(subtract_b_dec=True, choose_by_norm=True),
}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def specified(kind: str, axes: Axes, *, unit: bool = False, **given: Any) -> Specification:
    W_dec = draw(F, D, seed=1) * (0.2 + torch.rand(F, 1, generator=torch.manual_seed(2)))
    if unit:
        W_dec = torch.nn.functional.normalize(W_dec, dim=1)
    own: dict[str, Any] = {"topk": {"k": 6}, "jumprelu": {"threshold": draw(F, seed=5)}}.get(
        kind, {}
    )
    if kind == "gated":
        own = {"r_mag": 0.3 * draw(F, seed=6), "b_mag": draw(F, seed=7)}
    settings_ = {
        "W_enc": draw(D, F, seed=3) / D**0.5,
        "W_dec": W_dec,
        "b_enc": 0.3 * draw(F, seed=4),
        "b_dec": 0.5 * draw(D, seed=8),
        **own,
        **given,
    }
    return Specification(activation=kind, axes=axes, **settings_)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("kind", "axes"), list(itertools.product(KINDS, AXES)))
def test_a_dictionary_computes_its_specification(
    kind: str, axes: str, unit: bool, canonical: Any
) -> None:
    s = specified(kind, AXES[axes], unit=unit, centre=0.2 * draw(D, seed=9))
    x = 2 * draw(64, D, seed=10) + 0.3
    dictionary, (latents, y) = dictionary_of(s), canonical(s, x.double().numpy())
    np.testing.assert_allclose(dictionary(x).detach(), y, rtol=1e-4, atol=1e-5)
    found = dictionary.encode(x).detach().numpy()
    np.testing.assert_array_equal(found > 0, latents > 0)
    norms = dictionary.W_dec.detach().norm(dim=1)
    kept = kind == "topk" and not s.axes.choose_by_norm and not unit
    assert dictionary.conventions.unit_rows is not kept
    if not kept:
        torch.testing.assert_close(norms, torch.ones(F))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_raw_form_already_stays_bit_for_bit_and_comes_back(
    kind: str, tmp_path: Path
) -> None:
    place = Place(model="m", site="blocks.1.hook_resid_pre", context=64, prepend_bos=True, fvu=0.25)
    s = specified(kind, AXES["subtracting"], unit=True, place=place)
    if s.threshold is not None:
        s = dataclasses.replace(s, threshold=s.threshold.abs() / 7)
    built = dictionary_of(s)
    built.save(tmp_path / "it", site=built.site, model="m", metrics=built.origin.metrics)
    for dictionary in (built, load(tmp_path / "it")):
        again = specification_of(dictionary)
        assert again.axes == s.axes
        assert again.place == s.place
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "r_mag", "b_mag"):
            before, after = getattr(s, name), getattr(again, name)
            assert (before is None) == (after is None), name
            assert before is None or torch.equal(before, after), name


@given(value=st.floats(0, 2.0**100, width=32), inclusive=st.booleans())
@settings(max_examples=200, deadline=None)
def test_thresholds_are_kept_exactly_as_logarithms(value: float, inclusive: bool) -> None:
    threshold = torch.tensor([value], dtype=torch.float32)
    least = exceeded(threshold, inclusive=inclusive)
    assert torch.equal(least.double().log().exp().float(), least)
    for pre in (threshold, torch.nextafter(threshold, torch.tensor(math.inf))):
        wanted = (pre >= threshold if inclusive else pre > threshold) & (pre > 0)
        assert torch.equal(pre > least, wanted) or float(pre) == 0


@given(value=st.floats(1e-30, 1e30), inclusive=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_threshold_of_float64_divides_float32_numbers_where_it_did(
    value: float, inclusive: bool
) -> None:
    threshold = torch.tensor([value], dtype=torch.float64)
    least = exceeded(threshold, inclusive=inclusive)
    near = threshold.float()
    for pre in (near, *(torch.nextafter(near, torch.tensor(t)) for t in (-math.inf, math.inf))):
        wanted = pre.double() >= threshold if inclusive else pre.double() > threshold
        assert torch.equal(pre > least, wanted)


def test_what_equals_its_threshold_is_active_only_where_that_is_said() -> None:
    one = torch.eye(2)
    plain = dict(W_enc=one, W_dec=one, b_enc=torch.zeros(2), b_dec=torch.zeros(2))
    threshold, x = torch.tensor([0.3, 0.3]), torch.tensor([[0.3, 0.30000004]])
    for inclusive, wanted in ((True, [True, True]), (False, [False, True])):
        axes = Axes(subtract_b_dec=False, inclusive=inclusive)
        s = Specification(activation="jumprelu", axes=axes, threshold=threshold, **plain)
        assert (dictionary_of(s).encode(x)[0] > 0).tolist() == wanted


def test_a_row_of_zeros_that_competes_by_norm_displaces_none(canonical: Any) -> None:
    s = specified("topk", AXES["by_norm"])
    s.W_dec[::2] = 0
    x = 2 * draw(64, D, seed=10)
    latents, _ = canonical(s, x.double().numpy())
    found = dictionary_of(s).encode(x).detach().numpy()
    np.testing.assert_array_equal(found[:, 1::2] > 0, latents[:, 1::2] > 0)
    assert not found[:, ::2].any()


def test_a_topk_with_rows_of_other_lengths_folds_by_the_scale_alone() -> None:
    dictionary, x = dictionary_of(specified("topk", AXES["plain"])), draw(9, D, seed=0)
    folded = dictionary.folded(2.5)
    assert torch.equal(folded.W_dec, dictionary.W_dec)
    torch.testing.assert_close(folded(2.5 * x), 2.5 * dictionary(x))


def test_a_skip_becomes_the_dictionarys(canonical: Any) -> None:
    axes = Axes(subtract_b_dec=False, normalisation="scale", scale=0.5, output_scale=4.0)
    wiring = Wiring(kind="transcoder")
    s = specified("relu", axes, W_skip=draw(D, D, seed=11), wiring=wiring)
    x = draw(20, D, seed=12)
    y = canonical(s, x.double().numpy())[1]
    np.testing.assert_allclose(dictionary_of(s)(x).detach(), y, rtol=1e-4, atol=1e-5)


def test_float64_is_rounded_once_and_that_is_said() -> None:
    s = specified("relu", AXES["plain"], b_enc=draw(F, seed=4).double() / 3)
    dictionary = dictionary_of(s)
    assert dictionary.origin.remarks == ("b_enc of float64 were rounded to float32",)
    assert dictionary.b_enc.dtype == torch.float32


def test_one_without_an_encoder_has_none_and_that_is_said(build: Any) -> None:
    with pytest.raises(ConfigError, match=r"`coded` computes what no format expresses"):
        specification_of(build("coded"))


@pytest.mark.parametrize("name", sorted({*architectures()} - {"coded"}))
def test_every_architecture_has_a_specification(name: str, build: Any, canonical: Any) -> None:
    dictionary: Dictionary[Any] = build(name)
    with torch.no_grad():
        for which, parameter in dictionary.named_parameters():
            if which.rpartition(".")[2].startswith("b_"):
                parameter.copy_(0.1 * draw(*parameter.shape, seed=1))
    x, s = draw(30, D, seed=2), specification_of(dictionary)
    again = dictionary_of(s)
    torch.testing.assert_close(again(x), dictionary(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        dictionary(x).detach(), canonical(s, x.double().numpy())[1], rtol=1e-4, atol=1e-5
    )


class Own(Dictionary[DictionaryConfig]):
    architecture, loss_scale = "own", ""

    def __init__(self) -> None:
        super().__init__(DictionaryConfig(d_in=2, n_latents=2))
        self.W_enc = self.W_dec = torch.nn.Parameter(torch.eye(2))
        self.b_enc = self.b_dec = torch.nn.Parameter(torch.zeros(2))

    encode = encode_sparse = loss_terms = None


def test_an_architecture_of_ones_own_is_refused_by_name() -> None:
    Own.__abstractmethods__ = frozenset()
    with pytest.raises(ConfigError, match="`own`"):
        specification_of(Own())
