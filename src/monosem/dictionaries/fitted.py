"""Baselines that are fitted to a sample: PCA, ICA, NMF and classical dictionary learning.

scikit-learn finds them; here they become dictionaries. What they are fitted to is a sample of
activations in memory, `x [sample d_in]`, of the training split.

PCA and ICA have signed coordinates, and latents are not negative. So each axis has two latents, one a
sign ("both"), which together reconstruct exactly as the signed coordinate does (the k largest by size
are the k largest of them); or one, for the sign to which its coordinates are skewed ("one"), which is
what looking at single directions means. Bricken et al. 2023; Cunningham et al. 2023, section 3.2.
"""

import warnings
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import NMF, PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.dictionaries.coded import Coded, CodedConfig
from monosem.dictionaries.linear import Linear

Signs = Literal["both", "one"]
TOLERANCE = 1e-4
"""At which ICA has converged."""
MOST_ROUNDS = 200


def pca(x: Float[Tensor, "sample d_in"], *, k: int = 0, signs: Signs = "both") -> Linear:
    """The principal axes of `x`, by falling variance, about its mean."""
    rows = _sample(x, x.shape[1])
    found = PCA(svd_solver="full").fit(rows)
    axes = np.asarray(found.components_)
    return _of_axes(rows, axes, axes, np.asarray(found.mean_), "pca", k, signs)


def ica(
    x: Float[Tensor, "sample d_in"], *, k: int = 0, signs: Signs = "both", seed: int = 0
) -> Linear:
    """The independent components of `x` (FastICA): unmixing reads, mixing writes.

    `ConfigError` if it does not converge.
    """
    rows = _sample(x, x.shape[1])
    model = FastICA(whiten="unit-variance", max_iter=MOST_ROUNDS, tol=TOLERANCE, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(rows)
        except ConvergenceWarning as error:
            raise ConfigError(
                f"ICA of {len(rows):,} vectors of width {rows.shape[1]} has not converged in "
                f"{MOST_ROUNDS} rounds. Take more vectors."
            ) from error
    mixing = np.asarray(model.mixing_).T
    return _of_axes(
        rows, np.asarray(model.components_), mixing, np.asarray(model.mean_), "ica", k, signs
    )


def nmf(x: Float[Tensor, "sample d_in"], n_latents: int, *, seed: int = 0) -> Coded:
    """Non-negative factors of `x`, whose codes are non-negative least squares.

    `ConfigError` where `x` has negative entries: it is for neurons after a ReLU.
    """
    rows = _sample(x, 1)
    if rows.min() < 0:
        raise ConfigError(
            f"NMF is of activations that are not negative, and the least here is {rows.min():.3g}. Use it on "
            "neurons after a ReLU; `pca` or `ica` elsewhere."
        )
    with warnings.catch_warnings():  # a factorisation that is nearly there is one
        warnings.simplefilter("ignore", ConvergenceWarning)
        # scikit-learn's own annotations have forgotten that these are numbers
        model = NMF(n_latents, init="nndsvda", random_state=seed, max_iter=MOST_ROUNDS)  # pyright: ignore[reportArgumentType]
        found = model.fit(rows)
    atoms = torch.from_numpy(np.asarray(found.components_)).float()
    return _coded(atoms[atoms.norm(dim=1) > 0], x.new_zeros(x.shape[1]), "lasso", 0, "nmf")


def classical(
    x: Float[Tensor, "sample d_in"],
    n_atoms: int,
    *,
    k: int,
    codes: Literal["omp", "lasso"] = "omp",
    alpha: float = 1.0,
    n_rounds: int = 30,
    seed: int = 0,
) -> Coded:
    """Classical dictionary learning (Mairal et al. 2009), in batches, about the mean of `x`.

    Atoms are learned under an L1 penalty of `alpha`, in units of the root mean square of a vector's entries;
    codes are `k` atoms by `omp`, or those of the same penalty, not negative, by `lasso`.
    """
    rows = _sample(x, n_atoms)
    mean = rows.mean(0)
    unit = float(np.sqrt(np.mean((rows - mean) ** 2)))
    model = MiniBatchDictionaryLearning(
        n_atoms,
        alpha=alpha,  # pyright: ignore[reportArgumentType]  (annotated as an integer)
        max_iter=n_rounds,
        batch_size=256,
        fit_algorithm="cd",
        tol=0.0,
        max_no_improvement=None,  # pyright: ignore[reportArgumentType]  (its rule stops too soon)
        positive_code=codes == "lasso",
        random_state=seed,
    )
    with warnings.catch_warnings():  # codes of a batch need not be solved to the end
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((rows - mean) / unit)
    atoms = torch.from_numpy(np.asarray(model.components_)).float()
    centre = torch.from_numpy(mean).float()
    return _coded(atoms[atoms.norm(dim=1) > 0], centre, codes, k, "learned", alpha=alpha * unit)


def _coded(
    atoms: Float[Tensor, "n_atoms d_in"],
    centre: Float[Tensor, " d_in"],
    codes: Literal["omp", "lasso"],
    k: int,
    name: str,
    alpha: float = 0.0,
) -> Coded:
    n_latents = len(atoms) * (2 if codes == "omp" else 1)
    config = CodedConfig(
        d_in=atoms.shape[1],
        n_latents=n_latents,
        codes=codes,
        k=max(k, 1),
        alpha=alpha if codes == "lasso" else 0.0,
        atoms=name,
    )
    made = Coded(config)
    made.set_atoms_(atoms)
    made.b_dec.copy_(centre)
    return made


def _of_axes(
    rows: Float[np.ndarray, "sample d_in"],
    read: Float[np.ndarray, "n_axes d_in"],
    written: Float[np.ndarray, "n_axes d_in"],
    mean: Float[np.ndarray, " d_in"],
    name: str,
    k: int,
    signs: Signs,
) -> Linear:
    if signs == "one":
        coordinates = (rows - mean) @ read.T
        skew = np.where((coordinates**3).mean(0) < 0, -1.0, 1.0)[:, None]
        read, written = read * skew, written * skew
    else:
        read, written = np.concatenate([read, -read]), np.concatenate([written, -written])
    return Linear.of(
        torch.from_numpy(written).float(),
        torch.from_numpy(read.T.copy()).float(),
        b_dec=torch.from_numpy(mean).float(),
        k=k,
        called=name if signs == "both" else f"{name}, one sign",
    )


def _sample(x: Float[Tensor, "sample d_in"], fewest: int) -> Float[np.ndarray, "sample d_in"]:
    if len(x) < fewest:
        raise ConfigError(
            f"A sample of {len(x):,} vectors is too small; it needs at least {fewest:,}. Take more."
        )
    if not torch.isfinite(x).all():
        raise ConfigError("The sample has entries that are not finite. Leave such vectors out.")
    return x.double().cpu().numpy()
