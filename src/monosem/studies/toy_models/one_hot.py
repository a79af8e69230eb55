"""One neuron at a time: sparse activations do not make monosemantic neurons under cross-entropy.

The argument of Bricken et al. 2023, "Towards Monosemanticity", computed: the best assignment of features to
neurons, of which one at most is on, for both losses, exactly and as gradient descent finds it.
"""

from monosem.core.progress import progress
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.toy.one_hot import LOSSES, Assigned, Loss, OneHotConfig, best, train

N_FEATURES = 8
WORDS: dict[Loss, str] = {"mse": "squared error", "ce": "cross-entropy"}


def one_hot(n_steps: int, n_neurons: tuple[int, ...] = (2, 3, 4), seed: int = 0) -> Figure:
    """Return features per neuron under both losses, for several numbers of neurons."""
    exact: dict[Loss, list[Assigned]] = {loss: [] for loss in LOSSES}
    trained: dict[Loss, list[Assigned]] = {loss: [] for loss in LOSSES}
    with progress("one neuron at a time", total=len(LOSSES) * len(n_neurons)) as bar:
        for loss in LOSSES:
            for n in n_neurons:
                config = OneHotConfig(
                    n_features=N_FEATURES, n_neurons=n, loss=loss, n_steps=n_steps, seed=seed
                )
                exact[loss].append(best(config))
                trained[loss].append(train(config))
                bar.advance(1)
    how = "studies/toy_models/one_hot.py; monosem toy one-hot"
    said: tuple[tuple[Loss, str], ...] = (("ce", "polysemantic"), ("mse", "monosemantic"))
    items = [
        Item(
            item=f"features per neuron, {WORDS[loss]}, {n} neurons, {words}",
            here=found.features_per_neuron,
            paper=paper,
            paper_certainty="read in the paper",
            how=how,
        )
        for loss, paper in said
        for words, all_found in (("best of all", exact[loss]), ("trained", trained[loss]))
        for n, found in zip(n_neurons, all_found, strict=True)
    ]
    return Figure(
        name="one-hot",
        title="One neuron at a time, and still polysemantic",
        text=(
            f"{N_FEATURES} features come one at a time, with probabilities 1, 1/2, 1/3 … of each other, and "
            "one neuron at most is on. Under squared error the best neurons take the most frequent "
            "features, one each, and leave out the rest. Under cross-entropy the best neurons take several "
            "each: knowing that it is one of three says more than nothing. Drawn for each loss: the best of "
            "all assignments, and what gradient descent found from random starts."
        ),
        drawings=(_drawn(exact, trained, n_neurons),),
        captions=("Features per neuron in use",),
        items=tuple(items),
        notes={"features": str(N_FEATURES), "steps": f"{n_steps:,}"},
    )


def _drawn(
    exact: dict[Loss, list[Assigned]],
    trained: dict[Loss, list[Assigned]],
    n_neurons: tuple[int, ...],
) -> str:
    series = {
        f"{WORDS[loss]}, {words}": [
            (float(n), found.features_per_neuron)
            for n, found in zip(n_neurons, all_found[loss], strict=True)
        ]
        for loss in LOSSES
        for words, all_found in (("exact", exact), ("trained", trained))
    }
    return str(
        svg(
            series,
            title="features per neuron",
            x=Axis(label="neurons"),
            y=Axis(label="features per neuron", low=0.0, marks=(1.0,)),
        )
    )
