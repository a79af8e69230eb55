"""Perturbation of probes: whether taking a few latents away takes away one label, and no other.

    effect_i   (E[a_i | label] - E[a_i | not]) · ⟨w, d_i⟩        w: weights of the label's probe
    ablated    x - Σ a_i d_i over the n latents with the largest effect; the error of the dictionary stays
    TPP        mean over labels of (drop of the label's own accuracy - mean drop of the others')
               effects above 0 only
    SCR        (ablated - biased) / (oracle - biased)      accuracies on the wanted label; |effect| on the
               spurious one
               biased: the wanted label's probe, trained where both labels agree; oracle: where they do not

Targeted probe perturbation and spurious correlation removal, from SAEBench (Karvonen et al. 2025), after
SHIFT (Marks et al. 2024). **An audit (arXiv:2605.18229, with an author of SAEBench) finds that these two
should not be used to compare dictionaries**. They are here to be repeated, with that warning in `WARNING`,
and with what as many latents drawn at random do as the null, ten times. The interval of TPP draws labels
anew, and contexts of the test; labels that lie in no drawn context are left out of a draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from monosem.metrics.measure import (
    N_CHANCES,
    N_DRAWS,
    Measure,
    beside_chance,
    grouped,
    not_applicable,
)
from monosem.metrics.probes import FEWEST, NEEDED_F1, Probe, Split, fit
from monosem.metrics.sparse_probing import Known, supervised_probe

NS = (2, 5, 10, 20, 50)
"""Numbers of latents that are taken away."""
FEWEST_LABELS = 3
SMALLEST_GAP = 0.05
"""Between biased and oracle accuracy, below which a share of it says nothing."""
WARNING = "an audit (arXiv:2605.18229) finds TPP and SCR unfit to compare dictionaries"


@dataclass(frozen=True, eq=False)
class Coded:
    """Activations of examples, and what a dictionary makes of them."""

    x: Float[np.ndarray, "examples d"]
    latents: csr_array
    W_dec: Float[np.ndarray, "n_latents d"]

    def without(
        self, rows: Int64[np.ndarray, " n"], chosen: Int64[np.ndarray, " chosen"]
    ) -> Float[np.ndarray, "n d"]:
        """Return the activations of `rows` with what the chosen latents add taken away."""
        return self.x[rows] - self.latents[rows][:, chosen] @ self.W_dec[chosen]

    def effects(
        self, rows: Int64[np.ndarray, " n"], y: Bool[np.ndarray, " n"], probe: Probe
    ) -> Float[np.ndarray, " n_latents"]:
        """Return what each latent adds to the label's log odds, where it is there and where not."""
        weights = np.where(y, 1 / y.sum(), -1 / (~y).sum())
        return (self.latents[rows].T @ weights) * (self.W_dec @ probe.weights)


def tpp(
    coded: Coded,
    splits: Mapping[str, Split],
    *,
    ns: Sequence[int] = NS,
    supervised: Mapping[str, Known] | None = None,
    seed: int = 0,
) -> dict[int, Measure]:
    """Return targeted probe perturbation by the number of latents taken away; a split for each label.

    `supervised` are probes of the activations that are known already (`supervised_probe`).
    """
    probes: dict[str, Probe] = {}
    for name, split in splits.items():
        if split.fewest < FEWEST:
            continue
        known = (supervised or {}).get(name)
        reached, probe = known or supervised_probe(coded.x, split, seed=seed)
        if reached.value is not None and reached.value >= NEEDED_F1:
            probes[name] = probe
    if len(probes) < FEWEST_LABELS:
        void = not_applicable(
            f"supervised probes reach F1 {NEEDED_F1} for {len(probes)} of {len(splits)} labels, of at "
            f"least {FEWEST_LABELS}"
        )
        return dict.fromkeys(ns, void)
    random = np.random.default_rng(seed)
    tested = _Tested(coded, splits, probes)
    own: dict[int, list[np.ndarray]] = {n: [] for n in ns}
    chance: dict[int, list[list[float]]] = {n: [] for n in ns}
    for i, (name, probe) in enumerate(probes.items()):
        train = splits[name].train
        effects = coded.effects(train, splits[name].labels[train], probe)
        order = np.argsort(-effects, kind="stable")
        able, fires = order[effects[order] > 0], np.flatnonzero(effects != 0)
        for n in ns:
            few = min(n, len(able), len(fires))
            drawn = [random.choice(fires, few, replace=False) for _ in range(N_CHANCES)]
            own[n].append(tested.drops(able[:n]))
            chance[n].append([tested.targeted(tested.drops(some), i) for some in drawn])
    return {n: tested.over_labels(np.stack(own[n]), np.array(chance[n]), seed) for n in ns}


