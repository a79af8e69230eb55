"""Baselines of a site, fitted to its training split: what a dictionary there must beat.

    random             random unit directions, as many as the dictionary has latents, about the mean of
                       the sample and at the length that explains it best
    pca, ica           axes with a latent for each sign; the k largest kept
    pca-one, ica-one   one latent an axis, for the sign to which its coordinates are skewed
    pca-first          the first k principal axes, whatever the vector: the best k dimensions
    nmf                as many factors as the site is wide, 128 at most, codes not negative; for neurons
                       after a ReLU
    classical          sparse coding, k atoms by orthogonal matching pursuit, of either sign; as many atoms as
                       the dictionary has latents, 1,024 at most or as many as the site is wide
    lasso              the same atoms, codes under an L1 penalty

k is the l0 of the dictionary they stand beside; the penalty of `nmf` and `lasso` is the one, of those tried
on vectors from all over the sample, under which the number of latents that fire is nearest to k (none,
where no more than k do without it). Other vectors may have a few percent more or fewer on, unless the
penalty is sought on them (`Fitted.penalised`). The neuron basis is measured without being asked for
(`evaluate.py`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError, unknown_name
from monosem.core.progress import progress
from monosem.dictionaries.coded import Coded
from monosem.dictionaries.fitted import classical, ica, nmf, pca
from monosem.dictionaries.linear import Linear, LinearConfig
from monosem.metrics.stream import AnyDictionary, Place, activations, blocks, first, visit

BASELINES = (
    "random",
    "pca",
    "pca-first",
    "pca-one",
    "ica",
    "ica-one",
    "nmf",
    "classical",
    "lasso",
)
PENALISED = ("nmf", "lasso")
"""Those whose l0 is a matter of a penalty, and no whole number."""
ROWS_AT_ONCE = 2048
"""Rows that are encoded at once in fitting."""
MOST_ATOMS = 1024
"""Atoms learned where the site is no wider: a minute's work at a site 512 wide, on one core."""
CLASSICAL_VISITS, CLASSICAL_ROUNDS = 32_768, 8
"""Vectors read to learn them from, and how often each at most, where there are fewer."""
MOST_FACTORS, FACTOR_ROWS = 128, 8192
"""Of NMF, and the rows that it sees: each of its rounds costs the square of its factors for every row."""
PENALTY_ROWS, PENALTY_TRIES = 2048, 12
"""Rows on which a penalty is sought, from all over the sample, and how many are tried at most."""
NEAR = 0.005
"""Of the l0 that a penalty is sought for: how near to it the search ends."""
FIRST_PENALTY, LOWEST_PENALTY, PENALTY_STEP = 0.1, 1e-3, 3.0
"""Penalties that are tried, as shares of that which nothing survives, and the step from one to the next."""
FEWEST_A_DIMENSION = 4
"""Rows of a sample for each dimension of the site, below which nothing is fitted."""


