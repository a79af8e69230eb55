"""TrainConfig: what one training run is asked to do, checked before any work."""

from dataclasses import dataclass, field
from typing import Literal

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import DictionaryConfig, architectures
from monosem.training.optim import OptimConfig
from monosem.training.sweep import check_distinct, labels


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run: dictionaries of one site, trained together on one stream."""

    site: str
    """Where activations are read."""
    dictionaries: tuple[DictionaryConfig, ...]
    """What is trained; widths of 0 are filled in from the site."""
    target: str = ""
    """Where the activations to reconstruct are, for a transcoder; empty: at `site`."""
    n_tokens: int = 2_000_000
    """Ordinary tokens to train on, repeats counted."""
    batch_size: int = 2048
    """Tokens a step."""
    buffer_tokens: int = 2**18
    """Tokens that are captured at once and shuffled together."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    dead_after: int = 10_000_000
    """Tokens without firing after which a latent counts as dead …"""
    dead_after_share: float = 0.03
    """… but at most this share of the run, which a short run would otherwise never reach."""
    matmul: Literal["auto", "fp32", "onednn", "bf16"] = "auto"
    """Arithmetic of matrix products; `auto` measures this machine and records its choice."""
    log_every: int = 20
    """Steps between two lines of the run log."""
    seed: int = 0
    """Seed of the order of the activations."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.dictionaries:
            raise ConfigError("`dictionaries` is empty. Name at least one architecture.")
        for name in ("n_tokens", "batch_size", "buffer_tokens", "dead_after", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.dead_after_share <= 1:
            raise ConfigError(f"`dead_after_share` must be in (0, 1], got {self.dead_after_share}.")
        known = architectures()
        for config in self.dictionaries:
            if not known[config.architecture].trainable:
                raise ConfigError(
                    f"`{config.architecture}` is a baseline: there is nothing to train."
                )
        check_distinct(self.dictionaries, self.optim.lrs)

    def check_widths(self, d_in: int, d_out: int) -> None:
        """Raise `ShapeMismatchError` where a dictionary has other widths than its site."""
        for config in self.dictionaries:
            config.with_widths(d_in, d_out)

    @property
    def n_steps(self) -> int:
        """Steps of the run; the last batch is whole."""
        return -(-self.n_tokens // self.batch_size)

    @property
    def dead_tokens(self) -> int:
        """Tokens without firing after which a latent counts as dead in this run."""
        return max(1, min(self.dead_after, round(self.dead_after_share * self.n_tokens)))

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each dictionary: its architecture, and what differs where several share it."""
        return labels(self.dictionaries, self.optim.lrs)
