"""What stands beside dictionaries of a site: every baseline, with as many latents on as each of them.

The dictionary's l0 is taken on held-out vectors. Those of which a whole number of latents is on are there
with the whole numbers below and above it; of NMF and LASSO a penalty is sought that leaves as many on. No
error is looked at for that. A baseline that cannot be there is left out, with the reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.linear import Linear
from monosem.metrics.baselines import PENALISED, PENALTY_ROWS, PENALTY_TRIES, Fitted, spread
from monosem.metrics.reconstruction import fvu
from monosem.metrics.stream import AnyDictionary
from monosem.studies.sparse_autoencoders.matched import overstated
from monosem.studies.sparse_autoencoders.setting import BATCH

NEURONS, IDENTITY = "neurons", "identity-relu"
LINE_ROWS = 1024
"""Held-out vectors on which it is seen how much the line between whole numbers overstates."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What baselines are made of, and held to."""

    x: Float[Tensor, "sample d_in"]
    """Vectors of the training split."""
    own: Float[Tensor, "heldout d_in"]
    """Vectors of the held-out one."""
    fitted: Fitted | ConfigError
    """Or why nothing can be fitted: a wide site leaves the coordinates to compare with."""
    positive: bool
    """Whether coordinates are neurons, which are positive; others count with both signs about the mean."""
    n_text: int
    """Tokens of the held-out text, special ones too: each has codes."""
    most_lasso: int
    """Vectors times the square of the atoms, up to which LASSO codes are solved for."""


class Opponents:
    """Baselines by name and l0; what is not there, and what those there were learned from."""

    def __init__(self, names: Sequence[str], site: Site, l0s: Sequence[float]) -> None:
        self._site, self._l0s = site, l0s
        self.every: dict[str, AnyDictionary] = {}
        """By key: what is to be measured."""
        self.missing: dict[str, str] = {}
        """Reasons, by name."""
        with progress("baselines", len(names)) as bar:
            for name in names:
                try:
                    self.every |= self._made(name)
                except ConfigError as error:
                    self.missing[name] = str(error)
                bar.advance()
        self.names = [name for name in names if name not in self.missing]

    def keys(self, name: str, i: int) -> list[str]:
        """Return the keys of the baseline around the l0 of the i-th dictionary."""
        if name == IDENTITY:  # it has an l0 of its own
            return [name]
        if name in PENALISED:
            return [f"{name} beside {i}"]
        return [f"{name} {k}" for k in around(self._l0s[i])]

    @property
    def learned(self) -> dict[str, str]:
        """What the atoms and factors that are there were learned from, by name."""
        fitted = self._site.fitted
        if isinstance(fitted, ConfigError):
            return {}
        return {name: what for name, what in fitted.learned_from.items() if name in self.names}

    def overstated(self) -> dict[str, float]:
        """Return how much of the variance the line can add at most, by name, of those that are on one."""
        rows = spread(self._site.own, LINE_ROWS)
        centre = rows.double().mean(0).float()
        found: dict[str, float] = {}
        for name in (n for n in self.names if n != IDENTITY and n not in PENALISED):
            most = 0.0
            for l0 in self._l0s:
                k = math.floor(l0)
                if k < 2 or l0 == k:
                    continue
                left = [fvu(rows, self._at(name, k + i)(rows), centre) for i in (-1, 0, 1, 2)]
                most = max(most, overstated(left, l0 - k))
            found[name] = most
        return found

    def _made(self, name: str) -> dict[str, AnyDictionary]:
        if name == IDENTITY:
            return {name: Neurons.of_width(self._site.x.shape[1])}
        if name not in PENALISED:
            every = sorted({k for l0 in self._l0s for k in around(l0)})
            return {f"{name} {k}": self._at(name, k) for k in every}
        fitted, own = self._fitted(), self._site.own
        if name == "lasso":
            n = len(self._l0s) * (self._site.n_text + sought(len(own)))
            if why := no_lasso(n, fitted.n_atoms, self._site.most_lasso):
                raise ConfigError(why)
        return {
            f"{name} beside {i}": fitted.penalised(name, l0, own) for i, l0 in enumerate(self._l0s)
        }

    def _at(self, name: str, k: int) -> AnyDictionary:
        if name != NEURONS:
            return self._fitted().at(name, k)
        x = self._site.x
        k = min(k, x.shape[1])
        if self._site.positive:
            return Neurons.of_width(x.shape[1], k)
        basis = torch.eye(x.shape[1])
        return Linear.of(torch.cat([basis, -basis]), b_dec=x.mean(0), k=k, called="coordinates")

    def _fitted(self) -> Fitted:
        if isinstance(self._site.fitted, ConfigError):
            raise self._site.fitted
        return self._site.fitted


def sought(n: int) -> int:
    """Return for how many vectors codes are solved at most while a penalty is sought on `n` of them."""
    return PENALTY_TRIES * min(PENALTY_ROWS, n)


def no_lasso(n_vectors: int, n_atoms: int, most: int) -> str:
    """Return why LASSO codes of so many vectors are not solved for at a scale; "" where they are."""
    enough = most // n_atoms**2
    if n_vectors <= enough:
        return ""
    return (
        f"codes of {n_vectors:,} vectors over {n_atoms:,} atoms, each a problem of its own, take too long; "
        f"this scale solves {enough:,}"
    )


def around(l0: float) -> tuple[int, ...]:
    """Return the whole numbers below and above an l0, from 1."""
    return tuple(sorted({max(1, math.floor(l0)), max(1, math.ceil(l0))}))


def l0_of(dictionary: Dictionary[Any], x: Float[Tensor, "sample d_in"]) -> float:
    """Return how many latents are on for a vector of `x`, in the mean."""
    device = dictionary.W_dec.device
    parts = [dictionary.encode_sparse(part.to(device)).active() for part in x.split(BATCH)]
    return sum(len(part) for part in parts) / len(x)
