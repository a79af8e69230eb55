"""Splitting: what is said of the latents of two widths that are joined, counted by hand."""

import math

import pytest
import torch

from monosem.dictionaries.latents import ragged_from_dense
from monosem.metrics.measure import Measure
from monosem.metrics.universality import Similarity, similarity
from monosem.studies.towards_monosemanticity.splitting import LEAST, Often, _edges, children, edge

NAN = math.nan


def alike(
    nearest: list[int], masked: list[float], by_chance: list[int], masked_by_chance: list[float]
) -> Similarity:
    """What was found for each latent of the wider dictionary; correlations have no part in it."""
    rest = torch.full((len(nearest),), NAN)
    return Similarity(
        nearest=torch.zeros(len(nearest), dtype=torch.int64),
        correlations=rest,
        nearest_masked=torch.tensor(nearest),
        masked=torch.tensor(masked),
        by_chance=rest,
        nearest_masked_by_chance=torch.tensor(by_chance),
        masked_by_chance=torch.tensor(masked_by_chance),
        n_tokens=1000,
        correlation=Measure(value=None),
        masked_cosine=Measure(value=None),
    )


def test_latents_are_joined_from_the_papers_cosine_on_and_counted_with_their_chance() -> None:
    # Of five, the first, second and fourth reach 0.4: two are joined to latent 0 of three, one to latent 2.
    # By chance, where 1 % lies above 0.397, the fourth alone reaches it and is joined to latent 2.
    found = alike(
        nearest=[0, 0, 1, 2, 1],
        masked=[0.9, 0.4, 0.39, 0.5, NAN],
        by_chance=[0, 1, 1, 2, 0],
        masked_by_chance=[0.1, 0.2, 0.3, 0.4, NAN],
    )
    joined, split, most = _edges("4 × to 2 ×", found, 3, 30)
    assert joined.item == (
        "4 × to 2 ×, on 30 tokens or more: latents that are joined to one, from 0.40 on"
    )
    assert (joined.here, joined.unit) == ("0.6 (chance 0.2) of 5", "share")
    assert (split.here, split.unit) == ("0.333 (chance 0) of 3", "share")
    assert most.here == "2 (chance 1)"


def test_where_chance_finds_larger_cosines_latents_are_joined_above_them_alone() -> None:
    # 0.99 of the way through three draws is 0.98 of the way from 0.5 to 0.7.
    found = alike(
        nearest=[1, 1, 1, 0],
        masked=[0.69, 0.7, 0.95, 0.6],
        by_chance=[1, 0, 0, 1],
        masked_by_chance=[0.2, 0.7, 0.5, NAN],
    )
    assert edge(found) == pytest.approx(0.5 + 0.98 * 0.2)
    joined, split, most = _edges("8 × to 4 ×", found, 2, 50)
    assert joined.item.endswith("from 0.70 on")
    assert joined.here == "0.5 (chance 0.25) of 4"
    assert split.here == "0.5 (chance 0) of 2"
    assert most.here == "2 (chance 1)"


def test_where_no_latent_fires_often_enough_nothing_is_said_of_joins() -> None:
    (item,) = _edges("2 × to 1 ×", None, 16, 50)
    assert item.item == "2 × to 1 ×, on 50 tokens or more"
    assert item.here == "not applicable: no latent fires on so many"


def test_children_are_counted_above_what_chance_finds() -> None:
    void = Measure(value=None, void="not applicable: made by hand")
    found = Similarity(
        nearest=torch.zeros(4, dtype=torch.int64),
        correlations=torch.zeros(4),
        nearest_masked=torch.tensor([0, 0, 2, 2]),
        masked=torch.tensor([0.7, 0.9, 0.5, float("nan")]),
        by_chance=torch.zeros(4),
        nearest_masked_by_chance=torch.tensor([1, 1, 1, 1]),
        masked_by_chance=torch.tensor([0.6, 0.6, 0.6, 0.6]),
        n_tokens=1,
        correlation=void,
        masked_cosine=void,
    )
    assert edge(found) == pytest.approx(0.6)
    counts = children(found.masked, found.nearest_masked, edge(found), 3)
    assert counts.tolist() == [2.0, 0.0, 0.0]


def test_a_latent_that_fires_on_few_tokens_is_left_out() -> None:
    """Latent 1 of A fires once, where latent 1 of B does: masked cosine 1, of one token."""
    a, b = torch.zeros(2 * LEAST, 3), torch.zeros(2 * LEAST, 2)
    a[:LEAST, 0], a[0, 1], a[LEAST:, 2] = 1.0, 1.0, 1.0
    b[:LEAST, 1] = torch.rand(LEAST) + 0.1
    latents = [(ragged_from_dense(a[i::2]), ragged_from_dense(b[i::2])) for i in (0, 1)]
    kept = Often.of(latents, LEAST)
    assert kept.a.tolist() == [0, 2] and kept.b.tolist() == [1]
    found = kept.similarity(0)
    values = b[:LEAST, 1]
    assert found.masked[0] == pytest.approx(
        float(values.sum() / (LEAST * values.square().sum()).sqrt())
    )
    assert found.masked[1] == 0.0
    # all of them under their own numbers say the same of those
    whole = similarity(lambda: latents, 3, 2)
    assert whole.masked[[0, 2]].tolist() == found.masked.tolist() and not whole.masked[1].isnan()
    assert Often.of(latents, LEAST + 1).similarity(0) is None
