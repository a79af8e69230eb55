"""Adam and its learning rate: linear warm-up, a plateau, a linear decay to zero.

    peak(n_latents, d_read) = lr / sqrt(n_latents / 2^14) / sqrt(min(d_read, 512) / 512)
    lr(s)                   = peak * min(1, (s + 1) / w, (n_steps - s) / d)

with w and d the lengths of warm-up and decay in steps, s the steps done before this one, and d_read the
width that one latent reads: of one site in a cross-layer transcoder, elsewhere of all its sites. The
first divisor is Gao et al.'s (2024). The second: a step of Adam moves each of d_read entries by about
the learning rate, and so turns a unit vector by lr * sqrt(d_read); the rate that is best and the one at
which latents begin to die are both higher in narrow sites, by about that much (docs/quality.md).
Wider ones than 512 were not measured, and are left as they are.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam as fused_adam

from monosem.core.errors import ConfigError

FULL_WIDTH = 512
"""Width of a site from which on the learning rate no longer falls."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How dictionaries learn; the same for all of a run, learning rates apart."""

    lr: float = 5e-4
    """Peak learning rate of a dictionary with 2^14 latents that read a site at least 512 wide; one with n has
    lr / sqrt(n / 2^14), and at a site d < 512 wide sqrt(512 / d) times as much. Chosen for a thousand
    steps, where 2e-4 is far from done; Gao et al. use 2e-4, for long runs."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises from zero."""
    decay: float = 0.2
    """Share of the run, its last part, over which the learning rate falls to zero."""
    clip: float = 1.0
    """Largest norm of each dictionary's gradient."""
    beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    eps: float = 6.25e-10
    """Adam's epsilon; gradients of rare latents are small."""
    lrs: tuple[float, ...] = ()
    """Peak learning rates of a run's dictionaries, one each; empty: `lr` for all."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("lr", "clip", "eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not all(lr > 0 for lr in self.lrs):
            raise ConfigError(f"`lrs` must be positive, got {self.lrs}.")
        for name in ("warmup", "decay", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        if self.warmup + self.decay > 1:
            raise ConfigError(
                f"`warmup` {self.warmup} and `decay` {self.decay} together exceed the run. Lower one."
            )

    def of(self, index: int) -> "OptimConfig":
        """Return what holds for the dictionary number `index` of a run."""
        return dataclasses.replace(self, lr=self.lrs[index], lrs=()) if self.lrs else self

    def peak(self, n_latents: int, d_read: int) -> float:
        """Return the highest learning rate of a dictionary of this size.

        >>> [OptimConfig(lr=1e-3).peak(2**14, d) for d in (128, 512, 2048)]
        [0.002, 0.001, 0.001]
        """
        return self.lr / (n_latents / 2**14) ** 0.5 / (min(d_read, FULL_WIDTH) / FULL_WIDTH) ** 0.5

    def lr_at(self, step: int, n_steps: int, n_latents: int, d_read: int) -> float:
        """Return the learning rate of the step that follows `step` steps.

        >>> config = OptimConfig(lr=2e-4, warmup=0.2, decay=0.4)
        >>> [round(config.lr_at(s, 10, 2**14, 768) * 1e4, 2) for s in range(10)]
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]
        """
        peak = self.peak(n_latents, d_read)
        rising = (step + 1) / max(1.0, self.warmup * n_steps)
        falling = (n_steps - step) / max(1.0, self.decay * n_steps)
        return peak * min(1.0, rising, falling)


def adam(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Adam:
    """Return fused Adam, whose state exists from the start, so that it can be saved at any step."""
    optimizer = torch.optim.Adam(
        parameters, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


def step_clipped(
    optimizer: torch.optim.Adam, clip: float, norm: Float[Tensor, ""] | None = None
) -> None:
    """Step with gradients scaled down together to a norm of at most `clip`.

    `norm` is theirs, where they are some of those that are scaled down together.
    Fused Adam divides gradients by `grad_scale` as it reads them, which saves a pass over them; and it
    copies a gradient whose columns are contiguous, though not its transpose.
    """
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    if norm is None:
        norm = nn.utils.get_total_norm([p.grad for p in everything if p.grad is not None])
    scale = (norm / clip).clamp_min(1.0).float()
    for group in optimizer.param_groups:
        mine = [p for p in group["params"] if p.grad is not None]
        states = [optimizer.state[p] for p in mine]
        beta1, beta2 = group["betas"]
        fused_adam(
            [stored(p.detach()) for p in mine],
            [stored(p.grad) for p in mine],
            [stored(state["exp_avg"]) for state in states],
            [stored(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            grad_scale=scale,
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
        )


def stored(tensor: Tensor) -> Tensor:
    """The tensor as it lies in memory: a matrix whose columns are contiguous, transposed."""
    return tensor.t() if tensor.dim() == 2 and not tensor.is_contiguous() else tensor
