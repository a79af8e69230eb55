"""Masks in the weights, and products by two sublayers."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from monosem.constructions.gated import Product, unit_roundoff
from monosem.constructions.pseudo_mask import leak
from monosem.studies.attention_only.claim import Claim, checked, draw


def masks(size: int) -> Iterator[Claim]:
    """Yield how much attention leaks through masks that are in the weights."""
    n = 16 * size
    for omega in (10.0, 20.0):
        worst, bound = 0.0, 0.0
        for seed in range(5 * size):
            mask = (draw(seed, n, n) > 0) | torch.eye(n, dtype=torch.bool)
            found = leak(2 * draw(seed + 100, n, n), mask, omega)
            if found.measured / found.bound >= worst / max(bound, 1e-300):
                worst, bound = found.measured, found.bound
        yield checked(
            f"a mask in the weights with Ω = {omega:g} leaks no more than (N − |A|)·e^(Δ − Ω)",
            torch.float64,
            bound,
            lambda worst=worst: worst,
        )


def products(size: int) -> Iterator[Claim]:
    """Yield the errors of products by heads of small scores."""
    largest = 8.0
    for dtype in (torch.float64, torch.float32):
        a = torch.linspace(-largest, largest, 20_001 * size, dtype=dtype)
        u = draw(9, len(a)).to(dtype)
        for m in (1, 2, 3):
            product = Product(n_terms=m)
            roundoff = unit_roundoff(dtype)
            bound = product.error(largest, roundoff) + 2 * largest * roundoff
            yield checked(
                f"a product by {m} head{'s' * (m > 1)} and a centring head, per unit of u",
                dtype,
                bound,
                partial(_product_gap, product, a, u, product.epsilon(largest, roundoff)),
            )


def _product_gap(product: Product, a: Tensor, u: Tensor, epsilon: float) -> float:
    slopes = [4 * c / (j * epsilon) for j, c in enumerate(product.weights, 1)]
    heads = [s * u * torch.sigmoid(j * epsilon * a) for j, s in enumerate(slopes, 1)]
    made = torch.stack([*heads, -sum(slopes) * u / 2]).sum(0).double()
    return float(((made - a.double() * u.double()).abs() / u.double().abs()).max())
