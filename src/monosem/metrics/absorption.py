"""Absorption: a latent that should fire for a label is silent where a more special latent has taken it in.

    main       latents that a k-sparse probe needs: k rises while F1 does so by `RISE`     ("split" latents)
    looked at  test examples of the label that the supervised probe of the activations gets right
    projection c_i = a_i · (d_i · p)        of latent i along the probe's direction p; total: (x - b_dec) · p,
               which is what the latents make, and not x · p, which holds the mean of the site besides
    full       no main latent fires, and the latent with the largest c has cos(d_i, p) ≥ 0.025
               and c_i ≥ 0.4 of the total
    fraction   up to three other latents with cos ≥ 0.1 that together have c ≥ 0.4 of the total:
               min(theirs, total - mains') / (theirs + mains')

After Chanin et al. 2024 (arXiv:2409.14507) and the protocol of SAEBench; both scores are means over the
examples looked at. In the null the decoder rows of all but the main latents are dealt out anew. It is not
applicable where the supervised probe has an F1 under 0.9. A dictionary that was hardly trained has no
main latent to be silent and scores *well*: `main_f1` stands beside for that reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from monosem.metrics.measure import N_CHANCES, Measure, grouped, mean_of_few, not_applicable
from monosem.metrics.probes import FEWEST, NEEDED_F1, Split, f1, fit
from monosem.metrics.sparse_probing import Known, lacking, supervised_probe, telling

RISE = 0.03
"""By how much F1 must rise for one more main latent."""
MOST_MAIN = 10
LEAST_COSINE, LEAST_SHARE = 0.025, 0.4
FRACTION_COSINE, MOST_ABSORBERS = 0.1, 3
FEWEST_CLASSES = 3
"""Classes of a task for which something can be said, below which their mean is not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Absorption:
    """What happens to one label."""

    full: Measure
    fraction: Measure
    main_f1: Measure
    """F1 of the main latents' probe."""
    main: Int64[np.ndarray, " main"]
    absorbers: dict[int, int]
    """How often each latent was the one that took the label in, fully."""

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        return {
            "full_absorption": self.full,
            "absorption_fraction": self.fraction,
            "main_f1": self.main_f1,
        }


def absorption(
    latents: csr_array,
    x: Float[np.ndarray, "examples d"],
    W_dec: Float[np.ndarray, "n_latents d"],
    b_dec: Float[np.ndarray, " d"],
    split: Split,
    *,
    supervised: Known | None = None,
    seed: int = 0,
) -> Absorption:
    """Return how the label of `split` is absorbed; `W_dec` and `b_dec` are the decoder of `latents`.

    `supervised` is a probe of `x` that is known already (`supervised_probe`).
    """
    nothing: Int64[np.ndarray, " main"] = np.zeros(0, np.int64)
    if split.fewest < FEWEST:
        void = not_applicable(
            f"a class has {split.fewest} examples in training or test, of at least {FEWEST}"
        )
        return Absorption(full=void, fraction=void, main_f1=void, main=nothing, absorbers={})
    reached, probe = supervised or supervised_probe(x, split, seed=seed)
    if reached.value is None or reached.value < NEEDED_F1:
        void = lacking(reached)
        return Absorption(full=void, fraction=void, main_f1=void, main=nothing, absorbers={})
    main, main_f1 = main_latents(latents, split, seed=seed)
    rows = split.test[split.labels[split.test] & (probe.scores(x[split.test]) > 0)]
    direction = probe.weights / np.linalg.norm(probe.weights)
    centred = x[rows] - b_dec
    few = latents[rows]
    full, fraction, absorbers = looked_at(few, centred, W_dec, direction, main)
    groups = split.test_groups[np.isin(split.test, rows)]
    chance = [_by_chance(few, centred, W_dec, direction, main, seed + i) for i in range(N_CHANCES)]
    nulls = np.array(chance).T
    named, counts = np.unique(absorbers[absorbers >= 0], return_counts=True)
    return Absorption(
        full=grouped(lambda i: float(full[i].mean()), groups, seed=seed, null=nulls[0]),
        fraction=grouped(lambda i: float(fraction[i].mean()), groups, seed=seed, null=nulls[1]),
        main_f1=main_f1,
        main=main,
        absorbers=dict(zip(named.tolist(), counts.tolist(), strict=True)),
    )


