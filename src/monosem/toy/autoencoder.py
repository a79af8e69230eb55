"""The autoencoder with which features were first taken out of superposition.

    c    = relu(x @ W_enc + b_enc)
    x̂    = c @ W_dec                       rows of W_dec of unit length, no bias
    loss = mean of (x - x̂)² + alpha * (mean over rows of ‖c‖_1) / n_latents

Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders", whose penalty is
divided by the number of latents. Those that differ in `alpha` alone are trained side by side. To
train a dictionary for use, take `monosem.dictionaries`: this is theirs, for their figures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.toy.sparse_features import SparseFeatures


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Autoencoders of one size, one for each penalty."""

    n_latents: int
    """Latents of each."""
    alphas: tuple[float, ...]
    """Weights of the penalty, one an autoencoder."""
    n_steps: int = 2_000
    """Steps of Adam."""
    batch: int = 1_024
    """Rows a step; the same for all."""
    lr: float = 1e-3
    """Learning rate."""
    seed: int = 0
    """Seed of the first weights and of the rows."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("n_latents", "n_steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.alphas or min(self.alphas) < 0:
            raise ConfigError(f"`alphas` needs penalties, none negative, got {self.alphas}.")


@dataclass(frozen=True)
class Autoencoders:
    """Trained autoencoders, side by side."""

    W_enc: Float[Tensor, "n_models d n_latents"]
    b_enc: Float[Tensor, "n_models n_latents"]
    W_dec: Float[Tensor, "n_models n_latents d"]
    """Rows of unit length."""

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n_models n n_latents"]:
        """Return the latents of `x`, of each."""
        return (x @ self.W_enc + self.b_enc[:, None]).relu()

    def decode(
        self, latents: Float[Tensor, "n_models n n_latents"]
    ) -> Float[Tensor, "n_models n d"]:
        """Return what each makes of its latents."""
        return latents @ self.W_dec


def train_autoencoders(
    config: AutoencoderConfig,
    world: SparseFeatures,
    said: Callable[[int], None] | None = None,
) -> Autoencoders:
    """Train the autoencoders of `config` on rows of `world`; `said` hears how many steps are done."""
    d, n, m = world.config.d, config.n_latents, len(config.alphas)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        enc = torch.nn.init.orthogonal_(torch.empty(d, n)).repeat(m, 1, 1)
        dec = torch.nn.init.orthogonal_(torch.empty(n, d)).repeat(m, 1, 1)
    b = torch.zeros(m, n)
    parameters = [t.requires_grad_() for t in (enc, b, dec)]
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    alpha = torch.tensor(config.alphas)
    for step in range(config.n_steps):
        x = world.activations(config.batch, seed=config.seed * 1_000_003 + step)
        now = Autoencoders(enc, b, torch.nn.functional.normalize(dec, dim=2))
        c = now.encode(x)
        error = (now.decode(c) - x).square().mean((1, 2))
        # The sum: models share no parameter, so that each follows its own loss.
        loss = (error + alpha * c.sum(2).mean(1) / n).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if said is not None:
            said(step + 1)
    return Autoencoders(
        enc.detach(), b.detach(), torch.nn.functional.normalize(dec.detach(), dim=2)
    )
