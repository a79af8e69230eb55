"""Baselines: what a learned dictionary must beat. Nothing in them is trained.

`neurons`: the neuron basis as a dictionary. Each coordinate of the activations is a latent; positive
values are kept, all of them or the `k` largest of each row.

    latents = relu(x)  or  top_k(relu(x))        x_hat = latents
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import AnyLatents, DictionaryConfig
from monosem.dictionaries.config import at_least
from monosem.dictionaries.latents import RaggedLatents, SparseLatents, ragged_from_dense
from monosem.dictionaries.untrained import Untrained
from monosem.kernels.dense import count_positive
from monosem.kernels.select import largest_positive


@dataclass(frozen=True, kw_only=True)
class NeuronsConfig(DictionaryConfig):
    """How many neurons are kept."""

    fewest_latents: ClassVar[int] = 0

    n_latents: int = 0
    """As many as neurons; 0 is filled in."""
    k: int = 0
    """Neurons kept a vector; 0 keeps all that are positive."""

    def __post_init__(self) -> None:
        """Refuse more neurons than there are."""
        super().__post_init__()
        at_least("k", self.k, 0)
        width = self.n_latents or self.d_in
        if width and self.k > width:
            raise ConfigError(f"`k` must be in 0..{width} neurons, got {self.k}. Lower `k`.")
        if self.n_latents and self.d_in not in (0, self.n_latents):
            raise ConfigError(
                f"`n_latents` of the neuron basis is its width {self.d_in}, got {self.n_latents}. "
                "Leave it at 0."
            )

    @override
    def with_widths(self, d_in: int, d_out: int) -> "NeuronsConfig":
        """The neuron basis of a site of this width."""
        filled = super().with_widths(d_in, d_out)
        if d_in != d_out:
            raise ConfigError(
                f"The neuron basis reconstructs what it reads, but the widths are {d_in} and {d_out}. "
                "Use it at one site."
            )
        return dataclasses.replace(filled, n_latents=d_in)


class Neurons(Untrained[NeuronsConfig], name="neurons", config=NeuronsConfig):
    """The neuron basis."""

    def __init__(self, config: NeuronsConfig) -> None:
        super().__init__(config)
        self.conventions = dataclasses.replace(self.conventions, subtract_b_dec=False)
        basis = torch.eye(self.d_in)
        for name in ("W_enc", "W_dec"):
            self.register_buffer(name, basis, persistent=False)
        for name in ("b_enc", "b_dec"):
            self.register_buffer(name, torch.zeros(self.d_in), persistent=False)

    @classmethod
    def of_width(cls, width: int, k: int = 0) -> "Neurons":
        """The basis of `width` neurons, `k` of them kept a vector, or all that are positive."""
        return cls(NeuronsConfig(d_in=width, k=k))

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Positive values of `x`, all or the `k` largest."""
        self.check_width(x)
        if self.config.k == 0:
            return x.relu()
        flat = x.reshape(-1, self.d_in)
        return self._top(flat).dense().reshape(x.shape)

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents | RaggedLatents:
        """The kept neurons alone."""
        self.check_width(x)
        return self._top(x) if self.config.k else ragged_from_dense(x.relu())

    @override
    def firings(self, x: Float[Tensor, "batch d_in"]) -> Int64[Tensor, " n_latents"]:
        """On how many rows each neuron is kept."""
        return super().firings(x) if self.config.k else count_positive(x)

    @override
    def decode(self, latents: AnyLatents) -> Float[Tensor, "*batch d_out"]:
        """The latents themselves: the basis is the identity."""
        return latents if isinstance(latents, Tensor) else latents.dense()

    @override
    def fold_(self, input_scale: float) -> None:
        """Nothing to do: twice the activations are twice the latents."""

    def _top(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        latents = x.relu()
        indices = largest_positive(latents, self.config.k)
        return SparseLatents(latents.gather(1, indices), indices.int(), self.n_latents)
