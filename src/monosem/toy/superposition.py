"""Toy models of superposition: features through fewer dimensions, and back.

    h    = x @ W                        W [n_features d_hidden]
    x'   = relu(h @ W.T + b)
    loss = mean over rows of Σ_i importance_i * (x_i - x'_i)²

    dimensionality of feature i   ‖W_i‖² / Σ_j (W_i/‖W_i‖ · W_j)²
    dimensions per feature        d_hidden / ‖W‖²_F

Elhage et al. 2022, "Toy Models of Superposition". A grid of models, each with a density and importances
of its own, is trained in one run: W has an axis `n_models` before the others. A `budget` keeps but
so many entries of each W, the largest, after each step: parameters are then what is scarce.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.toy.features import ToyFeatures


@dataclass(frozen=True, kw_only=True)
class SuperpositionConfig:
    """A grid of toy models and how they are trained."""

    features: ToyFeatures = ToyFeatures()
    """What they read: one density a model."""
    d_hidden: int = 2
    """Dimensions that the features have to pass."""
    importance: tuple[tuple[float, ...], ...] = ()
    """Weight of each feature in the loss, one row a model; none: all 1."""
    budget: int = 0
    """Entries of W that may differ from zero; 0: all."""
    n_steps: int = 5_000
    """Steps of Adam; the learning rate falls to nothing over them, along a cosine."""
    batch: int = 1024
    """Inputs a step, for each model."""
    lr: float = 0.01
    """Largest learning rate."""
    seed: int = 0
    """Seed of the first weights and of the inputs."""

    def __post_init__(self) -> None:
        """Refuse grids that cannot be trained."""
        n_models, n_features = self.features.n_models, self.features.n_features
        for name in ("d_hidden", "n_steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.lr <= 0:
            raise ConfigError(f"`lr` must be above 0, got {self.lr}.")
        shape = {len(row) for row in self.importance}
        if self.importance and (len(self.importance) != n_models or shape != {n_features}):
            raise ConfigError(
                f"`importance` needs a row of {n_features} for each of {n_models} models, got "
                f"{len(self.importance)} rows of {sorted(shape)}."
            )
        if not 0 <= self.budget <= n_features * self.d_hidden:
            raise ConfigError(
                f"`budget` must be from 0 (all) to {n_features * self.d_hidden}, the entries of one W, "
                f"got {self.budget}."
            )


@dataclass(frozen=True)
class ToyModels:
    """Trained toy models, side by side."""

    W: Float[Tensor, "n_models n_features d_hidden"]
    """One row a feature."""
    b: Float[Tensor, "n_models n_features"]
    """Added before the ReLU."""
    loss: Float[Tensor, " n_models"]
    """On inputs that were not trained on."""

    def __call__(
        self, x: Float[Tensor, "batch n_models n_features"]
    ) -> Float[Tensor, "batch n_models n_features"]:
        """Return what the models make of `x`."""
        return reconstruct(x, self.W, self.b)


def reconstruct(
    x: Float[Tensor, "batch n_models n_features"],
    W: Float[Tensor, "n_models n_features d_hidden"],
    b: Float[Tensor, "n_models n_features"],
) -> Float[Tensor, "batch n_models n_features"]:
    """Return `relu(x @ W @ W.T + b)`, model by model."""
    h = torch.einsum("bmf,mfd->bmd", x, W)
    return (torch.einsum("bmd,mfd->bmf", h, W) + b).relu()


def train_toys(config: SuperpositionConfig, said: Callable[[int], None] | None = None) -> ToyModels:
    """Train the grid of `config` and return it; `said` hears how many steps are done."""
    features = config.features
    generator = torch.Generator().manual_seed(config.seed)
    shape = (features.n_models, features.n_features, config.d_hidden)
    # Glorot's scale: what the paper starts from.
    W = torch.randn(shape, generator=generator) * (2 / (shape[1] + shape[2])) ** 0.5
    b = torch.zeros(shape[:2])
    importance = torch.tensor(config.importance) if config.importance else torch.ones(shape[:2])
    parameters = [W.requires_grad_(), b.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.n_steps)
    for step in range(config.n_steps):
        x = features.sample(config.batch, generator)
        loss = _losses(x, W, b, importance).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if config.budget:
            keep_largest_(W, config.budget)
        if said is not None:
            said(step + 1)
    with torch.no_grad():
        held = torch.stack(
            [_losses(features.sample(config.batch, generator), W, b, importance) for _ in range(16)]
        )
    return ToyModels(W.detach(), b.detach(), held.mean(0))


def _losses(x: Tensor, W: Tensor, b: Tensor, importance: Tensor) -> Tensor:
    """The loss of each model: they share no parameter, so that the sum trains each by its own."""
    return (importance * (x - reconstruct(x, W, b)).square()).sum(2).mean(0)


@torch.no_grad()
def keep_largest_(W: Float[Tensor, "n_models n_features d_hidden"], budget: int) -> None:
    """Set all but the `budget` largest entries of each model's W to zero, in place."""
    flat = W.flatten(1)
    rest = flat.abs().argsort(dim=1, descending=True)[:, budget:]
    flat.scatter_(1, rest, 0.0)
    W.copy_(flat.view_as(W))


def dimensionality(
    W: Float[Tensor, "n_models n_features d_hidden"],
) -> Float[Tensor, "n_models n_features"]:
    """Return how much of a dimension each feature has for itself: 1 alone, 1/2 as one of a pair.

    A feature that is not represented (a row of zeros) has 0.

    >>> dimensionality(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]]))
    tensor([[1.0000, 0.5000, 0.5000, 0.0000]])
    """
    square = W.square().sum(2)
    shared = torch.einsum("mid,mjd->mij", W, W).square().sum(2)
    # ‖W_i‖² / Σ_j (W_i·W_j)² / ‖W_i‖² = ‖W_i‖⁴ / Σ_j (W_i·W_j)²
    return torch.where(shared > 0, square.square() / shared.clamp_min(1e-30), 0.0)


def overlap(
    W: Float[Tensor, "n_models n_features d_hidden"],
) -> Float[Tensor, "n_models n_features"]:
    """Return how much the others lie along each feature's direction: Σ_{j≠i} (W_i/‖W_i‖ · W_j)².

    >>> overlap(torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]))
    tensor([[0., 1., 1.]])
    """
    directions = W / W.norm(dim=2, keepdim=True).clamp_min(1e-12)
    along = torch.einsum("mid,mjd->mij", directions, W).square()
    return along.sum(2) - along.diagonal(dim1=1, dim2=2)


def per_feature(W: Float[Tensor, "n_models n_features d_hidden"]) -> Float[Tensor, " n_models"]:
    """Return dimensions per represented feature, `d_hidden / ‖W‖²_F`: ‖W‖² counts the features."""
    return W.shape[2] / W.square().sum((1, 2))
