"""What is scarce, activations or parameters: toy models whose W may have but so many entries.

Superposition in the toy models comes from features being rarely on. Here the hidden layer has as many
neurons as there are features, so that nobody needs to share, and instead the number of entries of W
that may differ from zero is limited. The question is whether a neuron then answers to one feature.
"""

from monosem.core.progress import progress
from monosem.rendering import heatmap
from monosem.studies.report import Figure, Item
from monosem.toy.features import ToyFeatures
from monosem.toy.superposition import (
    SuperpositionConfig,
    features_per_neuron,
    train_toys,
)

DENSITIES = (0.01, 0.03, 0.1, 0.3, 1.0)
N_FEATURES = 20
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0, 20.0)
"""Entries of W for each feature; 20: all there are."""


def budget(n_steps: int, d_hidden: int = N_FEATURES // 2, seed: int = 0) -> Figure:
    """Return features per neuron and features kept, by entries for each feature and density."""
    neurons: list[list[float]] = []
    kept: list[list[float]] = []
    entries = [round(share * N_FEATURES) for share in SHARES]
    entries = [min(n, N_FEATURES * d_hidden) for n in entries]
    with progress("budgets of parameters", total=n_steps * len(SHARES)) as bar:
        for n in entries:
            config = SuperpositionConfig(
                features=ToyFeatures(n_features=N_FEATURES, density=DENSITIES),
                d_hidden=d_hidden,
                importance=(tuple(0.95**i for i in range(N_FEATURES)),) * len(DENSITIES),
                budget=0 if n == N_FEATURES * d_hidden else n,
                n_steps=n_steps,
                batch=512,
                lr=0.01,
                seed=seed,
            )
            models = train_toys(config, lambda step: bar.advance(1) if step else None)
            neurons.append(features_per_neuron(models.W).tolist())
            kept.append((models.W.norm(dim=2) > 0.5).double().sum(1).tolist())
    return Figure(
        name="budget",
        title="When parameters are scarce instead",
        text=(
            f"{N_FEATURES} features, {d_hidden} neurons, and at most so many entries of W that are not "
            "zero: the largest are kept after each step. Left, features that write to a neuron, in the mean "
            "over neurons in use; right, features that are kept. Few parameters line features up "
            "with neurons; whether a neuron then answers to one feature alone is what the table says."
        ),
        drawings=(
            _map(neurons, "features per neuron", entries, 1.0, 6.0),
            _map(kept, "features kept", entries, 0.0, float(N_FEATURES)),
        ),
        captions=("Features per neuron", "Features kept"),
        items=tuple(_items(neurons, entries, d_hidden)),
        notes={"steps": f"{n_steps:,}", "importance of feature i": "0.95^i"},
    )


def _items(neurons: list[list[float]], entries: list[int], d_hidden: int) -> list[Item]:
    how = "studies/toy_models/budget.py; monosem toy budget"
    one = SHARES.index(1.0)
    return [
        Item(
            item=f"features per neuron, density {p:g}, {n} entries of {N_FEATURES * d_hidden}",
            here=neurons[r][c],
            how=how,
        )
        for r, n in ((one, entries[one]), (len(SHARES) - 1, entries[-1]))
        for c, p in ((0, DENSITIES[0]), (len(DENSITIES) - 1, DENSITIES[-1]))
    ]


def _map(values: list[list[float]], title: str, entries: list[int], low: float, high: float) -> str:
    said = [
        [
            f"{n} entries, density {p:g}: {v:.2f} {title}"
            for v, p in zip(row, DENSITIES, strict=True)
        ]
        for row, n in zip(values, entries, strict=True)
    ]
    return str(
        heatmap.svg(
            heatmap.shades(values, low=low, high=high),
            said,
            title=title,
            x_label="density",
            y_label="entries of W",
            x_ticks=[f"{p:g}" for p in DENSITIES],
            y_ticks=[str(n) for n in entries],
            legend=heatmap.scale(low, high, "{:.1f}"),
        )
    )
