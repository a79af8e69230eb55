"""Phase diagrams: what becomes of a feature, by its importance and by how often it is on.

Two features share one dimension, or three share two; the last one's importance is varied. It is left
out, has a dimension of its own, or lies in superposition: Elhage et al. 2022, section 4. For two
features the border is known by hand, and drawn beside: of the three ways to set W the one whose loss
in closed form is the least.

    left out      importance (p/3 - p²/4)          the bias says its mean
    alone         p/3 - p²/4                       the other is left out, importance 1
    antipodal     p² (1 + importance) / 6          W = (1, -1): both on costs min(x)² to each
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.progress import progress
from monosem.rendering import heatmap
from monosem.studies.report import Figure, Item
from monosem.toy.features import ToyFeatures
from monosem.toy.superposition import SuperpositionConfig, overlap, train_toys

LEFT_OUT, ALONE, SHARED = "#f4f1e8", "#2f75b0", "#c2590c"
LEGEND = ((LEFT_OUT, "left out"), (ALONE, "a dimension of its own"), (SHARED, "in superposition"))
STARTS = 4
"""Random starts of each cell, of which the one with the least loss is shown."""


def phase(n_grid: int, n_steps: int, seed: int = 0) -> Figure:
    """Return the phase diagrams on a grid of `n_grid` importances by `n_grid` densities."""
    drawings: list[str] = []
    agreed = 0.0
    with progress("phase diagrams", total=2 * n_steps) as bar:
        for n_features in (2, 3):
            size, others = trained(
                n_features, n_grid, n_steps, seed, lambda step: bar.advance(1) if step else None
            )
            drawings.append(_drawn(size, others, n_grid, f"{n_features} features"))
            if n_features == 2:
                agreed = _agreement(size, others, n_grid)
                drawings.append(_by_hand(n_grid))
    return Figure(
        name="phase",
        title="Left out, alone, or in superposition",
        text=(
            "A feature that is on in most inputs gets a dimension or none, by its importance. One "
            "that is rarely on shares a dimension, whatever its importance. The border is sharp: "
            "between the phases the best weights jump. The second drawing is not trained: it is the "
            "least of three losses in closed form. Of three features in two dimensions any two may share, "
            "and the third is then alone: rare features lie either way."
        ),
        drawings=tuple(drawings),
        captions=(
            "Two features, one dimension: the second",
            "The same, by hand",
            "Three features, two dimensions: the third",
        ),
        items=(
            Item(
                item="cells whose phase is the one computed by hand (two features)",
                here=agreed,
                unit="share",
                how="studies/toy_models/phase.py; monosem toy phase",
            ),
        ),
        notes={"grid": f"{n_grid} × {n_grid}", "steps": f"{n_steps:,}", "starts": str(STARTS)},
    )


def grid(n_grid: int) -> tuple[list[float], list[float]]:
    """Return importances from 0.1 to 10 and densities from 0.01 to 1, evenly on logarithmic axes."""
    steps = [i / (n_grid - 1) for i in range(n_grid)]
    return [10 ** (2 * s - 1) for s in steps], [10 ** (2 * s - 2) for s in steps]


def trained(
    n_features: int, n_grid: int, n_steps: int, seed: int, said: Callable[[int], None]
) -> tuple[Float[Tensor, "n_grid n_grid"], Float[Tensor, "n_grid n_grid"]]:
    """Return the length of the last feature's row and how much the others lie along it.

    Rows are densities, columns importances.
    """
    importances, densities = grid(n_grid)
    cells = list(itertools.product(densities, importances)) * STARTS
    features = ToyFeatures(n_features=n_features, density=tuple(p for p, _ in cells))
    weights = tuple((1.0,) * (n_features - 1) + (importance,) for _, importance in cells)
    config = SuperpositionConfig(
        features=features,
        d_hidden=n_features - 1,
        importance=weights,
        n_steps=n_steps,
        batch=256,
        lr=0.02,
        seed=seed,
    )
    models = train_toys(config, said)
    # Rare and unimportant features have small losses, but every start of a cell has the same scale.
    losses = models.loss.view(STARTS, n_grid * n_grid)
    chosen = losses.argmin(0) * n_grid * n_grid + torch.arange(n_grid * n_grid)
    W = models.W[chosen]
    size = W.norm(dim=2)[:, -1].view(n_grid, n_grid)
    return size, overlap(W)[:, -1].view(n_grid, n_grid)


def by_hand(importance: float, density: float) -> int:
    """Return the best phase of the second of two features: 0 left out, 1 alone, 2 in superposition."""
    p = density
    variance = p / 3 - p * p / 4
    losses = (importance * variance, variance, p * p * (1 + importance) / 6)
    return losses.index(min(losses))


def phase_of(size: float, others: float) -> int:
    """Return the phase of a trained feature: by a length, and by overlap, of one half."""
    if size < 0.5:
        return 0
    return 1 if others < 0.5 else 2


def _agreement(size: Tensor, others: Tensor, n_grid: int) -> float:
    importances, densities = grid(n_grid)
    same = [
        phase_of(float(size[r, c]), float(others[r, c])) == by_hand(i, p)
        for r, p in enumerate(densities)
        for c, i in enumerate(importances)
    ]
    return sum(same) / len(same)


def _drawn(size: Tensor, others: Tensor, n_grid: int, title: str) -> str:
    importances, densities = grid(n_grid)
    colours = [
        [_mixed(float(size[r, c]), float(others[r, c])) for c in range(n_grid)]
        for r in range(n_grid)
    ]
    said = [
        [
            f"density {p:.2g}, importance {i:.2g}: length {float(size[r, c]):.2f}, "
            f"others along it {float(others[r, c]):.2f}"
            for c, i in enumerate(importances)
        ]
        for r, p in enumerate(densities)
    ]
    return _map(colours, said, n_grid, title)


def _by_hand(n_grid: int) -> str:
    importances, densities = grid(n_grid)
    phases = [[by_hand(i, p) for i in importances] for p in densities]
    colours = [[LEGEND[phase][0] for phase in row] for row in phases]
    said = [[LEGEND[phase][1] for phase in row] for row in phases]
    return _map(colours, said, n_grid, "by hand")


def _map(colours: list[list[str]], said: list[list[str]], n_grid: int, title: str) -> str:
    importances, densities = grid(n_grid)
    return str(
        heatmap.svg(
            colours,
            said,
            title=f"phase diagram, {title}",
            x_label="importance of the last feature, the others' being 1",
            y_label="density",
            x_ticks=[f"{i:.2g}" for i in importances],
            y_ticks=[f"{p:.2g}" for p in densities],
            legend=LEGEND,
        )
    )


def _mixed(size: float, others: float) -> str:
    """Return the colour between the three phases: length away from left out, overlap towards shared."""
    length, share = min(size, 1.0), min(max(others, 0.0), 1.0)
    parts = [
        (1 - length) * left + length * ((1 - share) * own + share * both)
        for left, own, both in zip(_rgb(LEFT_OUT), _rgb(ALONE), _rgb(SHARED), strict=True)
    ]
    return "#" + "".join(f"{round(part):02x}" for part in parts)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
