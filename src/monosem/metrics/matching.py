"""Matching: which latents two dictionaries have in common, by their decoder rows.

    mmcs       mean over i of max over j of cos(a_i, b_j)              from A to B; not symmetric
    hungarian  mean of cos over the best one-to-one assignment, and the share of it above 0.9

Mean maximum cosine similarity: Sharkey et al. 2022; the assignment: Cunningham et al. 2023
(arXiv:2309.08600), whose code has it. The null of both: the entries of B's rows dealt out anew among
rows and columns, so that as many candidates with the same entries stand there, but no direction.

Cosines say nothing of whether two latents fire together; `universality.py` does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monosem.core.errors import ShapeMismatchError
from monosem.metrics.geometry import ROWS_AT_ONCE, unit_rows
from monosem.metrics.measure import Measure, mean, not_applicable, share

SAME_ABOVE = 0.9
"""Cosine above which two directions count as the same one."""
MOST_ASSIGNED = 8192
"""Latents of the smaller dictionary for which the assignment is found at most: it takes cubic time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """What one dictionary's directions are in another; `null` of each is at chance."""

    nearest: Int64[Tensor, " n_a"]
    """The row of B that is nearest to each of A."""
    cosines: Float[Tensor, " n_a"]
    """Its cosine."""
    assigned: Float[Tensor, " n_pairs"]
    """Cosines of the one-to-one assignment, as many as the smaller of both has; none if not applicable."""
    mmcs: Measure
    hungarian: Measure
    above: Measure
    """Share of the assigned pairs with a cosine above `SAME_ABOVE`."""

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        return {
            "mmcs": self.mmcs,
            "hungarian_cosine": self.hungarian,
            "hungarian_above_0.9": self.above,
        }


@torch.no_grad()
def matching(
    a: Float[Tensor, "n_a d_a"], b: Float[Tensor, "n_b d_b"], *, seed: int = 0
) -> Matching:
    """Return how the rows of `a` are found among the rows of `b`."""
    if a.shape[1] != b.shape[1]:
        raise ShapeMismatchError(
            f"The rows have widths {a.shape[1]} and {b.shape[1]}: no cosine is between them. Compare "
            "dictionaries of one site, or use `universality.similarity`, which compares activations."
        )
    a, b = a.float(), b.to(a.device).float()
    cosines, nearest = best_cosines(a, b)
    chance = shuffled_entries(b, seed)
    by_chance, _ = best_cosines(a, chance)
    small = min(len(a), len(b))
    void = f"the smaller has {small:,} latents, and {MOST_ASSIGNED:,} are assigned at most"
    assigned, at_chance = torch.zeros(0), torch.zeros(0)
    if small <= MOST_ASSIGNED:
        assigned, at_chance = assignment(a, b), assignment(a, chance)
    known = assigned.double().numpy()
    null = float(at_chance.mean()) if small <= MOST_ASSIGNED else None
    null_above = float((at_chance > SAME_ABOVE).double().mean()) if null is not None else None
    return Matching(
        nearest=nearest,
        cosines=cosines,
        assigned=assigned,
        mmcs=mean(cosines.double().cpu().numpy(), seed=seed, null=float(by_chance.mean())),
        hungarian=mean(known, seed=seed, null=null) if len(known) else not_applicable(void),
        above=share(int((known > SAME_ABOVE).sum()), len(known), null=null_above)
        if len(known)
        else not_applicable(void),
    )


def best_cosines(
    a: Float[Tensor, "n_a d"], b: Float[Tensor, "n_b d"]
) -> tuple[Float[Tensor, " n_a"], Int64[Tensor, " n_a"]]:
    """Return the largest cosine of each row of `a` with any of `b`, and with which.

    >>> best_cosines(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    (tensor([0.7071]), tensor([1]))
    """
    others = unit_rows(b).t()
    found = [(some @ others).max(1) for some in unit_rows(a).split(ROWS_AT_ONCE)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def assignment(a: Float[Tensor, "n_a d"], b: Float[Tensor, "n_b d"]) -> Float[Tensor, " n_pairs"]:
    """Return the cosines of the one-to-one assignment with the largest sum of them."""
    cosines = (unit_rows(a) @ unit_rows(b).t()).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]


def shuffled_entries(rows: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n d"]:
    """Return the entries of `rows` in another order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows.numel(), generator=generator).to(rows.device)
    return rows.flatten()[order].view_as(rows)
