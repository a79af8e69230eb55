"""What is scarce, activations or parameters: toy models whose W may have but so many entries.

Superposition in the toy models comes from features being rarely on. Here the number of entries of W that
may differ from zero is limited instead, with as many neurons as features, so that nobody needs to share, and
with half as many. Entries make neurons a basis of their own; the question is how many of them carry more
than one feature. (With all entries there is no such basis: W and a turned W are the same model.)
"""

from jaxtyping import Float
from torch import Tensor

from monosem.core.progress import progress
from monosem.rendering import heatmap
from monosem.studies.report import Figure, Item
from monosem.toy.features import ToyFeatures
from monosem.toy.superposition import SuperpositionConfig, train_toys

DENSITIES = (0.01, 0.03, 0.1, 0.3, 1.0)
N_FEATURES = 20
N_NEURONS = (20, 10)
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Entries of W for each feature."""
WRITES = 0.1
"""Share of the largest entry from which a feature writes to a neuron."""

Table = list[list[float]]


def budget(n_steps: int, seed: int = 0) -> Figure:
    """Return how many neurons carry several features, by entries for each feature and density."""
    several: dict[int, Table] = {}
    kept: dict[int, Table] = {}
    entries = [round(share * N_FEATURES) for share in SHARES]
    with progress("budgets of parameters", total=n_steps * len(SHARES) * len(N_NEURONS)) as bar:
        for d_hidden in N_NEURONS:
            several[d_hidden], kept[d_hidden] = [], []
            for n in entries:
                config = SuperpositionConfig(
                    features=ToyFeatures(n_features=N_FEATURES, density=DENSITIES),
                    d_hidden=d_hidden,
                    importance=(tuple(0.95**i for i in range(N_FEATURES)),) * len(DENSITIES),
                    budget=n,
                    n_steps=n_steps,
                    batch=512,
                    lr=0.01,
                    seed=seed,
                )
                models = train_toys(config, lambda step: bar.advance(1) if step else None)
                several[d_hidden].append(shared(models.W).tolist())
                kept[d_hidden].append((models.W.norm(dim=2) > 0.5).double().sum(1).tolist())
    return Figure(
        name="budget",
        title="When parameters are scarce instead",
        text=(
            f"{N_FEATURES} features and at most so many entries of W that are not zero: the largest are kept "
            "after each step. Drawn: the share of neurons in use to which more than one feature writes, "
            f"with {N_NEURONS[0]} neurons, where nobody needs to share, and with {N_NEURONS[1]}."
        ),
        drawings=tuple(
            _map(several[d], f"neurons of several features, {d} neurons", entries)
            for d in N_NEURONS
        ),
        captions=tuple(f"{d} neurons" for d in N_NEURONS),
        items=tuple(item for d in N_NEURONS for item in _items(several[d], kept[d], d)),
        notes={"steps": f"{n_steps:,}", "importance of feature i": "0.95^i"},
    )


def shared(W: Float[Tensor, "n_models n_features d_hidden"]) -> Float[Tensor, " n_models"]:
    """Return the share of neurons in use to which more than one feature writes, either sign.

    >>> shared(torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.05]]]))
    tensor([0.5000])
    """
    largest = W.abs().amax((1, 2), keepdim=True)
    writers = (W.abs() > WRITES * largest).sum(1)
    return (writers > 1).sum(1) / (writers > 0).sum(1).clamp_min(1)


def _items(several: Table, kept: Table, d_hidden: int) -> list[Item]:
    how = "studies/toy_models/budget.py; monosem toy budget"
    row = SHARES.index(1.0)
    return [
        Item(
            item=f"{d_hidden} neurons, one entry a feature, density {p:g}: neurons of several features",
            here=f"{several[row][c]:.2f}, with {kept[row][c]:.0f} features kept",
            unit="share",
            how=how,
        )
        for c, p in ((0, DENSITIES[0]), (len(DENSITIES) - 1, DENSITIES[-1]))
    ]


def _map(values: Table, title: str, entries: list[int]) -> str:
    said = [
        [
            f"{n} entries, density {p:g}: {v:.0%} of the neurons"
            for v, p in zip(row, DENSITIES, strict=True)
        ]
        for row, n in zip(values, entries, strict=True)
    ]
    return str(
        heatmap.svg(
            heatmap.shades(values, low=0.0, high=1.0),
            said,
            title=title,
            x_label="density",
            y_label="entries of W",
            x_ticks=[f"{p:g}" for p in DENSITIES],
            y_ticks=[str(n) for n in entries],
            legend=heatmap.scale(0.0, 1.0, "{:.0%}"),
        )
    )
