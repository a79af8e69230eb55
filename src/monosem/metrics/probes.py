"""Linear probes: logistic regressions that say how well a label can be read off, and their scores.

    p(label | x) = 1 / (1 + exp(-(w · (x - mean) / spread + b)))
    auc          share of pairs (one of each class) that the probe puts in the right order
    f1           harmonic mean of precision and recall of the label, at p = 1/2

The strength of the penalty is the one of ten, from 1e5 to 1e-5, with the largest AUC on a fifth of the
training examples, a hundred at most (the protocol of sae-probes, Kantamneni et al. 2025,
arXiv:2502.16681). Supervised probes of activations take L2; those of a few latents L1.
"""

import inspect
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from monosem.core.errors import ConfigError

STRENGTHS = np.logspace(5, -5, 10)
"""Inverse weights of the penalty that are tried."""
MOST_STEPS = 300
"""Steps of a fit; labels that can be told apart without error have no end to it at weak penalties."""
FEWEST = 50
"""Examples of each class, in training and in test, below which nothing is said."""
NEEDED_F1 = 0.9
"""F1 of a supervised probe of the activations, below which a dictionary cannot be blamed."""
Penalty = Literal["l1", "l2"]
MOST_NEWTON = 1024
"""Widths up to which Newton's method is the quickest: a matrix of that size is solved in each step."""

# scikit-learn 1.8 gave the kind of penalty another argument
_NEW = inspect.signature(LogisticRegression).parameters["penalty"].default == "deprecated"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A fitted probe, on the scale of what it reads."""

    weights: Float[np.ndarray, " d"]
    bias: float
    strength: float

    def scores(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return log odds of the label; above 0 it says yes."""
        return x @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class Split:
    """Examples by their rows, with labels."""

    train: Int64[np.ndarray, " n_train"]
    test: Int64[np.ndarray, " n_test"]
    labels: Bool[np.ndarray, " examples"]
    """Of all rows."""
    groups: Int64[np.ndarray, " examples"] | None = None
    """Contexts of all rows; None: each row is independent of the others."""

    @property
    def test_groups(self) -> Int64[np.ndarray, " n_test"]:
        """Groups of the test rows, which intervals draw anew."""
        return np.arange(len(self.test)) if self.groups is None else self.groups[self.test]

    @property
    def fewest(self) -> int:
        """Examples of the rarest class, in training or in test."""
        counts = [
            int((self.labels[rows] == value).sum())
            for rows in (self.train, self.test)
            for value in (True, False)
        ]
        return min(counts)


def balanced(
    labels: Bool[np.ndarray, " examples"],
    groups: Int64[np.ndarray, " examples"],
    *,
    n_train: int = 1024,
    n_test: int = 1024,
    share: float = 0.5,
    seed: int = 0,
) -> Split:
    """Return training and test examples of different groups, a `share` of which have the label.

    As many as there are, up to `n_train` and `n_test`; groups are contexts, as a rule. Fewer for training
    is the protocol's scarcity, another share its imbalance.
    """
    if not 0 < share < 1:
        raise ConfigError(f"`share` must lie between 0 and 1, got {share}.")
    random = np.random.default_rng(seed)
    order = random.permutation(np.unique(groups))
    first = np.isin(groups, order[: len(order) // 2])
    rows = [
        _drawn(labels, np.flatnonzero(half), n, share, random)
        for half, n in ((first, n_train), (~first, n_test))
    ]
    return Split(rows[0], rows[1], labels, groups)


def fit(
    x: Float[np.ndarray, "n d"],
    y: Bool[np.ndarray, " n"],
    *,
    penalty: Penalty = "l2",
    strength: float | None = None,
    seed: int = 0,
) -> Probe:
    """Return the probe of `y` that reads `x`; without `strength`, that is chosen on examples put aside."""
    if y.all() or not y.any():
        raise ConfigError("All examples of a probe have the same label. Give it both.")
    x = x.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = (x - mean) / spread
    if strength is None:
        strength = _strength(scaled, y, penalty, seed)
    model = _regression(scaled, y, strength, penalty, seed)
    weights = np.asarray(model.coef_)[0] / spread
    bias = float(np.asarray(model.intercept_)[0] - weights @ mean)
    return Probe(weights=weights, bias=bias, strength=strength)


def auc(scores: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the curve of true and false positives; NaN without both classes.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    n_true, n_false = int(y.sum()), int((~y).sum())
    if not n_true or not n_false:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2  # equal ones share their mean rank
    return float((ranks[inverse][y].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def f1(said: Bool[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> float:
    """Return the F1 of what was said; 0 where nothing was right.

    >>> f1(np.array([True, True, False]), np.array([True, False, True]))
    0.5
    """
    right = int((said & y).sum())
    return 2 * right / int(said.sum() + y.sum()) if right else 0.0


def _regression(
    x: np.ndarray, y: np.ndarray, strength: float, penalty: Penalty, seed: int
) -> LogisticRegression:
    given: dict[str, Any] = {"C": strength, "max_iter": MOST_STEPS, "random_state": seed}
    if penalty == "l2" and x.shape[1] <= MOST_NEWTON:
        given |= {"solver": "newton-cholesky"}
    if penalty == "l1":
        given |= {"solver": "liblinear", **({"l1_ratio": 1.0} if _NEW else {"penalty": "l1"})}
    with warnings.catch_warnings():  # the weakest penalties would take for ever
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(**given).fit(x, y)


def _strength(x: np.ndarray, y: np.ndarray, penalty: Penalty, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(y))
    n_aside = min(len(y) // 5, 100)
    aside, kept = order[:n_aside], order[n_aside:]
    best, strength = -1.0, 1.0
    if not (0 < y[aside].sum() < n_aside and 0 < y[kept].sum() < len(kept)):
        return strength
    for each in STRENGTHS:
        model = _regression(x[kept], y[kept], float(each), penalty, seed)
        found = auc(model.decision_function(x[aside]), y[aside])
        if found > best:
            best, strength = found, float(each)
    return strength


def _drawn(
    labels: np.ndarray, rows: np.ndarray, n: int, share: float, random: np.random.Generator
) -> Int64[np.ndarray, " drawn"]:
    true, false = rows[labels[rows]], rows[~labels[rows]]
    n = int(min(n, len(true) / share, len(false) / (1 - share)))
    n_true = round(n * share)
    drawn = [
        random.choice(some, min(k, len(some)), replace=False)
        for some, k in ((true, n_true), (false, n - n_true))
    ]
    return random.permutation(np.concatenate(drawn))
