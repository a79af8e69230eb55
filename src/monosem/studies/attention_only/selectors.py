"""Boolean functions of selectors by one head, and what they take."""

from collections.abc import Iterator

import torch

from monosem.constructions import boolean
from monosem.studies.attention_only.claim import Claim, checked


def selectors(size: int) -> Iterator[Claim]:
    """Yield the claims on AND, OR and XOR."""
    k, error, exact = 3 + (size > 1), 1e-6, torch.float64
    matches = boolean.bit_matches(k)
    both, either = boolean.conjunction(matches), boolean.disjunction(matches)
    for name, head in (("AND", both), ("OR", either), ("XOR", boolean.exclusive(matches))):
        yield checked(
            f"{name} of {k} selectors, with BOS for rows without a match, at the T of the bound",
            exact,
            error,
            lambda head=head: head.error(head.temperature_for(error), bos=True),
        )
    yield checked(
        f"AND of {k} selectors takes a width linear in {k} (width)",
        exact,
        float(k + 1),
        lambda: float(both.width),
    )
    yield checked(
        f"OR of {k} matches takes at least 2^{k} − 1 dimensions: the blow-up (bound: width found)",
        exact,
        float(either.width),
        lambda: float(either.width_bound),
    )
