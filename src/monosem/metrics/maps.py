"""Maps of directions: two dimensions to look at, groups of neighbours, and what of the truth is lost.

    cosine(i, j) = ŵ_i · ŵ_j                                   the neighbours that count: those by angle
    neighbours_kept  = mean over i of |N_k(i) ∩ M_k(i)| / k     N_k by cosine, M_k on the map
    trustworthiness  = 1 − 2 / (n k (2n − 3k − 1)) · Σ_i Σ_{j ∈ M_k(i) \\ N_k(i)} (rank_i(j) − k)

Both are means over directions, with the 95 % interval of drawing anew the directions that are judged, on this
one map: what another seed of it, or another dictionary, would give lies outside.

UMAP takes the extra `maps`; principal components are what there is without it, and a different picture:
two straight axes, which keep distances that are far and mix up what is near. Groups are HDBSCAN's, in ten
dimensions of the same method; in principal components, where all is one mass, the leaves of its tree.
`n_neighbors` 15, `min_dist` 0.05 and 0.1, the ten dimensions and groups of three or more are those of
Bricken et al. 2023; trustworthiness is of Venna and Kaski 2001.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from sklearn.cluster import HDBSCAN
from torch import Tensor

from monosem.core.errors import ConfigError, MissingExtraError, ShapeMismatchError
from monosem.metrics.measure import Measure, mean

Method = Literal["umap", "pca"]

N_NEIGHBOURS = 15
"""Neighbours of a direction, by which maps are made and judged."""
GROUPED_IN = 10
"""Dimensions in which groups are looked for."""
FEWEST = 3
"""Directions of a group, at least."""
N_JUDGED = 2048
"""Directions, drawn once, whose neighbours are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """Directions in two dimensions."""

    method: Method
    places: Float[Tensor, "n 2"]
    kept: Measure
    """Share of the nearest by cosine that are among the nearest on the map; `null`: by chance."""
    trust: Measure
    """1: nobody is near on the map who is far in truth; about 0.5, of many: places say nothing."""

    @property
    def neighbours_kept(self) -> float:
        """The value of `kept`."""
        return _known(self.kept.value)

    @property
    def neighbours_by_chance(self) -> float:
        """What places that say nothing would keep."""
        return _known(self.kept.null)

    @property
    def trustworthiness(self) -> float:
        """The value of `trust`."""
        return _known(self.trust.value)


def best_method() -> Method:
    """Return `umap` where the extra `maps` is installed, else `pca`."""
    return "umap" if find_spec("umap") else "pca"


def map_of(
    directions: Float[Tensor, "n d"], *, method: Method, seed: int = 0, k: int = N_NEIGHBOURS
) -> Map:
    """Return the map of `directions`, whose length does not count, and how far it is to be believed.

    Raises `ShapeMismatchError` for fewer than 3 k of them, `MissingExtraError` without the extra.
    """
    rows = _unit(directions, k)
    places = _reduced(rows, 2, method, min_dist=0.05, seed=seed, k=k)
    kept, trust = distortion(rows, places, k=k, seed=seed)
    return Map(method=method, places=places, kept=kept, trust=trust)


def groups_of(
    directions: Float[Tensor, "n d"], *, method: Method, seed: int = 0, k: int = N_NEIGHBOURS
) -> Int64[Tensor, " n"]:
    """Return the number of each direction's group, −1 where it has none.

    Raises as `map_of` does.
    """
    rows = _unit(directions, k)
    few = _reduced(
        rows, min(GROUPED_IN, rows.shape[1]), method, min_dist=0.1, seed=seed, k=k
    ).numpy()
    found = HDBSCAN(
        min_cluster_size=FEWEST,
        cluster_selection_method="leaf" if method == "pca" else "eom",
        copy=True,  # pyright: ignore[reportArgumentType] its annotation says str
    ).fit(few)
    return torch.from_numpy(np.asarray(found.labels_, np.int64))


