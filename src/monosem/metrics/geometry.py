"""Geometry of a dictionary's directions, from its weights alone.

    encoder_decoder_cosine   cos(W_enc[:, i], W_dec[i])                     of each latent
    largest_cosine           max over j ≠ i of cos(W_dec[i], W_dec[j])      1: the latent is there twice
    effective_dimension      (Σ λ)² / Σ λ²       λ: eigenvalues of the rows' second moments
    dimensionality           ‖w_i‖² / Σ_j (ŵ_i · w_j)²      of each row; their sum is the rank, for a
                             frame that is spread evenly

Nulls are random unit directions of the same number and width: in few dimensions even they lie close to
one another. `effective_dimension` is the participation ratio; `dimensionality` is of Elhage et al. 2022,
"Toy models of superposition".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ShapeMismatchError
from monosem.metrics.measure import Measure, median, not_applicable

ROWS_AT_ONCE = 1024
"""Rows whose cosines with all others exist at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """What the weights of a dictionary say of its directions; medians are over latents."""

    encoder_decoder: Float[Tensor, " n_latents"]
    largest: Float[Tensor, " n_latents"]
    encoder_decoder_cosine: Measure
    largest_cosine: Measure
    """Its chance is that of random directions."""
    effective_dimension: Measure
    dimensionality: Measure

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        names = ("encoder_decoder_cosine", "largest_cosine", "effective_dimension")
        return {name: getattr(self, name) for name in (*names, "dimensionality")}


@torch.no_grad()
def geometry(
    W_enc: Float[Tensor, "d_in n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
    *,
    seed: int = 0,
) -> Geometry:
    """Return the geometry of a dictionary of these weights.

    Encoder and decoder have a cosine where both are of one space, as wide as each other.
    """
    random = random_directions(len(W_dec), W_dec.shape[1], seed)
    largest = largest_cosine(W_dec)
    at_chance = largest_cosine(random)
    if W_enc.shape == W_dec.t().shape:
        along = encoder_decoder_cosine(W_enc, W_dec)
        encoder = _median(along, seed, null=0.0)
    else:
        along = torch.full((len(W_dec),), torch.nan, device=W_dec.device)
        encoder = not_applicable(f"it reads width {len(W_enc)} and writes {W_dec.shape[1]}")
    return Geometry(
        encoder_decoder=along,
        largest=largest,
        encoder_decoder_cosine=encoder,
        largest_cosine=_median(largest, seed, null=float(at_chance.median())),
        effective_dimension=Measure(
            value=effective_dimension(unit_rows(W_dec)),
            null=effective_dimension(random),
            n=len(W_dec),
        ),
        dimensionality=_median(
            dimensionality(W_dec), seed, null=float(dimensionality(random).median())
        ),
    )


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows at length 1; a row of zeros stays one."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def random_directions(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    """Return random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(n, d, generator=generator))


def encoder_decoder_cosine(
    W_enc: Float[Tensor, "d_in n"], W_dec: Float[Tensor, "n_latents d_out"]
) -> Float[Tensor, " n_latents"]:
    """Return the cosine of each latent's encoder and decoder vector; 0 where one is zero."""
    if W_enc.shape != W_dec.t().shape:
        raise ShapeMismatchError(
            f"`W_enc` has shape {tuple(W_enc.shape)}; beside `W_dec` of {tuple(W_dec.shape)} it must have "
            f"{tuple(W_dec.t().shape)}. Transpose it, perhaps."
        )
    return (unit_rows(W_enc.t()) * unit_rows(W_dec)).sum(1)


def largest_cosine(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the largest cosine of each row with any other; −1 for a row that is alone."""
    unit = unit_rows(rows)
    found = rows.new_full((len(rows),), -1.0)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        some = unit[start : start + ROWS_AT_ONCE]
        cosines = some @ unit.t()
        own = torch.arange(len(some), device=rows.device)
        cosines[own, start + own] = -1.0
        found[start : start + len(some)] = cosines.amax(1)
    return found


def effective_dimension(x: Float[Tensor, "n d"]) -> float:
    """Return the participation ratio of the second moments of `x`: d where all directions count alike.

    Of activations, subtract their mean first.

    >>> round(
    ...     effective_dimension(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])), 3
    ... )
    2.0
    """
    moments = (
        x.double().t() @ x.double() if x.shape[0] > x.shape[1] else x.double() @ x.double().t()
    )
    return float(moments.diagonal().sum() ** 2 / moments.square().sum())


def dimensionality(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the share of a dimension that each row has to itself: 1 alone, 1/2 of an antipodal pair."""
    unit = unit_rows(rows)
    found = [
        (some @ rows.t()).square().sum(1) for some in unit.split(ROWS_AT_ONCE)
    ]  # Σ_j (ŵ_i · w_j)²
    squares = rows.square().sum(1)
    return torch.where(squares > 0, squares / torch.cat(found).clamp_min(1e-30), 0.0)


def _median(values: Float[Tensor, " n"], seed: int, null: float) -> Measure:
    return median(values.double().cpu().numpy(), seed=seed, null=null)
