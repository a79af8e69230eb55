"""Reconstruction: how much of an activation a dictionary gives back, as pure functions and as a stream.

    fvu                           E‖x − x̂‖² / E‖x − mean‖²          mean = E x, of the training split
    fvu_per_token                 ‖x − x̂‖² / E‖x − mean‖²           its mean over tokens is the fvu
    cosine                        E[ x·x̂ / (‖x‖ ‖x̂‖) ]
    l2_ratio                      E[ ‖x̂‖ / ‖x‖ ]
    relative_reconstruction_bias  E‖x̂‖² / E[x̂·x]                    under 1: the dictionary shrinks
    l0                            E[ number of latents that are not zero ]

The mean is a *vector*: an "explained variance" that subtracts the mean square instead of the squared
mean vector is another, larger number. Relative reconstruction bias: Rajamanoharan et al.,
"Improving Dictionary Learning with Gated Sparse Autoencoders" (2024), §4.2: the γ that minimises
E‖x̂/γ − x‖².

Every expectation over tokens is a ratio of sums, kept in float64 by `ReconstructionSums`.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def fvu(
    x: Float[Tensor, "*batch d_out"],
    x_hat: Float[Tensor, "*batch d_out"],
    mean: Float[Tensor, " d_out"] | None = None,
) -> float:
    """Return the fraction of variance unexplained; without `mean`, the mean of `x` itself is used.

    0 is perfect, 1 is no better than the mean; there is no upper bound. Where `x` does not vary
    at all it is `nan`, as 0/0 is.
    """
    mean = mean if mean is not None else wide(x).flatten(0, -2).mean(0)
    return _ratio(float(_squares(x, x_hat).sum()), float(_squares(x, mean).sum()))


def fvu_per_token(
    x: Float[Tensor, "*batch d_out"],
    x_hat: Float[Tensor, "*batch d_out"],
    mean: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, " *batch"]:
    """Return each token's squared error as a share of the *average* variance.

    Dividing by the token's own variance instead would make the mean differ from the fvu.
    """
    mean = mean if mean is not None else wide(x).flatten(0, -2).mean(0)
    return _squares(x, x_hat) / _squares(x, mean).mean()


def cosine(
    x: Float[Tensor, "*batch d_out"], x_hat: Float[Tensor, "*batch d_out"]
) -> Float[Tensor, " *batch"]:
    """Return the cosine of each token's activation and reconstruction; 0 where either is zero."""
    dot = (wide(x) * wide(x_hat)).sum(-1)
    return _safe(dot, wide(x).norm(dim=-1) * wide(x_hat).norm(dim=-1))


def l2_ratio(
    x: Float[Tensor, "*batch d_out"], x_hat: Float[Tensor, "*batch d_out"]
) -> Float[Tensor, " *batch"]:
    """Return ‖x̂‖ / ‖x‖ of each token; 0 where x is zero."""
    return _safe(wide(x_hat).norm(dim=-1), wide(x).norm(dim=-1))


def relative_reconstruction_bias(
    x: Float[Tensor, "*batch d_out"], x_hat: Float[Tensor, "*batch d_out"]
) -> float:
    """Return E‖x̂‖² / E[x̂·x]: 1 unbiased, under 1 shrunk, over 1 inflated."""
    square = float(wide(x_hat).square().sum())
    return _ratio(square, float((wide(x_hat) * wide(x)).sum()))


def l0(latents: Float[Tensor, "*batch n_latents"]) -> float:
    """Return the mean number of latents that are not zero."""
    return float((latents != 0).sum(-1).cpu().double().mean())


@dataclass(kw_only=True)
class ReconstructionSums:
    """Sums in float64 over a stream of tokens, from which every measure above follows."""

    mean: Float[Tensor, " d_out"]
    """Mean of the training split, on which the variance is centred."""
    n_tokens: int = 0
    n_active: int = 0
    variance: float = 0.0
    cosine: float = 0.0
    l2_ratio: float = 0.0
    x_hat_square: float = 0.0
    x_hat_x: float = 0.0
    errors: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """Squared error of every token: a percentile needs them all (8 bytes a token)."""
    variances: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """‖x − mean‖² of every token: an interval over contexts needs them (as many)."""

    def add(
        self,
        x: Float[Tensor, "batch d_out"],
        x_hat: Float[Tensor, "batch d_out"],
        n_active: int = 0,
    ) -> None:
        """Take in a batch of which `n_active` latents, over all its tokens, are not zero."""
        self.n_tokens += len(x)
        self.n_active += n_active
        self.errors.append(_squares(x, x_hat).cpu().numpy())
        variances = _squares(x, self.mean)
        self.variances.append(variances.cpu().numpy())
        self.variance += float(variances.sum())
        square, dot = _squares(x_hat, 0.0), (wide(x) * wide(x_hat)).sum(-1)
        norm, norm_hat = _squares(x, 0.0).sqrt(), square.sqrt()
        self.cosine += float(_safe(dot, norm * norm_hat).sum())
        self.l2_ratio += float(_safe(norm_hat, norm).sum())
        self.x_hat_square += float(square.sum())
        self.x_hat_x += float(dot.sum())

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained of all tokens so far."""
        return _ratio(float(self._errors().sum()), self.variance)

    def fvu_percentile(self, percent: float) -> float:
        """Return a percentile of the per-token error, in the unit of `fvu_per_token`."""
        errors = self._errors()
        if not len(errors):
            return math.nan
        return _ratio(float(np.percentile(errors, percent)) * len(errors), self.variance)

    def measures(self) -> dict[str, float]:
        """Return every measure by name, with the 99th percentile of the per-token error."""
        return {
            "fvu": self.fvu,
            "fvu_p99": self.fvu_percentile(99.0),
            "l0": _ratio(self.n_active, self.n_tokens),
            "cosine": _ratio(self.cosine, self.n_tokens),
            "l2_ratio": _ratio(self.l2_ratio, self.n_tokens),
            "relative_reconstruction_bias": _ratio(self.x_hat_square, self.x_hat_x),
        }

    def _errors(self) -> np.ndarray:
        return np.concatenate(self.errors) if self.errors else np.zeros(0)


def wide(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return `x` in float64; on the CPU, where its own device (MPS) has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _squares(x: Float[Tensor, "*batch d_out"], other: Tensor | float) -> Float[Tensor, " *batch"]:
    """Return ‖x − other‖² of each token, in float64."""
    other = wide(other) if isinstance(other, Tensor) else other
    return (wide(x) - other).square().sum(-1)


def _safe(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / bottom.clamp_min(torch.finfo(bottom.dtype).tiny), 0.0)


def _ratio(top: int | float, bottom: int | float) -> float:
    return top / bottom if bottom else math.nan
