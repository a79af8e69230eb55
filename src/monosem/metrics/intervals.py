"""Intervals of an evaluation's figures: 95 %, of drawing anew the contexts that it read.

    fvu              Σ ‖x − x̂‖² / Σ ‖x − mean‖²             both sums over the drawn contexts
    delta_ce         Σ (spliced − original) / n             n: their ordinary targets
    gap              Σ (ablated − original) / n
    loss_recovered   1 − Σ (spliced − original) / Σ (ablated − original)

Numerator and denominator are of the same contexts, and so are all runs: what a text that is hard does to
each of them falls out of the interval of their difference.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from monosem.metrics.heldout import HeldOut
from monosem.metrics.measure import Measure, mean

Intervals = dict[str, list[float]]
"""Both ends, by the name of the figure."""


def intervals(
    name: str,
    held: HeldOut,
    ordinary: Bool[np.ndarray, "contexts pos"],
    values: Mapping[str, object],
    *,
    seed: int = 0,
) -> Intervals:
    """Return the intervals of those figures of the dictionary `name` that are numbers in `values`.

    `ordinary` says which tokens of the contexts are, in the order in which the pass read them.
    """
    sums, n_targets = held.ordinary[name], ordinary[:, 1:].sum(1).astype(np.float64)
    losses = {run: held.unspliced[run].numpy() for run in ("original", "zero", "mean")}
    losses["spliced"] = held.spliced[name].numpy()
    original = losses.pop("original")
    rise = {run: by_context(found - original, ordinary[:, 1:]) for run, found in losses.items()}

    def of(top: np.ndarray, bottom: np.ndarray) -> Measure:
        return mean(top, weights=bottom, seed=seed)

    errors, variances = (
        by_context(np.concatenate(parts), ordinary) for parts in (sums.errors, sums.variances)
    )
    found = {
        "fvu": of(errors, variances),
        "loss": of(by_context(original, ordinary[:, 1:]), n_targets),
        "delta_ce": of(rise["spliced"], n_targets),
    }
    for ablation in ("zero", "mean"):
        gap = rise[ablation]
        found[f"gap_{ablation}"] = of(gap, n_targets)
        found[f"loss_recovered_{ablation}"] = of(gap - rise["spliced"], gap)
    return {
        key: [measure.low, measure.high]
        for key, measure in found.items()
        if values[key] is not None and measure.low is not None and measure.high is not None
    }


def by_context(
    values: Float[np.ndarray, " tokens"], chosen: Bool[np.ndarray, "contexts pos"]
) -> Float[np.ndarray, " contexts"]:
    """Return the sum of each context; `values` are of the chosen tokens, one context after the other."""
    of = np.nonzero(chosen)[0]
    return np.bincount(of, values, minlength=len(chosen)).astype(np.float64)
