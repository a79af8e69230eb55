"""What a latent's decoder row says by itself: the tokens it promotes, and its nearest neighbours.

    effect[l, t] = logit_effects(W_dec)[l, t] - median over t           (Bricken et al. 2023)

over tokens that occur in the token store: the others' unembedding was never trained to mean
anything. Equal values are ranked by index, so that a database is the same wherever it is built.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.features.tables import Ranked
from monosem.models.language_model import LanguageModel

BLOCK = 1024
"""Latents at a time; a block of effects is BLOCK · vocabulary floats."""


def logit_tokens(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    site: str,
    used: Int64[Tensor, " used"],
    n: int,
) -> tuple[Ranked, Ranked]:
    """Return the `n` tokens among `used` that each latent promotes most, and suppresses most.

    None of them at a site whose directions do not act on the residual stream linearly. A latent that
    writes several sites (joined by a comma and a space) does all of it at once; those of a crosscoder
    say the same thing at several sites, and have none.
    """
    sites = site.split(", ")
    columns = dictionary.wiring.columns_out(dictionary.d_out)
    none = Ranked.none(dictionary.n_latents)
    if len(sites) > 1 and dictionary.wiring.autoencodes:
        return none, none
    try:
        for own, part in zip(sites, columns, strict=True):
            model.direction_in_residual(own, dictionary.W_dec[:1, part].to(model.device))
    except ConfigError:  # what `direction_in_residual` says of such a site
        return none, none
    top: list[tuple[Tensor, Tensor]] = []
    bottom: list[tuple[Tensor, Tensor]] = []
    for rows in dictionary.W_dec.split(BLOCK):
        each = [
            model.logit_effects(own, rows[:, part].to(model.device))
            for own, part in zip(sites, columns, strict=True)
        ]
        together = each[0] if len(each) == 1 else torch.stack(each).sum(0)
        effects = together.float().cpu()[:, used]
        effects = effects - effects.median(dim=1, keepdim=True).values
        top.append(largest(effects, n))
        bottom.append(largest(-effects, n))
    return _ranked(top, used, 1), _ranked(bottom, used, -1)


def neighbours(W_dec: Float[Tensor, "n_latents d_out"], n: int) -> Ranked:
    """Return the `n` latents with the largest cosine between decoder rows; orthogonal ones are none."""
    norms = torch.linalg.vector_norm(W_dec, dim=1, keepdim=True)
    unit = W_dec / torch.where(norms > 0, norms, 1.0)
    found: list[tuple[Tensor, Tensor]] = []
    for first, rows in zip(range(0, len(unit), BLOCK), unit.split(BLOCK), strict=True):
        cosines = rows @ unit.T
        own = torch.arange(len(rows))
        cosines[own, first + own] = -torch.inf
        found.append(largest(cosines, min(n, len(unit) - 1)))
    ranked = _ranked(found, torch.arange(len(unit)), 1)
    values = ranked.values
    values[~(values > 0)] = torch.nan
    return Ranked(indices=ranked.indices, values=values)


def largest(
    values: Float[Tensor, "rows columns"], n: int
) -> tuple[Int64[Tensor, "rows n"], Float[Tensor, "rows n"]]:
    """Return columns and values of the `n` largest of each row, equal ones by column.

    `torch.topk` may keep any of several equal values, so rows with a tie at the border are sorted
    whole.
    """
    n = min(n, values.shape[1])
    if n == 0 or len(values) == 0:
        return torch.zeros(len(values), n, dtype=torch.int64), values[:, :n]
    # One more tells whether there is a tie at the border; counting in whole rows costs five times as much.
    found, columns = values.topk(min(n + 1, values.shape[1]), dim=1)
    tied = (found[:, n - 1 : n] == found[:, n:]).any(1).nonzero()[:, 0]
    columns = columns[:, :n]
    columns[tied] = values[tied].argsort(dim=1, descending=True, stable=True)[:, :n]
    columns = columns.sort(dim=1).values
    found = values.gather(1, columns)
    order = found.argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), found.gather(1, order)


def _ranked(
    parts: list[tuple[Tensor, Tensor]], names: Int64[Tensor, " columns"], sign: int
) -> Ranked:
    indices = torch.cat([columns for columns, _ in parts])
    values = torch.cat([found for _, found in parts])
    return Ranked(indices=names[indices].numpy(), values=(sign * values).double().numpy())