def check_baselines(names: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a name that is none of `BASELINES`."""
    for name in names:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)


def fit_baselines(
    names: Sequence[str],
    place: Place,
    *,
    n_latents: int,
    k: int,
    n_tokens: int,
    seed: int,
    batch: int,
) -> dict[str, AnyDictionary]:
    """Return the baselines `names` of the site of `place`, fitted to about `n_tokens` activations.

    `ConfigError` where the sample is too small for the width of the site.
    """
    check_baselines(names)
    if not names:
        return {}
    try:
        fitted = Fitted(sample(place, n_tokens, seed, batch), n_latents=n_latents, seed=seed)
    except ConfigError as error:
        raise ConfigError(f"{error} Their number is `n_baseline_tokens`.") from error
    found: dict[str, AnyDictionary] = {}
    with progress("baselines", len(names)) as bar:
        for name in names:
            found[name] = fitted.at(name, k)
            bar.advance()
    return found


@torch.no_grad()
def sample(
    place: Place, n_tokens: int, seed: int, batch: int, split: Literal["train", "heldout"] = "train"
) -> Float[Tensor, "sample d_in"]:
    """Return about `n_tokens` activations of ordinary tokens of a split, on the CPU."""
    contexts = first(visit(place.store, split, seed), place.store, n_tokens)
    device = place.model.device
    parts = [
        activations(place, block)[block.ordinary.to(device)].cpu()
        for block in blocks(place.store, contexts, batch)
    ]
    return torch.cat(parts)[:n_tokens]


class Fitted:
    """Baselines of one sample: what is fitted is fitted once, for however many k."""

    def __init__(
        self,
        x: Float[Tensor, "sample d_in"],
        *,
        n_latents: int,
        seed: int = 0,
        most_atoms: int = MOST_ATOMS,
    ) -> None:
        """Take activations of the training split, and how many latents the dictionary beside them has.

        There are as many random directions, and as many atoms: up to `most_atoms`, or as many as the site
        is wide where that is more. `ConfigError` where the activations are too few for their width.
        """
        if len(x) < FEWEST_A_DIMENSION * x.shape[1]:
            raise ConfigError(
                f"{len(x):,} activations are too few to fit baselines {x.shape[1]} wide. Go up to "
                f"{FEWEST_A_DIMENSION * x.shape[1]:,} or more."
            )
        self.x, self.n_latents, self.seed = x, n_latents, seed
        self.n_atoms = min(count_atoms(n_latents, x.shape[1], most_atoms), len(x))

    def at(self, name: str, k: int) -> AnyDictionary:
        """Return the baseline `name` of which `k` latents fire; `ConfigError` where there is none."""
        check_baselines([name])
        if name == "random":
            return _random(self.x, self.n_latents, k, self.seed)
        if name == "pca-first":
            return _first(self._pca, k)
        if name in ("pca", "ica"):
            return _keeping(self._pca if name == "pca" else self._ica, k)
        if name in ("pca-one", "ica-one"):
            return _one_sign(self._pca if name == "pca-one" else self._ica, self.x, k)
        if name == "classical":
            return _coding(self._atoms, "omp", k=min(k, self.x.shape[1], self.n_atoms))
        return self.penalised(name, float(k), self.x)

    def penalised(self, name: str, l0: float, x: Float[Tensor, "some d_in"]) -> Coded:
        """Return `nmf` or `lasso` with the penalty under which `l0` latents fire for a vector of `x`."""
        if name not in PENALISED:
            raise unknown_name("baseline with a penalty", name, PENALISED)
        return _penalised(self._factors if name == "nmf" else self._atoms, x, l0)

    @property
    def learned_from(self) -> dict[str, str]:
        """What has been learned for each of those that are not read off by a product, and from what."""
        n, width = len(self.x), self.x.shape[1]
        same = "as many as the dictionary has latents"
        fewer = f"the dictionary has {self.n_latents:,} latents; more would cost too much"
        factors = min(width, MOST_FACTORS)
        atoms = (
            f"{self.n_atoms:,} atoms ({same if self.n_atoms == self.n_latents else fewer}), learned from "
            f"{n:,} vectors, each read {'once' if _rounds(n) == 1 else f'{_rounds(n)} times'}"
        )
        return {
            "classical": f"{atoms}; of either sign",
            "lasso": f"the same {self.n_atoms:,} atoms",
            "nmf": f"{factors:,} factors ({fewer}), from {min(n, FACTOR_ROWS):,} vectors",
        }

    @cached_property
    def _pca(self) -> Linear:
        return pca(self.x)

    @property
    def _ica(self) -> Linear:
        if isinstance(self._tried, ConfigError):
            raise self._tried
        return self._tried

    @cached_property
    def _tried(self) -> Linear | ConfigError:
        """ICA, or why there is none: that takes as long to find out, and is asked for again."""
        try:
            return ica(self.x, seed=self.seed)
        except ConfigError as error:
            return error

    @cached_property
    def _factors(self) -> Coded:
        n = min(self.x.shape[1], MOST_FACTORS)
        return nmf(spread(self.x, FACTOR_ROWS), n, seed=self.seed)

    @cached_property
    def _atoms(self) -> Coded:
        n_rounds = _rounds(len(self.x))
        return classical(self.x, self.n_atoms, k=1, n_rounds=n_rounds, seed=self.seed)


def spread(x: Float[Tensor, "sample d_in"], n: int) -> Float[Tensor, "some d_in"]:
    """Return `n` rows at equal distances, or all: the first ones would be of a few contexts."""
    return x if n >= len(x) else x[torch.arange(n) * len(x) // n]


def count_atoms(n_latents: int, width: int, most: int = MOST_ATOMS) -> int:
    """Return how many atoms are learned beside a dictionary of `n_latents` at a site so wide."""
    return min(n_latents, max(width, most))


def _rounds(n: int) -> int:
    """Return how often each of `n` vectors is read to learn atoms from."""
    return min(CLASSICAL_ROUNDS, max(1, CLASSICAL_VISITS // n))


def _keeping(axes: Linear, k: int) -> Linear:
    called = axes.config.directions
    k = min(k, axes.n_latents)
    return Linear.of(axes.W_dec, axes.W_enc, b_enc=axes.b_enc, b_dec=axes.b_dec, k=k, called=called)


def _first(axes: Linear, k: int) -> Linear:
    """Return the first k of the axes, each with both signs: of every one, one latent fires."""
    width = axes.n_latents // 2
    k = min(k, width)
    rows = torch.cat([torch.arange(k), width + torch.arange(k)])
    called = f"{axes.config.directions}, the first {k}"
    return Linear.of(
        axes.W_dec[rows],
        axes.W_enc[:, rows],
        b_enc=axes.b_enc[rows],
        b_dec=axes.b_dec,
        called=called,
    )


def _one_sign(axes: Linear, x: Float[Tensor, "sample d_in"], k: int) -> Linear:
    """Return each axis with the sign to which its coordinates on `x` are skewed.

    What the positive halves leave of `x` is not zero in the mean; the offset takes that in.
    """
    width = axes.n_latents // 2
    third = sum(
        ((part - axes.b_dec) @ axes.W_enc[:, :width]).double().pow(3).sum(0)
        for part in x.split(ROWS_AT_ONCE)
    )
    assert isinstance(third, Tensor)  # the sample is not empty
    rows = torch.arange(width) + width * (third < 0)
    called = f"{axes.config.directions}, one sign"
    k = min(k, width)
    write, read = axes.W_dec[rows], axes.W_enc[:, rows]
    plain = Linear.of(write, read, b_dec=axes.b_dec, k=k)
    left = [(part - plain(part)).double().sum(0) for part in x.split(ROWS_AT_ONCE)]
    offset = (torch.stack(left).sum(0) / len(x)).to(read)
    return Linear.of(
        write, read, b_enc=offset @ read, b_dec=axes.b_dec + offset, k=k, called=called
    )


def _coding(
    atoms: Coded, codes: Literal["omp", "lasso"], *, k: int = 1, alpha: float = 0.0
) -> Coded:
    """Return the same atoms with codes of another kind; a sign has a latent where it had one."""
    made = Coded(dataclasses.replace(atoms.config, codes=codes, k=k, alpha=alpha))
    signed = codes == "omp"
    made.set_atoms_(atoms.W_dec[: atoms.n_latents // 2] if signed else atoms.W_dec)
    made.b_dec.copy_(atoms.b_dec)
    return made


@torch.no_grad()
def _penalised(atoms: Coded, x: Float[Tensor, "some d_in"], l0: float) -> Coded:
    """Return codes under the penalty, of those tried, that leaves nearest to `l0` latents of a vector."""
    rows = spread(x, PENALTY_ROWS)
    largest = float(((rows - atoms.b_dec) @ atoms.W_dec.t()).max().clamp_min(1e-30))
    made: dict[float, Coded] = {}
    reached: dict[float, float] = {}
    penalty = FIRST_PENALTY
    for _ in range(PENALTY_TRIES):
        made[penalty] = _coding(atoms, "lasso", alpha=penalty * largest)
        reached[penalty] = _l0(made[penalty], rows)
        if penalty == 0 or abs(reached[penalty] - l0) <= NEAR * l0:
            break
        penalty = _next_penalty(reached, l0)
    return made[min(reached, key=lambda each: abs(reached[each] - l0))]


def _next_penalty(reached: Mapping[float, float], l0: float) -> float:
    """Return the penalty to try next: between the nearest of either side, on the line of the logarithms.

    Where all leave too many or too few, a step further; none at all below the lowest, for codes are dear to
    solve without one.
    """
    more, fewer = ([p for p, n in reached.items() if (n > l0) == side] for side in (True, False))
    if not more:
        lower = min(fewer) / PENALTY_STEP
        return lower if lower >= LOWEST_PENALTY else 0.0
    if not fewer:
        return min(1.0, max(more) * PENALTY_STEP)
    low, high = max(more), min(fewer)
    over, under = math.log(reached[low] / l0), math.log(l0 / max(reached[high], 0.1 * l0))
    part = min(0.9, max(0.1, over / (over + under)))
    return low * (high / low) ** part


def _l0(dictionary: Coded, x: Float[Tensor, "sample d_in"]) -> float:
    return len(dictionary.encode_sparse(x).active()) / len(x)


def _random(x: Float[Tensor, "sample d_in"], n_latents: int, k: int, seed: int) -> Linear:
    """Return random directions that overshoot no more: many that are not orthogonal add up."""
    rows = Linear(LinearConfig(d_in=x.shape[1], n_latents=n_latents, seed=seed)).W_dec
    mean, kept = x.mean(0), min(k, n_latents)
    plain = Linear.of(rows, b_dec=mean, k=kept)
    made = torch.cat([plain(part) - mean for part in x.split(ROWS_AT_ONCE)])
    size = float((made * (x - mean)).sum() / made.square().sum().clamp_min(1e-30))
    return Linear.of(rows, size * rows.t(), b_dec=mean, k=kept, called="random")
