"""Splitting: what is said of the latents of two widths that are joined, counted by hand."""

import math

import pytest
import torch

from monosem.metrics.measure import Measure
from monosem.metrics.universality import Similarity
from monosem.studies.towards_monosemanticity.splitting import _edges, edge

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
        "4 × to 2 ×, on 30 tokens or more: latents that are joined to one, from 0.40 on (1 % by chance)"
    )
    assert (joined.here, joined.unit) == ("0.6 of 5", "share")
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
    assert joined.item.endswith("from 0.70 on (1 % by chance)")
    assert joined.here == "0.5 of 4"
    assert split.here == "0.5 (chance 0) of 2"
    assert most.here == "2 (chance 1)"


def test_where_no_latent_fires_often_enough_nothing_is_said_of_joins() -> None:
    (item,) = _edges("2 × to 1 ×", None, 16, 50)
    assert item.item == "2 × to 1 ×, on 50 tokens or more"
    assert item.here == "not applicable: no latent fires on so many"
