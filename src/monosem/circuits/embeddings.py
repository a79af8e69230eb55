"""The embedding spaces of a model: W_E, W_U and the position embeddings, each beside an untrained model's.

participation      (Σ λ)² / Σ λ² of the spectrum λ of the centred rows: how many directions are used
dimensions         how many principal directions hold 90 % of the variance
intrinsic          dimension of the set of rows itself, from two nearest neighbours (TwoNN, Facco et al. 2017)
mean_share         ‖mean row‖² / mean ‖row‖²: how far all rows point one way
cosine, centred    mean cosine of two rows, as they are and after the mean is taken away
isotropy           min Z(c) / max Z(c) over principal directions c of Σ exp(c · row), after the mean is
                   taken away (Mu & Viswanath 2018, 2.2); 1 if no direction is special
frequency_r2       share of log frequency that a linear map of unseen rows tells (five folds)
frequency_pc       |cosine| between the direction in which rows move with log frequency and the first
                   principal direction
roughness          of positions: Σ ‖step‖² / 2 Σ ‖row − mean‖²; 1 if neighbours are strangers, near 0 on a
                   smooth curve
three_directions   of positions: share of variance in three principal directions
sparse_fvu         what 8 atoms of a dictionary of the rows leave of unseen rows (FVU); left out,
                   as is the next, where there are less than 2.5 rows a dimension
pca_fvu            what as many principal directions leave
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.core.errors import ConfigError
from monosem.dictionaries.fitted import classical
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import untrained

MOST_ROWS = 4096
"""Rows between which distances are taken, at most."""
LEARNT_ROWS, K, ROUNDS = 2048, 8, 4
"""Of the dictionary of rows, which has an atom a dimension: rows (at least), atoms a row, rounds."""
FOLDS = 5
MEANINGS = {
    "participation": "directions in use, (Σ λ)² / Σ λ²",
    "dimensions": "principal directions that hold 90 % of the variance",
    "intrinsic": "intrinsic dimension of the set of rows (TwoNN)",
    "mean_share": "share of the mean row in the rows' squared length",
    "cosine": "mean cosine of two rows",
    "centred": "the same after the mean row is taken away",
    "isotropy": "1 if no direction is special, the mean taken away",
    "frequency_r2": "share of log frequency told linearly, of unseen rows",
    "frequency_pc": "|cosine| of its direction and the first principal one",
    "roughness": "steps from row to row: 1 of strangers, near 0 on a curve",
    "three_directions": "share of variance in three principal directions",
    "sparse_fvu": f"what {K} learnt atoms leave of unseen rows",
    "pca_fvu": f"what {K} principal directions leave",
}
"""Each measure in a few words, for tables."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of one matrix, here and in an untrained model of the same shape."""

    matrix: str
    """W_E, W_U or W_pos."""
    measure: str
    """Its name (see the head of this file)."""
    value: float
    """Of the model."""
    untrained: float
    """Of a model that has learnt nothing."""


def matrices(model: LanguageModel) -> dict[str, Float[Tensor, "n d"]]:
    """Return the embedding matrices, a row a token or position; tied ones once, as `W_E`."""
    embed = cast(nn.Embedding, model.model.get_input_embeddings()).weight.detach()
    unembed = cast(nn.Linear, model.model.get_output_embeddings()).weight.detach()
    found = {"W_E": embed}
    if unembed.data_ptr() != embed.data_ptr():
        found["W_U"] = unembed
    if model.family.pos_embed:
        base = model.model.get_submodule(model.family.base)
        found["W_pos"] = cast(
            nn.Embedding, base.get_submodule(model.family.pos_embed)
        ).weight.detach()
    return {name: weight.float().cpu() for name, weight in found.items()}


@torch.no_grad()
def embedding_space(
    model: LanguageModel,
    *,
    counts: Int[Tensor, " vocab"] | None = None,
    dictionary: bool = True,
    seed: int = 0,
) -> list[Measured]:
    """Return all measures of all matrices; those of frequency need `counts` of tokens in some text.

    `dictionary=False` leaves out the dictionary of the rows, which takes longest.
    """
    if counts is not None and len(counts) != model.vocab_size:
        raise ConfigError(
            f"`counts` has {len(counts)} entries; the vocabulary of `{model.name}` has {model.vocab_size}. "
            "Count with `torch.bincount(tokens, minlength=model.vocab_size)`."
        )
    here, there = matrices(model), matrices(untrained(model, seed))
    rows: list[Measured] = []
    for name, weight in here.items():
        values = _measures(name, weight, counts, dictionary, seed)
        others = _measures(name, there[name], counts, dictionary, seed)
        rows += [
            Measured(matrix=name, measure=measure, value=value, untrained=others[measure])
            for measure, value in values.items()
        ]
    return rows


