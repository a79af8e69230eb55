"""Terms that several architectures share."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.core.errors import ConfigError
from monosem.kernels.dense import product
from monosem.kernels.select import largest_positive


def mse(
    prediction: Float[Tensor, "batch d_out"], target: Float[Tensor, "batch d_out"]
) -> Float[Tensor, ""]:
    """Mean squared error over all entries.

    >>> mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    tensor(2.)
    """
    return functional.mse_loss(prediction, target)


def variance(target: Float[Tensor, "sample d_out"]) -> Float[Tensor, ""]:
    """Mean squared distance of entries from their column's mean; `ConfigError` where there is none."""
    found = mse(target, target.mean(0).expand_as(target))
    if not found > 0:
        raise ConfigError(
            f"The sample of {len(target)} activations is constant: there is nothing to learn. "
            "Sample more of them, or choose another site."
        )
    return found


def normalised_mse(
    prediction: Float[Tensor, "batch d_out"], target: Float[Tensor, "batch d_out"]
) -> Float[Tensor, ""]:
    """Squared error divided by that of the batch's mean, which is 1; 0 where the targets are all alike.

    The case is decided before dividing, so that neither the value nor a gradient is ever NaN.
    """
    error = (prediction - target).square().sum()
    spread = (target - target.mean(0)).square().sum()
    alike = spread <= torch.finfo(spread.dtype).tiny
    return torch.where(alike, 0 * error, error / torch.where(alike, 1.0, spread))


def aux_k(
    pre: Float[Tensor, "batch n_dead"],
    rows: Float[Tensor, "n_dead d_out"],
    residual: Float[Tensor, "batch d_out"],
    k: int,
) -> Float[Tensor, ""]:
    """How badly the `k` strongest dead latents of each row reconstruct what the living left over.

        latents = relu(top_k(pre of dead latents))        e = (target - x_hat).detach()
        normalised_mse(latents @ rows, e), NaN -> 0

    `pre` carries the gradient to the encoder vectors of the dead; with `pre` of -inf a latent takes
    no part. Gao et al. 2024, arXiv:2406.04093, section A.2.
    """
    latents = pre.relu()
    if pre.shape[1] > k:
        places = largest_positive(latents.detach(), k)
        latents = torch.zeros_like(latents).scatter(1, places, latents.gather(1, places))
    return normalised_mse(product(latents, rows).to(rows.dtype), residual.detach()).nan_to_num(
        0.0, 0.0, 0.0
    )


def auxiliary_k(d_in: int) -> int:
    """Number of dead latents asked to help: the power of two nearest to `d_in / 2`, the lower of two.

    >>> [auxiliary_k(d) for d in (1, 64, 512, 768)]
    [1, 32, 256, 256]
    """
    half = max(1, d_in // 2)
    below = 1 << (half.bit_length() - 1)
    return below if half - below <= 2 * below - half else 2 * below
