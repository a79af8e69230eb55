"""Sparse features: activations that are sums of known directions, more of them than there are dimensions.

    x         = magnitudes @ directions + noise
    frequency = of feature i, ∝ (i + 1) ** -power * decay ** i, scaled so that `l0` are on in the mean
    on        = g > quantile(1 - frequency),  g = sqrt(correlation) * g_group + sqrt(1 - correlation) * g_own
    magnitude = drawn from `magnitude` where the feature is on, 0 elsewhere

Directions are random unit vectors. Groups take every `n_groups`-th feature, so that each has frequent
and rare ones; features of a group fire together more often than chance, by a Gaussian copula. The
rarest `hierarchy` of all features are children: each is on only where its parent is, one of the others.
After Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders": theirs is
d=256, n_features=512, l0=5, power=0, decay=0.99, magnitudes uniform from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.core.errors import ConfigError

HIGHEST = 0.5
"""No feature is on more often than this."""
BLOCK, ENTRIES = 8192, 2**26
"""Rows whose magnitudes exist at once, and as many magnitudes at most: 256 MB. To change either is to change
every sample, for the random numbers are drawn block by block."""
WORLD, SAMPLE, PARENTS = 1, 2, 3
"""Tell the random numbers of directions, of samples, of parents, and of everybody else apart."""
STRIDE = 0x9E3779B9
"""Between the seeds of tags; torch reads the lower 32 bits of a seed alone."""


Law = Literal["uniform", "exponential", "lognormal"]
LAWS: tuple[Law, ...] = ("uniform", "exponential", "lognormal")


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """How strong a feature is where it is on."""

    law: Law = "uniform"
    """uniform (up to 1), exponential (mean 1 above the weakest) or lognormal (median 1)."""
    weakest: float = 0.25
    """Smallest magnitude of the uniform and of the exponential law."""
    spread: float = 1.0
    """Standard deviation of the logarithm, of the lognormal law."""

    def __post_init__(self) -> None:
        """Refuse laws that do not exist."""
        if self.law not in LAWS:
            raise ConfigError(f"`law` is one of {', '.join(LAWS)}, got {self.law!r}.")
        highest = 1.0 if self.law == "uniform" else float("inf")
        if not 0 <= self.weakest <= highest:
            raise ConfigError(f"`weakest` must be from 0 to {highest}, got {self.weakest}.")
        if self.spread < 0:
            raise ConfigError(f"`spread` cannot be negative, got {self.spread}.")

    def draw(
        self, n: int, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n n_features"]:
        """Return magnitudes, as if all features were on."""
        if self.law == "lognormal":
            return (self.spread * torch.randn(n, n_features, generator=generator)).exp()
        drawn = torch.rand(n, n_features, generator=generator)
        if self.law == "exponential":
            return self.weakest - torch.log1p(-drawn)
        return self.weakest + (1 - self.weakest) * drawn


@dataclass(frozen=True, kw_only=True)
class SparseFeaturesConfig:
    """Which features there are, and how they fire."""

    d: int = 64
    """Dimensions of the activations."""
    n_features: int = 256
    """True features."""
    l0: float = 8.0
    """Features that are on in one activation, in the mean."""
    power: float = 0.5
    """Exponent of the power law of frequencies; 0 makes all alike."""
    decay: float = 1.0
    """Each feature is so many times as frequent as the one before, beside the power law."""
    n_groups: int = 32
    """Groups within which firing is correlated."""
    correlation: float = 0.3
    """Correlation of the Gaussians that decide firing, within a group."""
    hierarchy: float = 0.0
    """Share of the features, the rarest, that are on only where their parent is."""
    magnitude: Magnitude = Magnitude()
    """How strong a feature is where it is on."""
    noise: float = 0.0
    """Standard deviation of what is added to every coordinate."""
    seed: int = 0
    """Seed of the directions."""

    def __post_init__(self) -> None:
        """Refuse worlds that cannot be."""
        for name in ("d", "n_features", "n_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.l0 < HIGHEST * self.n_features:
            raise ConfigError(
                f"`l0` must be above 0 and under {HIGHEST} of the {self.n_features} features, "
                f"got {self.l0}."
            )
        if not 0 <= self.correlation < 1:
            raise ConfigError(f"`correlation` must be in [0, 1), got {self.correlation}.")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"`decay` must be in (0, 1], got {self.decay}.")
        if not 0 <= self.hierarchy <= 0.9:
            raise ConfigError(
                f"`hierarchy` is the share of children, from 0 to 0.9, got {self.hierarchy}."
            )
        if self.power < 0 or self.noise < 0:
            raise ConfigError(
                f"`power` and `noise` cannot be negative, got {self.power} and {self.noise}."
            )


class SparseFeatures:
    """A world of known features, from which activations are drawn."""

    def __init__(self, config: SparseFeaturesConfig) -> None:
        self.config = config
        generator = _generator(WORLD, config.seed)
        rows = torch.randn(config.n_features, config.d, generator=generator)
        self.directions: Float[Tensor, "n_features d"] = rows / rows.norm(dim=1, keepdim=True)
        """The truth: one unit vector a feature, the most frequent first."""
        self.frequencies: Float[Tensor, " n_features"] = _frequencies(config)
        """How often each feature is on."""
        self.parents: Int[Tensor, " n_features"] = _parents(config)
        """The parent of each feature; its own number where it has none."""

    def sample(
        self, n: int, seed: int
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n n_features"]]:
        """`n` activations and the magnitudes they are made of; a seed gives the same ones again."""
        parts = list(self.blocks(n, seed))
        return torch.cat([x for x, _ in parts]), torch.cat([m for _, m in parts])

    def activations(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """The activations of `sample(n, seed)` alone, in the memory that they take themselves."""
        return torch.cat([x for x, _ in self.blocks(n, seed)])

    def blocks(
        self, n: int, seed: int
    ) -> Iterator[tuple[Float[Tensor, "some d"], Float[Tensor, "some n_features"]]]:
        """The same sample, some rows at a time: wide worlds have magnitudes too many to hold."""
        config, generator = self.config, _generator(SAMPLE, seed)
        step = max(1, min(BLOCK, ENTRIES // config.n_features))
        for start in range(0, n, step):
            on = self._on(min(step, n - start), generator)
            magnitudes = on * config.magnitude.draw(len(on), config.n_features, generator)
            x = magnitudes @ self.directions
            yield x + config.noise * torch.randn(x.shape, generator=generator), magnitudes

    def _on(self, n: int, generator: torch.Generator) -> Bool[Tensor, "n n_features"]:
        config = self.config
        own = torch.randn(n, config.n_features, generator=generator)
        shared = torch.randn(n, config.n_groups, generator=generator)
        group = torch.arange(config.n_features) % config.n_groups
        g = config.correlation**0.5 * shared[:, group] + (1 - config.correlation) ** 0.5 * own
        is_child = self.parents != torch.arange(config.n_features)
        # Where the parent is on a child is on by itself, so often that its own frequency comes out.
        chance = self.frequencies / self.frequencies[self.parents]
        g = torch.where(is_child, own, g)
        on = g > torch.special.ndtri(1 - torch.where(is_child, chance, self.frequencies))
        return on & on[:, self.parents]


def _generator(tag: int, seed: int) -> torch.Generator:
    """Random numbers of their own: a dictionary of seed 0 must not start at the truth of seed 0."""
    return torch.Generator().manual_seed((seed + tag * STRIDE) % 2**32)


def _parents(config: SparseFeaturesConfig) -> Int[Tensor, " n_features"]:
    """Each of the rarest features under one of the others, which is at least as frequent."""
    n_children = round(config.hierarchy * config.n_features)
    n_parents = config.n_features - n_children
    generator = _generator(PARENTS, config.seed)
    drawn = torch.randint(n_parents, (n_children,), generator=generator)
    return torch.cat([torch.arange(n_parents), drawn])


def _frequencies(config: SparseFeaturesConfig) -> Float[Tensor, " n_features"]:
    """The law, with sum `l0`, of which nothing exceeds `HIGHEST`."""
    rank = torch.arange(1, config.n_features + 1, dtype=torch.float64)
    law = rank**-config.power * config.decay ** (rank - 1)
    low, high = 0.0, config.n_features / float(law[-1])
    for _ in range(64):
        middle = (low + high) / 2
        total = float((middle * law).clamp_max(HIGHEST).sum())
        low, high = (middle, high) if total < config.l0 else (low, middle)
    return (high * law).clamp_max(HIGHEST).float()


def recovery(
    directions: Float[Tensor, "n_features d"], rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, " n_features"]:
    """The largest cosine of each true direction with any of `rows`; rows of zero count as no row.

    >>> recovery(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
    tensor([1.0000, 0.7071])
    """
    truth = directions / directions.norm(dim=1, keepdim=True)
    found = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return (truth @ found.T).amax(1)
