"""Which features share a dimension: Elhage et al. 2022, section 5, on correlated and anticorrelated pairs.

Four features, two pairs, two dimensions. Features that come together would disturb each other, and lie
across; features of which one at most is on do not, and lie opposite.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.progress import progress
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.toy.features import STRUCTURES, ToyFeatures
from monosem.toy.superposition import SuperpositionConfig, train_toys

DENSITY = 0.1


def pairs(n_models: int, n_steps: int, seed: int = 0) -> Figure:
    """Return how pairs lie, in `n_models` models of each structure."""
    found: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    with progress("pairs of features", total=3 * n_steps) as bar:
        for structure in STRUCTURES:
            config = SuperpositionConfig(
                features=ToyFeatures(
                    n_features=4, density=(DENSITY,) * n_models, structure=structure
                ),
                d_hidden=2,
                n_steps=n_steps,
                batch=512,
                lr=0.02,
                seed=seed,
            )
            models = train_toys(config, lambda step: bar.advance(1) if step else None)
            found[structure] = within(models.W)
            least = int(models.loss.argmin())
            best[structure] = within(models.W[least : least + 1])
    return Figure(
        name="pairs",
        title="Who shares with whom",
        text=(
            "The angle between the two features of a pair, in models that differ in their start alone. "
            "Correlated ones lie across (90°), each opposite a feature of the other pair. For anticorrelated "
            "ones it is best to lie opposite each other (180°): nothing is lost then. Many starts end across "
            "all the same, a minimum as good as that of independent features, which lie either way."
        ),
        drawings=(_drawn(found),),
        captions=("Angles within pairs, sorted, in as many models as there are points",),
        items=tuple(_items(found, best)),
        notes={"density": str(DENSITY), "steps": f"{n_steps:,}", "models": str(n_models)},
    )


def within(W: Float[Tensor, "n_models 4 d_hidden"]) -> Float[Tensor, " n_pairs"]:
    """Return the cosine within each pair, of features that are represented both."""
    both = (W[:, 0::2].norm(dim=2) > 0.5) & (W[:, 1::2].norm(dim=2) > 0.5)
    return torch.cosine_similarity(W[:, 0::2], W[:, 1::2], dim=2)[both]


def _items(found: dict[str, Tensor], best: dict[str, Tensor]) -> list[Item]:
    how = "studies/toy_models/pairs.py; monosem toy pairs"
    items: list[Item] = []
    for structure, cosines in found.items():
        across = float((cosines.abs() < 0.2).double().mean())
        opposite = float((cosines < -0.9).double().mean())
        for words, share in (("across", across), ("opposite", opposite)):
            items.append(Item(item=f"{structure} pairs {words}", here=share, unit="share", how=how))
        if structure != "independent":
            lies = "opposite" if structure == "anticorrelated" else "across"
            items.append(
                Item(
                    item=f"cosine within {structure} pairs, model with the least loss",
                    here=float(best[structure].mean()),
                    paper=f"{lies} ({-1 if lies == 'opposite' else 0})",
                    paper_certainty="from memory",
                    how=how,
                )
            )
    return items


def _drawn(found: dict[str, Tensor]) -> str:
    series = {
        structure: [
            ((i + 0.5) / len(cosines), math.degrees(math.acos(min(1.0, max(-1.0, float(c))))))
            for i, c in enumerate(cosines.sort(descending=True).values.tolist())
        ]
        for structure, cosines in found.items()
    }
    return str(
        svg(
            series,
            title="angles within pairs",
            x=Axis(label="pairs, in order of their angle", low=0.0, high=1.0),
            y=Axis(label="angle, degrees", low=0.0, high=185.0, marks=(90.0, 180.0)),
            dots=True,
        )
    )
