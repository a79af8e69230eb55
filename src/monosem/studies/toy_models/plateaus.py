"""How much of a dimension a feature gets, as features become rarer: Elhage et al. 2022, section 3.

Features of equal importance pass fewer dimensions. Where they are dense, as many as there are dimensions
are kept, one each; as they become rare, dimensions per feature fall, and rest at 1/2: antipodal pairs.
Single features gather at the dimensionalities of regular polytopes.
"""

import torch

from monosem.core.progress import progress
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.toy.features import ToyFeatures
from monosem.toy.superposition import (
    SuperpositionConfig,
    ToyModels,
    dimensionality,
    per_feature,
    train_toys,
)

POLYTOPES = (1.0, 3 / 4, 2 / 3, 1 / 2, 2 / 5, 3 / 8)
"""Alone, tetrahedron, triangle, antipodal pair, pentagon, square antiprism."""
NEAR = 0.03
REPRESENTED = 0.5
"""Least length of the row of a feature that is kept."""


def plateaus(
    n_features: int, d_hidden: int, n_densities: int, n_steps: int, seed: int = 0
) -> Figure:
    """Return dimensions per feature and the dimensionality of each, over `n_densities` densities."""
    densities = [10 ** (-2 * i / (n_densities - 1)) for i in range(n_densities)]
    config = SuperpositionConfig(
        features=ToyFeatures(n_features=n_features, density=tuple(densities)),
        d_hidden=d_hidden,
        n_steps=n_steps,
        batch=512,
        lr=0.005,
        seed=seed,
    )
    with progress("plateaus", total=n_steps) as bar:
        models = train_toys(config, lambda step: bar.advance(1) if step else None)
    return Figure(
        name="plateaus",
        title="Dimensions per feature",
        text=(
            "Left, dimensions per feature against 1/density: one each where all features are on, half of one "
            "where they lie in antipodal pairs, and fewer as they become rarer. Right, each dot is a "
            "feature; dashed lines are the dimensionalities of features alone (1), in tetrahedra (3/4), "
            "triangles (2/3), antipodal pairs (1/2), pentagons (2/5) and square antiprisms (3/8)."
        ),
        drawings=(_mean(models, densities), _single(models, densities)),
        captions=("Dimensions per feature", "Dimensionality of each feature"),
        items=_items(models, densities),
        notes={
            "features": str(n_features),
            "dimensions": str(d_hidden),
            "steps": f"{n_steps:,}",
        },
    )


def near_a_polytope(values: torch.Tensor) -> float:
    """Return the share of dimensionalities within `NEAR` of one of `POLYTOPES`."""
    apart = (values[:, None] - torch.tensor(POLYTOPES)).abs().amin(1)
    return float((apart <= NEAR).double().mean())


def _items(models: ToyModels, densities: list[float]) -> tuple[Item, ...]:
    how = "studies/toy_models/plateaus.py; monosem toy plateaus"
    shown = per_feature(models.W)
    rarest = dimensionality(models.W[-1:])[models.W[-1:].norm(dim=2) > REPRESENTED]
    kept = [dimensionality(W[None])[0][W.norm(dim=1) > REPRESENTED] for W in models.W]
    pairs = [float(((each - 0.5).abs() <= NEAR).double().mean()) for each in kept]
    most = max(range(len(pairs)), key=lambda i: pairs[i])
    every = torch.cat(kept)
    # As many values as anywhere between the smallest and the largest that there are.
    chance = torch.linspace(float(every.min()), float(every.max()), 10_001)
    return (
        Item(
            item="dimensions per feature, every feature on",
            here=float(shown[0]),
            paper=1.0,
            paper_certainty="from memory",
            how=how,
        ),
        Item(
            item=f"dimensions per feature at density {densities[-1]:.2g}",
            here=float(shown[-1]),
            how=how,
        ),
        Item(
            item=f"share of kept features of dimensionality 1/2 ± {NEAR}, at density {densities[most]:.2g}, "
            "where it is largest",
            here=pairs[most],
            unit="share",
            paper="a plateau at 1/2",
            paper_certainty="from memory",
            how=how,
        ),
        Item(
            item="share of kept features near a polytope's, all densities",
            here=f"{near_a_polytope(every):.3g} (chance {near_a_polytope(chance):.3g})",
            unit="share",
            how=how,
        ),
        Item(
            item="mean dimensionality of a kept feature at the lowest density",
            here=float(rarest.mean()),
            how=how,
        ),
    )


def _mean(models: ToyModels, densities: list[float]) -> str:
    shown = per_feature(models.W).tolist()
    points = [(1 / p, float(v)) for p, v in zip(densities, shown, strict=True)]
    return str(
        svg(
            {"d_hidden / ‖W‖²": points},
            title="dimensions per feature",
            x=Axis(label="1 / density", log=True),
            y=Axis(label="dimensions per feature", low=0.0, high=1.1, marks=(1.0, 0.5)),
        )
    )


def _single(models: ToyModels, densities: list[float]) -> str:
    each = dimensionality(models.W)
    kept = models.W.norm(dim=2) > REPRESENTED
    points = [(1 / p, float(v)) for i, p in enumerate(densities) for v in each[i][kept[i]].tolist()]
    return str(
        svg(
            {"a feature": points},
            title="dimensionality of each feature",
            x=Axis(label="1 / density", log=True),
            y=Axis(label="dimensionality", low=0.0, high=1.1, marks=POLYTOPES),
            dots=True,
        )
    )