def spectrum(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Return the variances of the rows along their principal directions, largest first."""
    centred = x.double() - x.double().mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(x)).flip(0).clamp_min(0)


def participation(variances: Float[Tensor, " d"]) -> float:
    """Return (Σ λ)² / Σ λ².

    >>> participation(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    3.0
    """
    return float(variances.sum().square() / variances.square().sum())


def dimensions(variances: Float[Tensor, " d"], share: float = 0.9) -> int:
    """Return how many principal directions hold `share` of the variance."""
    return int((variances.cumsum(0) < share * variances.sum()).sum()) + 1


def intrinsic_dimension(x: Float[Tensor, "n d"], *, seed: int = 0) -> float:
    """Return the TwoNN estimate: from ratios of the distances to the second and the first neighbour.

    ln(r₂/r₁) is exponential with rate d; the rate is fitted through the origin to the empirical
    distribution without its last tenth, as Facco et al. do.
    """
    some = torch.unique(_some(x, seed), dim=0).double()
    if len(some) < 20:
        raise ConfigError(
            f"Only {len(some)} rows differ from all others; an intrinsic dimension needs 20. Give more rows."
        )
    near = torch.cdist(some, some).fill_diagonal_(torch.inf).topk(2, largest=False).values
    logs = (near[:, 1] / near[:, 0]).log().sort().values
    n = len(logs)
    kept = logs[: int(0.9 * n)]
    left = -torch.log1p(-torch.arange(1, len(kept) + 1, dtype=torch.float64) / n)
    return float((kept * left).sum() / kept.square().sum())


def mean_cosine(x: Float[Tensor, "n d"]) -> float:
    """Return the mean cosine of two different rows; rows of zeros are left out."""
    unit = nn.functional.normalize(x.double()[x.norm(dim=1) > 0], dim=1)
    n = len(unit)
    return float((unit.sum(0).square().sum() - n) / (n * (n - 1)))


def isotropy(x: Float[Tensor, "n d"]) -> float:
    """Return min Z / max Z over principal directions and their negatives, Z(c) = Σ exp(c · row).

    Rows are centred and scaled to a mean norm of 1.
    """
    rows = x.double() - x.double().mean(0)
    rows = rows / rows.norm(dim=1).mean()
    directions = torch.linalg.eigh(rows.T @ rows).eigenvectors
    along = rows @ directions
    sums = torch.cat([along.exp().sum(0), (-along).exp().sum(0)])
    return float(sums.min() / sums.max())


def frequency(
    x: Float[Tensor, "n d"], counts: Int[Tensor, " n"], *, seed: int = 0
) -> tuple[float, Float[Tensor, " d"]]:
    """Return how much of log(1 + count) unseen rows tell linearly (R²), and the direction of it.

    The direction is that in which rows move as log(1 + count) grows; of unit length.
    """
    rows, logs = x.double() - x.double().mean(0), torch.log1p(counts.double())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    left = 0.0
    for fold in order.chunk(FOLDS):
        seen = torch.ones(len(rows), dtype=torch.bool)
        seen[fold] = False
        inside, mean = rows[seen], logs[seen].mean()
        gram = inside.T @ inside
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(rows.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram + ridge, inside.T @ (logs[seen] - mean))
        left += float((logs[fold] - mean - rows[fold] @ weights).square().sum())
    total = float((logs - logs.mean()).square().sum())
    along = rows.T @ (logs - logs.mean())
    return 1 - left / max(total, 1e-300), along / along.norm().clamp_min(1e-300)


def roughness(x: Float[Tensor, "n d"]) -> float:
    """Return Σ ‖x[i+1] − x[i]‖² / 2 Σ ‖x[i] − mean‖²: von Neumann's ratio, of vectors."""
    rows = x.double()
    spread = (rows - rows.mean(0)).square().sum() / len(rows)
    return float(rows.diff(dim=0).square().sum() / (len(rows) - 1) / (2 * spread))


def sparse_fvu(x: Float[Tensor, "n d"], *, k: int = K, seed: int = 0) -> tuple[float, float]:
    """Return what k atoms of a dictionary learnt from most rows leave of the others, and what PCA does.

    A tenth of the rows that are looked at is kept apart; both are centred on the mean of the rest.
    """
    some = _some(x, seed, max(LEARNT_ROWS, 3 * x.shape[1]))
    held, seen = some[: len(some) // 10], some[len(some) // 10 :]
    k = min(k, x.shape[1])
    learnt = classical(seen, x.shape[1], k=k, n_rounds=ROUNDS, seed=seed)
    centre = seen.mean(0)
    total = (held - centre).square().sum()
    _, _, axes = torch.linalg.svd(seen - centre, full_matrices=False)
    projected = (held - centre) @ axes[:k].T @ axes[:k]
    left = (held - centre - projected).square().sum() / total
    return float((held - learnt(held)).square().sum() / total), float(left)


def _measures(
    name: str,
    x: Float[Tensor, "n d"],
    counts: Int[Tensor, " n_counts"] | None,
    dictionary: bool,
    seed: int,
) -> dict[str, float]:
    variances = spectrum(x)
    found = {"participation": participation(variances), "dimensions": float(dimensions(variances))}
    if name == "W_pos":
        three = float(variances[:3].sum() / variances.sum())
        return {**found, "roughness": roughness(x), "three_directions": three}
    found |= {
        "intrinsic": intrinsic_dimension(x, seed=seed),
        "mean_share": float(x.mean(0).square().sum() / x.square().sum(1).mean()),
        "cosine": mean_cosine(x),
        "centred": mean_cosine(x - x.mean(0)),
        "isotropy": isotropy(x),
    }
    if counts is not None:
        r2, direction = frequency(x, counts, seed=seed)
        rows = x.double() - x.double().mean(0)
        first = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
        found |= {"frequency_r2": r2, "frequency_pc": float((first @ direction).abs())}
    if dictionary and len(x) >= 2.5 * x.shape[1]:
        found["sparse_fvu"], found["pca_fvu"] = sparse_fvu(x, seed=seed)
    return found


def _some(x: Float[Tensor, "n d"], seed: int, n: int = MOST_ROWS) -> Float[Tensor, "m d"]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[:n]]
