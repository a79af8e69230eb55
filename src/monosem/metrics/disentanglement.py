"""Disentanglement: whether latents of one attribute can be exchanged without touching the others.

    exchanged  x_base + Σ over i in S of (a_i(source) - a_i(base)) d_i       the error of the dictionary stays
    cause      share of pairs where what is read of the attribute becomes the source's
    isolation  share of pairs where what is read of another attribute stays the base's
    score      (cause + isolation) / 2        1: disentangled; 1/2: everything moves, or nothing does

In the manner of RAVEL (Huang et al. 2024, arXiv:2402.17700). S are the n latents whose values tell the
attribute most (one-way analysis of variance), n the best of `NS` on training pairs; pairs of bases and
sources of other contexts decide. What is read is what linear readers of the activations say, or any
function that is given: a language model's answer, say. The null exchanges as many random latents that fire.
Intervals draw groups anew, for bases and sources alike.

SAEBench learns a mask over latents instead, which takes gradients through the model, and leaves the error
out; so figures of the two are not the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from monosem.metrics.measure import N_CHANCES, Measure, Null, crossed, not_applicable
from monosem.metrics.perturbation import Coded
from monosem.metrics.probes import FEWEST, MOST_STEPS, NEEDED_F1

NS = (1, 2, 4, 8, 16, 32, 64)
N_PAIRS = 400
FEWEST_ATTRIBUTES = 2
Reader = Callable[[Float[np.ndarray, "n d"]], Int64[np.ndarray, " n"]]
"""Says which class of an attribute activations are of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Disentanglement:
    """What exchanging the latents of one attribute does."""

    score: Measure
    cause: Measure
    isolation: Measure
    latents: Int64[np.ndarray, " chosen"]

    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""
        return {"disentangled": self.score, "cause": self.cause, "isolation": self.isolation}


