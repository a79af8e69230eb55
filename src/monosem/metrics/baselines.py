"""Baselines of a site, fitted to its training split: what a dictionary there must beat.

    random     random unit directions, as many as the dictionary has latents, about the mean of the
               sample and at the length that explains it best
    pca, ica   axes with a latent for each sign; the k largest kept
    nmf        as many factors as the site is wide, codes by non-negative least squares; for neurons
    classical  sparse coding, an atom a dimension, k of them by orthogonal matching pursuit

k is the l0 of the dictionary they stand beside. The neuron basis is measured without being asked for
(`evaluate.py`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError, unknown_name
from monosem.core.progress import progress
from monosem.dictionaries.fitted import classical, ica, nmf, pca
from monosem.dictionaries.linear import Linear, LinearConfig
from monosem.metrics.stream import AnyDictionary, Place, activations, blocks, first, visit

BASELINES = ("random", "pca", "ica", "nmf", "classical")
ROWS_AT_ONCE = 2048
"""Rows that are encoded at once in fitting."""
CLASSICAL_ROWS, CLASSICAL_ROUNDS = 8192, 8
"""What classical dictionary learning sees: a minute's work at a site 512 wide, on one core."""
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
    x = sample(place, n_tokens, seed, batch)
    if len(x) < FEWEST_A_DIMENSION * x.shape[1]:
        raise ConfigError(
            f"{len(x):,} activations are too few to fit baselines {x.shape[1]} wide. Raise "
            f"`n_baseline_tokens` to {FEWEST_A_DIMENSION * x.shape[1]:,} or more."
        )
    found: dict[str, AnyDictionary] = {}
    with progress("baselines", len(names)) as bar:
        for name in names:
            found[name] = _fit(name, x, n_latents, k, seed)
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
    name: str, x: Float[Tensor, "sample d_in"], n_latents: int, k: int, seed: int
) -> AnyDictionary:
    width = x.shape[1]
    if name == "random":
        return _random(x, n_latents, k, seed)
    if name == "pca":
        return pca(x, k=min(k, 2 * width))
    if name == "ica":
        return ica(x, k=min(k, 2 * width), seed=seed)
    if name == "nmf":
        return nmf(x, width, seed=seed)
    few = x[:CLASSICAL_ROWS]
    return classical(few, width, k=min(k, width), n_rounds=CLASSICAL_ROUNDS, seed=seed)


def _random(x: Float[Tensor, "sample d_in"], n_latents: int, k: int, seed: int) -> Linear:
    """Return random directions that overshoot no more: many that are not orthogonal add up."""
    rows = Linear(LinearConfig(d_in=x.shape[1], n_latents=n_latents, seed=seed)).W_dec
    mean, kept = x.mean(0), min(k, n_latents)
    plain = Linear.of(rows, b_dec=mean, k=kept)
    made = torch.cat([plain(part) - mean for part in x.split(ROWS_AT_ONCE)])
    size = float((made * (x - mean)).sum() / made.square().sum().clamp_min(1e-30))
    return Linear.of(rows, size * rows.t(), b_dec=mean, k=kept, called="random")
