"""Sparse probing: how well a label can be read off the k latents that tell most of it.

    chosen   the k latents with the largest |E[a | label] - E[a | not]| / E[a | a > 0], on training examples
    value    AUC of a logistic regression of these alone, on test examples of other contexts
    null     the same with the training labels shuffled, ten times: as many candidates, nothing to be found

The protocol of sae-probes (Kantamneni et al. 2025, arXiv:2502.16681), on balanced classes; an audit of
the usual benchmarks (arXiv:2605.18229) found it the most reliable of them. Not applicable where a
supervised probe of the activations themselves has an F1 under 0.9: then the label is not there to be found.
Where a dictionary splits one label over several latents, AUC rises with k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from monosem.metrics.measure import N_CHANCES, Measure, Null, grouped, not_applicable
from monosem.metrics.probes import FEWEST, NEEDED_F1, Probe, Split, auc, f1, fit

KS = (1, 2, 4, 8, 16)
Known = tuple[Measure, Probe]
"""A supervised probe of the activations, with its F1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseProbing:
    """What one label is to a dictionary."""

    supervised: Measure
    """F1 of a probe that reads the activations themselves."""
    auc: dict[int, Measure]
    """By k."""
    f1: dict[int, Measure]
    latents: Int64[np.ndarray, " chosen"]
    """The latents that tell most, in order."""

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        return {"supervised_f1": self.supervised} | {
            f"auc_k{k}": found for k, found in self.auc.items()
        }


def sparse_probing(
    latents: csr_array,
    x: Float[np.ndarray, "examples d"],
    split: Split,
    *,
    ks: Sequence[int] = KS,
    supervised: Known | None = None,
    seed: int = 0,
) -> SparseProbing:
    """Return how well the labels of `split` are read off a few `latents`; `x` are the activations.

    `supervised` is a probe of these that is known already (`supervised_probe`).
    """
    nothing = np.zeros(0, np.int64)
    if split.fewest < FEWEST:
        void = not_applicable(
            f"a class has {split.fewest} examples in training or test, of at least {FEWEST}"
        )
        return SparseProbing(supervised=void, auc={}, f1={}, latents=nothing)
    reached, _ = supervised or supervised_probe(x, split, seed=seed)
    order = telling(latents[split.train], split.labels[split.train])
    if reached.value is None or reached.value < NEEDED_F1:
        void = lacking(reached)
        return SparseProbing(
            supervised=reached, auc={k: void for k in ks}, f1={k: void for k in ks}, latents=order
        )
    aucs: dict[int, Measure] = {}
    f1s: dict[int, Measure] = {}
    y = split.labels[split.test]
    for k in ks:
        scores = _scores(latents, split, order[:k], split.labels[split.train], seed)
        chance = _by_chance(latents, split, k, seed)
        aucs[k] = _auc(scores, split, seed, np.array([auc(c, y) for c in chance]))
        f1s[k] = _f1(scores, split, seed, np.array([f1(c > 0, y) for c in chance]))
    return SparseProbing(supervised=reached, auc=aucs, f1=f1s, latents=order[: max(ks)])


def supervised_probe(x: Float[np.ndarray, "examples d"], split: Split, *, seed: int = 0) -> Known:
    """Return the F1 on test examples of a probe of the activations, and the probe.

    Its chance is that of saying yes to half of the test.
    """
    probe = fit(x[split.train], split.labels[split.train], seed=seed)
    share = float(split.labels[split.test].mean())
    return _f1(probe.scores(x[split.test]), split, seed, share / (0.5 + share)), probe


def lacking(supervised: Measure) -> Measure:
    """Return what a measure answers where the activations themselves do not hold the label."""
    return not_applicable(
        f"a supervised probe reaches F1 {supervised.value:.3f} of at least {NEEDED_F1}",
        supervised.n,
    )


def telling(latents: csr_array, y: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n_latents"]:
    """Return all latents, the one whose mean differs most between the classes first."""
    n_fired = np.diff(latents.tocsc().indptr)
    active_mean = np.asarray(latents.sum(0)).ravel() / np.maximum(n_fired, 1)
    weights = np.where(y, 1 / y.sum(), -1 / (~y).sum())
    differences = np.abs(latents.T @ weights) / np.where(active_mean > 0, active_mean, 1.0)
    return np.argsort(-differences, kind="stable")


def _by_chance(
    latents: csr_array, split: Split, k: int, seed: int
) -> list[Float[np.ndarray, " n_test"]]:
    random, train = np.random.default_rng(seed), latents[split.train]
    found: list[np.ndarray] = []
    for _ in range(N_CHANCES):
        mixed = random.permutation(split.labels[split.train])
        found.append(_scores(latents, split, telling(train, mixed)[:k], mixed, seed))
    return found


def _scores(
    latents: csr_array, split: Split, chosen: np.ndarray, y: np.ndarray, seed: int
) -> Float[np.ndarray, " n_test"]:
    few = latents[:, chosen]
    probe = fit(few[split.train].toarray(), y, penalty="l1", seed=seed)
    return probe.scores(few[split.test].toarray())


def _auc(scores: np.ndarray, split: Split, seed: int, null: Null) -> Measure:
    y, groups = split.labels[split.test], split.test_groups
    return grouped(lambda i: auc(scores[i], y[i]), groups, seed=seed, null=null, n_draws=200)


def _f1(scores: np.ndarray, split: Split, seed: int, null: Null) -> Measure:
    y, groups = split.labels[split.test], split.test_groups
    return grouped(lambda i: f1(scores[i] > 0, y[i]), groups, seed=seed, null=null)