def disentanglement(
    coded: Coded,
    attributes: Mapping[str, Int64[np.ndarray, " examples"]],
    groups: Int64[np.ndarray, " examples"],
    *,
    readers: Mapping[str, Reader] | None = None,
    ns: Sequence[int] = NS,
    n_pairs: int = N_PAIRS,
    seed: int = 0,
) -> dict[str, Disentanglement]:
    """Return the disentanglement of each attribute from the others, which give each example a class.

    Groups (entities, or contexts) are on one side of training and test only.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(np.unique(groups))
    first = np.isin(groups, order[: len(order) // 2])
    train, test = np.flatnonzero(first), np.flatnonzero(~first)
    known = dict(readers or {})
    known |= {
        name: _reader(coded.x[train], classes[train], seed)
        for name, classes in attributes.items()
        if name not in known and len(np.unique(classes[train])) > 1
    }
    reasons = {
        name: _why_not(name, classes, known, coded.x, train, test)
        for name, classes in attributes.items()
    }
    usable = {name: classes for name, classes in attributes.items() if not reasons[name]}
    found: dict[str, Disentanglement] = {}
    for name in attributes:
        reason = reasons[name]
        if not reason and len(usable) < FEWEST_ATTRIBUTES:
            reason = (
                f"{len(usable)} of {len(attributes)} attributes can be read, of at least "
                f"{FEWEST_ATTRIBUTES}"
            )
        if reason:
            void = not_applicable(reason)
            nothing: Int64[np.ndarray, " chosen"] = np.zeros(0, np.int64)
            found[name] = Disentanglement(score=void, cause=void, isolation=void, latents=nothing)
            continue
        found[name] = _of_one(
            coded, name, usable, known, (train, test), groups, ns=ns, n_pairs=n_pairs, seed=seed
        )
    return found


def telling_classes(
    latents: csr_array, classes: Int64[np.ndarray, " examples"]
) -> Int64[np.ndarray, " n_latents"]:
    """Return all latents, the one whose variance lies most between the classes first (largest F)."""
    n = len(classes)
    values, numbers = np.unique(classes, return_counts=True)
    sums = np.stack([np.asarray(latents[classes == v].sum(0)).ravel() for v in values])
    counts = numbers[:, None]
    overall = sums.sum(0) / n
    between = (counts * (sums / counts - overall) ** 2).sum(0)
    square = np.asarray(latents.multiply(latents).sum(0)).ravel()
    within = np.maximum(square - (sums**2 / counts).sum(0), 1e-12 * np.maximum(square, 1e-30))
    return np.argsort(-between / within, kind="stable")


def exchanged(
    coded: Coded,
    base: Int64[np.ndarray, " n"],
    source: Int64[np.ndarray, " n"],
    chosen: Int64[np.ndarray, " chosen"],
) -> Float[np.ndarray, "n d"]:
    """Return the bases' activations with the sources' values of the chosen latents."""
    change = coded.latents[source][:, chosen] - coded.latents[base][:, chosen]
    return coded.x[base] + change @ coded.W_dec[chosen]


def _of_one(
    coded: Coded,
    name: str,
    attributes: Mapping[str, np.ndarray],
    readers: Mapping[str, Reader],
    rows: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray,
    *,
    ns: Sequence[int],
    n_pairs: int,
    seed: int,
) -> Disentanglement:
    random = np.random.default_rng(seed)
    train, test = (_pairs(some, attributes[name], n_pairs, random) for some in rows)
    order = telling_classes(coded.latents[rows[0]], attributes[name][rows[0]])
    fires = np.flatnonzero(np.diff(coded.latents[rows[0]].tocsc().indptr) > 0)

    def score(pairs: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _scores(coded, name, attributes, readers, pairs, chosen)

    tried = [n for n in ns if n <= len(order)] or [len(order)]
    best = max(tried, key=lambda n: sum(part.mean() for part in score(train, order[:n])))
    chosen = order[:best]
    cause, isolation = score(test, chosen)
    chance = [
        [part.mean() for part in score(test, random.choice(fires, min(best, len(fires)), False))]
        for _ in range(N_CHANCES)
    ]
    nulls = np.array(chance).T

    def over(values: np.ndarray, null: Null) -> Measure:
        return crossed(values, groups[test], seed=seed, null=null)

    return Disentanglement(
        score=over((cause + isolation) / 2, nulls.mean(0)),
        cause=over(cause, nulls[0]),
        isolation=over(isolation, nulls[1]),
        latents=chosen,
    )


def _scores(
    coded: Coded,
    name: str,
    attributes: Mapping[str, np.ndarray],
    readers: Mapping[str, Reader],
    pairs: np.ndarray,
    chosen: np.ndarray,
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Return of each pair whether the attribute moved, and which share of the others stayed."""
    base, source = pairs
    x = exchanged(coded, base, source, chosen)
    cause = (readers[name](x) == attributes[name][source]).astype(np.float64)
    others = [
        (readers[other](x) == classes[base]).astype(np.float64)
        for other, classes in attributes.items()
        if other != name
    ]
    return cause, np.mean(others, axis=0)


def _pairs(
    rows: np.ndarray, classes: np.ndarray, n: int, random: np.random.Generator
) -> Int64[np.ndarray, "two pairs"]:
    """Return `n` pairs of examples that differ in the attribute; bases are of all classes alike."""
    values = np.unique(classes[rows])
    of = {v: rows[classes[rows] == v] for v in values}
    others = {v: rows[classes[rows] != v] for v in values}
    chosen = random.choice(values, n)
    bases = [random.choice(of[v]) for v in chosen]
    return np.array([bases, [random.choice(others[v]) for v in chosen]], np.int64)


def _reader(x: np.ndarray, classes: np.ndarray, seed: int) -> Reader:
    mean_, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(max_iter=MOST_STEPS, tol=1e-3, random_state=seed)
    model.fit((x - mean_) / spread, classes)
    return lambda rows: np.asarray(model.predict((rows - mean_) / spread), np.int64)


def _why_not(
    name: str,
    classes: np.ndarray,
    readers: Mapping[str, Reader],
    x: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> str:
    """Return why an attribute cannot be measured, or nothing."""
    counts = [np.unique(classes[rows], return_counts=True) for rows in (train, test)]
    if any(len(values) < 2 for values, _ in counts):
        return f"`{name}` has one class"
    fewest = min(int(n.min()) for _, n in counts)
    if fewest < FEWEST // 2:
        return f"a class of `{name}` has {fewest} examples, of at least {FEWEST // 2} on each side"
    found = f1_score(classes[test], readers[name](x[test]), average="macro")
    if found < NEEDED_F1:
        return f"`{name}` is read with F1 {found:.3f}, of at least {NEEDED_F1}"
    return ""
