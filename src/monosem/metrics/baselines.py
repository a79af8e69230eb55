"""Baselines of a site, fitted to its training split: what a dictionary there must beat.

    random     random unit directions, as many as the dictionary has latents
    pca, ica   axes with a latent for each sign; the k largest kept
    nmf        as many factors as the site is wide, codes by non-negative least squares; for neurons
    classical  sparse coding, an atom a dimension, k of them by orthogonal matching pursuit

k is the l0 of the dictionary they stand beside. The neuron basis is measured without being asked for
(`evaluate.py`).
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError, unknown_name
from monosem.core.progress import progress
from monosem.dictionaries.fitted import classical, ica, nmf, pca
from monosem.dictionaries.linear import Linear, LinearConfig
from monosem.metrics.stream import AnyDictionary, Place, activations, blocks, first, visit

BASELINES = ("random", "pca", "ica", "nmf", "classical")
FEWEST_A_DIMENSION = 4
"""Rows of a sample for each dimension of the site, below which nothing is fitted."""


def check_baselines(names: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a name that is none of `BASELINES`."""
    for name in names:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)


def fit_baselines(
    names: Sequence[str],
    place: Place,
    *,
    n_latents: int,
    k: int,
    n_tokens: int,
    seed: int,
    batch: int,
) -> dict[str, AnyDictionary]:
    """Return the baselines `names` of the site of `place`, fitted to about `n_tokens` activations.

    `ConfigError` where the sample is too small for the width of the site.
    """
    check_baselines(names)
    if not names:
        return {}
    x = sample(place, n_tokens, seed, batch) if set(names) - {"random"} else None
    if x is not None and len(x) < FEWEST_A_DIMENSION * x.shape[1]:
        raise ConfigError(
            f"{len(x):,} activations are too few to fit baselines {x.shape[1]} wide. Raise "
            f"`n_baseline_tokens` to {FEWEST_A_DIMENSION * x.shape[1]:,} or more."
        )
    found: dict[str, AnyDictionary] = {}
    with progress("baselines", len(names)) as bar:
        for name in names:
            found[name] = _fit(name, x, place.width, n_latents, k, seed)
            bar.advance()
    return found


@torch.no_grad()
def sample(place: Place, n_tokens: int, seed: int, batch: int) -> Float[Tensor, "sample d_in"]:
    """Return about `n_tokens` activations of ordinary tokens of the training split, on the CPU."""
    contexts = first(visit(place.store, "train", seed), place.store, n_tokens)
    device = place.model.device
    parts = [
        activations(place, block)[block.ordinary.to(device)].cpu()
        for block in blocks(place.store, contexts, batch)
    ]
    return torch.cat(parts)[:n_tokens]


def _fit(
    name: str, x: Float[Tensor, "sample d_in"] | None, width: int, n_latents: int, k: int, seed: int
) -> AnyDictionary:
    if name == "random":
        return Linear(LinearConfig(d_in=width, n_latents=n_latents, k=min(k, n_latents), seed=seed))
    rows = cast(Tensor, x)
    if name == "pca":
        return pca(rows, k=min(k, 2 * width))
    if name == "ica":
        return ica(rows, k=min(k, 2 * width), seed=seed)
    if name == "nmf":
        return nmf(rows, width, seed=seed)
    return classical(rows, width, k=min(k, width), seed=seed)