class _Tested:
    """Test examples of all labels, and how right their probes are on them, context by context."""

    def __init__(
        self, coded: Coded, splits: Mapping[str, Split], probes: Mapping[str, Probe]
    ) -> None:
        self._coded, self._probes = coded, list(probes.values())
        self._tests = [splits[name].test for name in probes]
        self._y = [splits[name].labels[splits[name].test] for name in probes]
        groups = [splits[name].test_groups for name in probes]
        contexts = np.unique(np.concatenate(groups))
        self._context_of = [np.searchsorted(contexts, own) for own in groups]
        self._n = len(contexts)
        self._before = [
            _right(p, coded.x[rows], y)
            for p, rows, y in zip(self._probes, self._tests, self._y, strict=True)
        ]
        self._counts = np.stack(
            [np.bincount(own, minlength=self._n).astype(float) for own in self._context_of]
        )

    def drops(self, chosen: Int64[np.ndarray, " chosen"]) -> Float[np.ndarray, "labels contexts"]:
        """Return how many examples of each label, in each context, are no longer right."""
        found: list[np.ndarray] = []
        for probe, rows, y, context_of, before in zip(
            self._probes, self._tests, self._y, self._context_of, self._before, strict=True
        ):
            lost = before - _right(probe, self._coded.without(rows, chosen), y)
            found.append(np.bincount(context_of, lost, minlength=self._n))
        return np.stack(found)

    def targeted(self, drops: np.ndarray, i: int, weights: np.ndarray | None = None) -> float:
        """Return the drop of label `i` less the mean of the others'; contexts count as `weights` say.

        Labels without an example in the contexts that count are left out; NaN where that leaves none.
        """
        w = np.ones(self._n) if weights is None else weights
        counts = self._counts @ w
        shares = np.divide(drops @ w, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        others = np.delete(shares, i)
        others = others[np.isfinite(others)]
        return float(shares[i] - others.mean()) if len(others) else float("nan")

    def over_labels(
        self,
        own: Float[np.ndarray, "labels labels contexts"],
        chance: Float[np.ndarray, "labels chances"],
        seed: int,
    ) -> Measure:
        """Return the mean over labels, which `n` counts; its interval draws labels anew, and contexts."""
        n, random = len(own), np.random.default_rng(seed)

        def mean(labels: np.ndarray, weights: np.ndarray) -> float:
            each = [self.targeted(own[i], i, weights) for i in range(n)]
            drawn = np.array(each)[labels]
            drawn = drawn[np.isfinite(drawn)]
            return float(drawn.mean()) if len(drawn) else float("nan")

        def drawn() -> float:
            weights = np.bincount(random.integers(0, self._n, self._n), minlength=self._n)
            return mean(random.integers(0, n, n), weights.astype(float))

        low, high = np.nanpercentile([drawn() for _ in range(N_DRAWS)], [2.5, 97.5])
        value = mean(np.arange(n), np.ones(self._n))
        found = Measure(value=value, low=float(low), high=float(high), n=n)
        return beside_chance(found, chance.mean(0))


def scr(
    coded: Coded,
    wanted: Bool[np.ndarray, " examples"],
    spurious: Bool[np.ndarray, " examples"],
    groups: Int64[np.ndarray, " examples"],
    *,
    ns: Sequence[int] = NS,
    n_train: int = 1024,
    seed: int = 0,
) -> dict[int, Measure]:
    """Return spurious correlation removal by the number of latents taken away.

    Both labels must occur with and without the other. Groups (contexts) are on one side only.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(np.unique(groups))
    first = np.isin(groups, order[: len(order) // 2])
    quarters = [(wanted == w) & (spurious == s) for w in (True, False) for s in (True, False)]
    fewest = min(int((q & half).sum()) for q in quarters for half in (first, ~first))
    if fewest < FEWEST // 2:
        void = not_applicable(
            f"the rarest pair of labels has {fewest} examples, of at least {FEWEST // 2}"
        )
        return dict.fromkeys(ns, void)
    even = _rows(quarters, first, n_train, random)
    agreeing = _rows([quarters[0], quarters[3]], first, n_train, random)
    test = _rows(quarters, ~first, n_train, random)
    biased, oracle = (fit(coded.x[r], wanted[r], seed=seed) for r in (agreeing, even))
    cue, cue_probe = supervised_probe(coded.x, Split(even, test, spurious, groups), seed=seed)
    y = wanted[test]
    right = tuple(_right(probe, coded.x[test], y) for probe in (biased, oracle))
    reached = min(float(right[1].mean()), cue.value or 0.0)
    gap = float(right[1].mean() - right[0].mean())
    if reached < NEEDED_F1 or gap < SMALLEST_GAP:
        void = not_applicable(
            f"the weaker supervised probe reaches {reached:.3f} of at least {NEEDED_F1}, and the cue "
            f"costs {gap:.3f} of at least {SMALLEST_GAP}"
        )
        return dict.fromkeys(ns, void)
    effects = np.abs(coded.effects(even, spurious[even], cue_probe))
    chosen, able = np.argsort(-effects, kind="stable"), np.flatnonzero(effects > 0)

    def ablated(latents: np.ndarray) -> np.ndarray:
        return _right(biased, coded.without(test, latents), y)

    found: dict[int, Measure] = {}
    for n in ns:
        chance = [ablated(random.permutation(able)[:n]) for _ in range(N_CHANCES)]
        found[n] = _recovered(ablated(chosen[:n]), chance, right, groups[test], seed)
    return found


def _rows(
    of: Sequence[np.ndarray], half: np.ndarray, n: int, random: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """Return as many rows of each of several kinds, on one side."""
    each = min(n // len(of), *(int((q & half).sum()) for q in of))
    drawn = [random.choice(np.flatnonzero(q & half), each, replace=False) for q in of]
    return random.permutation(np.concatenate(drawn))


def _right(probe: Probe, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " n"]:
    return ((probe.scores(x) > 0) == y).astype(np.float64)


def _recovered(
    ablated: np.ndarray,
    chance: Sequence[np.ndarray],
    right: tuple[np.ndarray, ...],
    groups: np.ndarray,
    seed: int,
) -> Measure:
    biased, oracle = right

    def share(of: np.ndarray, drawn: np.ndarray) -> float:
        gap = float((oracle[drawn] - biased[drawn]).sum())
        return float((of[drawn] - biased[drawn]).sum()) / gap if gap > 0 else float("nan")

    null = np.array([share(each, np.arange(len(biased))) for each in chance])
    return grouped(lambda i: share(ablated, i), groups, seed=seed, null=null)