def main_latents(
    latents: csr_array, split: Split, *, seed: int = 0
) -> tuple[Int64[np.ndarray, " main"], Measure]:
    """Return the latents that a sparse probe of the label needs, and its F1 on test examples.

    How many is decided on a fifth of the training examples, which the probe does not see then.
    """
    aside = split.train[: len(split.train) // 5]
    kept = split.train[len(aside) :]
    order = telling(latents[kept], split.labels[kept])
    best, n_main = -1.0, 0
    for k in range(1, min(MOST_MAIN, len(order)) + 1):
        found = f1(_said(latents, split, order[:k], (kept, aside), seed), split.labels[aside])
        if found < best + RISE:
            break
        best, n_main = found, k
    said = _said(latents, split, order[:n_main], (split.train, split.test), seed)
    y = split.labels[split.test]
    score = grouped(lambda i: f1(said[i], y[i]), split.test_groups, seed=seed)
    return order[:n_main], score


def _said(
    latents: csr_array,
    split: Split,
    chosen: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> Bool[np.ndarray, " n"]:
    """Return what a probe of some latents, fitted on the first rows, says of the second."""
    train, test = rows
    few = latents[:, chosen]
    probe = fit(few[train].toarray(), split.labels[train], strength=1.0, seed=seed)
    return probe.scores(few[test].toarray()) > 0


def _by_chance(
    latents: csr_array,
    x: np.ndarray,
    W_dec: np.ndarray,
    direction: np.ndarray,
    main: np.ndarray,
    seed: int,
) -> tuple[float, float]:
    """Return both scores with the decoder rows of all but the main latents dealt out anew."""
    others = np.delete(np.arange(len(W_dec)), main)
    dealt = W_dec.copy()
    dealt[others] = W_dec[np.random.default_rng(seed).permutation(others)]
    full, fraction, _ = looked_at(latents, x, dealt, direction, main)
    return float(full.mean()), float(fraction.mean())


def looked_at(
    latents: csr_array,
    x: Float[np.ndarray, "examples d"],
    W_dec: Float[np.ndarray, "n_latents d"],
    direction: Float[np.ndarray, " d"],
    main: Int64[np.ndarray, " main"],
) -> tuple[
    Bool[np.ndarray, " examples"], Float[np.ndarray, " examples"], Int64[np.ndarray, " examples"]
]:
    """Return whether each example is fully absorbed, what fraction of it is, and by which latent.

    `x` is without `b_dec`; `direction` has length 1. No latent is -1.
    """
    along = W_dec @ direction
    norms = np.linalg.norm(W_dec, axis=1)
    cosines = along / np.where(norms > 0, norms, 1.0)
    total = x @ direction
    shares = latents.multiply(along[None, :]).tocsr()
    of_main = np.asarray(shares[:, main].sum(1)).ravel()
    silent = np.diff(latents[:, main].tocsr().indptr) == 0
    full, fraction = np.zeros(len(x), bool), np.zeros(len(x))
    who = np.full(len(x), -1)
    for row in range(len(x)):
        entries = slice(shares.indptr[row], shares.indptr[row + 1])
        own, values = shares.indices[entries], shares.data[entries]
        other = ~np.isin(own, main)
        own, values = own[other], values[other]
        if not len(own) or total[row] <= 0:
            continue
        best = int(values.argmax())
        enough = values[best] >= LEAST_SHARE * total[row]
        if silent[row] and enough and cosines[own[best]] >= LEAST_COSINE:
            full[row], who[row] = True, own[best]
        able = np.sort(values[cosines[own] >= FRACTION_COSINE])[::-1][:MOST_ABSORBERS]
        theirs, mains = float(able[able > 0].sum()), max(0.0, float(of_main[row]))
        if theirs >= LEAST_SHARE * total[row]:
            left = max(0.0, float(total[row]) - mains)
            fraction[row] = min(theirs, left) / (theirs + mains)
    return full, fraction, who


def over_classes(found: Mapping[str, Absorption]) -> dict[str, Measure]:
    """Return the means over the classes of one task (letters, say) of those to which it applies."""
    known = [each for each in found.values() if each.full.applicable]
    if len(known) < FEWEST_CLASSES:
        void = not_applicable(
            f"it applies to {len(known)} of {len(found)} classes, of at least {FEWEST_CLASSES}"
        )
        return {name: void for name in ("full_absorption", "absorption_fraction", "main_f1")}

    def over(measures: list[Measure]) -> Measure:
        nulls = [m.null for m in measures if m.null is not None]
        values = np.array([m.value for m in measures if m.value is not None])
        return mean_of_few(values, null=float(np.mean(nulls)) if nulls else None)

    return {name: over([each.measures()[name] for each in known]) for name in known[0].measures()}
