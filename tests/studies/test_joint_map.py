import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem.metrics.sample import Sample, Text
from monosem.studies.towards_monosemanticity.joint_map import first_tokens, grouped, listed

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, -1])
SECOND = torch.tensor([False, True, True, True, True, True, False, False, False, True, False])
TOKENS = [["a"], ["a"], ["b"], ["c"], ["c"], ["c"], ["d"], ["d"], ["e"], [], ["f"]]


def test_groups_of_both_are_counted_beside_sorts_dealt_out_anew():
    groups, in_one, both = grouped(GROUPS, SECOND, seed=0)
    assert groups.here == 3
    assert in_one.here == pytest.approx(10 / 11)
    assert both.here.startswith("0.667 (chance ")
    (all_of_one,) = grouped(GROUPS, torch.zeros(11, dtype=torch.bool), seed=0)[2:]
    assert all_of_one.here == "0 (chance 0 to 0)"


def test_without_groups_nothing_is_claimed():
    (item,) = grouped(torch.full((5,), -1), torch.ones(5, dtype=torch.bool), seed=0)
    assert item.here == "not applicable: there are no groups"


def test_groups_of_both_are_listed_the_largest_first_with_the_latents_of_each():
    larger, smaller = listed(GROUPS, SECOND, TOKENS)
    assert larger.item == "a group of 3 and 1: first tokens of its latents"
    assert larger.here == "'d' 2 'e' 1"
    assert smaller.item == "a group of 1 and 2: first tokens of its latents"
    assert smaller.here == "'a' 2 'b' 1"


def test_the_tokens_of_a_latent_are_those_that_hold_most_of_its_activation():
    tokens = np.array([[0, 1, 2, 1, 5]])
    ordinary = np.array([[True, True, True, True, False]])
    latents = csr_array(np.array([[3.0, 0, 1], [0, 1, 2], [1.0, 0, 4], [0, 1, 2.5]], np.float32))
    text = Text(np.array([0]), tokens, ordinary, [list("abcbf")])
    sample = Sample(text, torch.zeros(4, 2), latents)
    # Latent 2: 1 on a, 2 + 2.5 on b, 4 on c.
    assert first_tokens(sample, np.array([2, 0]), 6, lambda t: "abcdef"[t]) == [
        ["b", "c", "a"],
        ["a", "c"],
    ]