def distortion(
    directions: Float[Tensor, "n d"],
    places: Float[Tensor, "n 2"],
    *,
    k: int = N_NEIGHBOURS,
    seed: int = 0,
) -> tuple[Measure, Measure]:
    """Return the share of neighbours that are kept, and the trustworthiness, of `N_JUDGED` drawn ones."""
    rows, n = _unit(directions, k).double(), len(directions)
    places = places.double()
    judged = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:N_JUDGED]
    kept, far = np.zeros(0), np.zeros(0)
    for part in judged.split(256):
        itself = (torch.arange(len(part)), part)
        cosines = (rows[part] @ rows.t()).index_put_(itself, torch.tensor(2.0).double())
        # The quick formula, a² + b² − 2ab, loses who is nearest in a tight group far from the middle.
        apart = torch.cdist(places[part], places, compute_mode="donot_use_mm_for_euclid_dist")
        apart.index_put_(itself, torch.tensor(torch.inf).double())
        near = apart.topk(k, dim=1, largest=False).indices
        # Rank 0 is the direction itself, 1 its nearest.
        order = cosines.argsort(dim=1, descending=True, stable=True)
        ranks = torch.empty_like(order).scatter_(1, order, torch.arange(n).expand_as(order))
        rank = ranks.gather(1, near).double()
        kept = np.append(kept, ((rank <= k).double().sum(1) / k).numpy())
        far = np.append(far, (rank - k).clamp(min=0).sum(1).numpy())
    trusted = 1 - 2 * far / (k * (2 * n - 3 * k - 1))
    return mean(kept, seed=seed, null=k / (n - 1)), mean(trusted, seed=seed)


def mixed(groups: Int64[Tensor, " n"], second: Bool[Tensor, " n"]) -> float:
    """Return the share of groups that hold directions both of the first sort and of the `second`."""
    n = int(groups.max()) + 1 if len(groups) else 0
    if n == 0:
        return float("nan")
    grouped = groups >= 0
    of_second = torch.bincount(groups[grouped & second], minlength=n)
    of_first = torch.bincount(groups[grouped & ~second], minlength=n)
    return float(((of_first > 0) & (of_second > 0)).double().mean())


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _unit(directions: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n d"]:
    if len(directions) < 3 * k:
        raise ShapeMismatchError(
            f"{len(directions)} directions are too few for a map with {k} neighbours each: "
            f"it takes {3 * k} or more. Pass more directions, or a smaller `k`."
        )
    lengths = directions.norm(dim=1, keepdim=True)
    pointing = (lengths > 0) & lengths.isfinite()
    if not bool(pointing.all()):
        raise ConfigError(
            f"{int((~pointing).sum())} of {len(directions)} directions have no length or are not "
            "finite, and point nowhere. Leave out dead latents first."
        )
    return directions.detach().float().cpu() / lengths.float().cpu()


def _reduced(
    rows: Float[Tensor, "n d"], n_dims: int, method: Method, *, min_dist: float, seed: int, k: int
) -> Float[Tensor, "n n_dims"]:
    if method == "pca":
        return principal(rows, n_dims)
    if not find_spec("umap"):
        raise MissingExtraError(
            "A UMAP needs `umap-learn`, which is not installed. "
            "Run `pip install 'monosem[maps]'`, or ask for `pca`."
        )
    # An optional dependency, and slow to import.
    from umap import UMAP  # noqa: PLC0415  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    made = UMAP(
        n_neighbors=k,
        n_components=n_dims,
        metric="cosine",
        min_dist=min_dist,
        random_state=seed,
        n_jobs=1,
    )
    places = torch.from_numpy(np.asarray(made.fit_transform(rows.numpy()), np.float32))
    if not bool(places.isfinite().all()):
        raise ConfigError(
            f"UMAP gave {int((~places.isfinite()).any(1).sum())} of {len(places)} directions no place. "
            "Ask for `pca`."
        )
    return places


def principal(rows: Float[Tensor, "n d"], n_dims: int) -> Float[Tensor, "n n_dims"]:
    """Return the first principal components of `rows`; each axis points to its largest entry's side."""
    x = rows.double() - rows.double().mean(0)
    axes = torch.linalg.eigh(x.t() @ x).eigenvectors.flip(1)[:, :n_dims]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (x @ (axes * largest.sign())).float()
