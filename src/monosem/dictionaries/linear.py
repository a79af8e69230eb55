"""Linear: given directions as a dictionary. PCA, ICA, random directions and a researcher's own tensors.

    latents = relu((x - b_dec) @ W_enc + b_enc), all of them or the `k` largest
    x_hat   = latents @ W_dec + b_dec

Nothing in it is trained. Made from its configuration alone it holds random unit directions, which read
along themselves: the baseline of Cunningham et al. 2023 (arXiv:2309.08600, section 3.2). `fitted.py`
makes others.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries.base import DictionaryConfig
from monosem.dictionaries.config import at_least
from monosem.dictionaries.geometry import directions
from monosem.dictionaries.latents import RaggedLatents, SparseLatents, ragged_from_dense
from monosem.dictionaries.untrained import Untrained
from monosem.kernels.dense import product
from monosem.kernels.select import largest_positive


@dataclass(frozen=True, kw_only=True)
class LinearConfig(DictionaryConfig):
    """How many directions there are, and how many are kept."""

    k: int = 0
    """Latents kept a vector; 0 keeps all that are positive."""
    directions: str = "random"
    """Where they come from: random, pca, ica, given, …; recorded, and shown where it stands."""

    def __post_init__(self) -> None:
        """Refuse more latents than there are."""
        super().__post_init__()
        at_least("k", self.k, 0)
        if self.k > self.n_latents:
            raise ConfigError(
                f"`k` must be in 0..{self.n_latents} latents, got {self.k}. Lower `k`."
            )
        if self.wiring.kind != "sae":
            raise ConfigError(
                f"Given directions reconstruct one site, not those of a `{self.wiring.kind}`. "
                "Use them at one site."
            )


class Linear(Untrained[LinearConfig], name="linear", config=LinearConfig):
    """Directions that somebody gives."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        rows = directions(self.d_in, self.d_out, self.n_latents, generator)[1]
        zeros = torch.zeros
        self.register_buffer("W_enc", rows.t().contiguous())
        self.register_buffer("W_dec", rows)
        self.register_buffer("b_enc", zeros(self.n_latents))
        self.register_buffer("b_dec", zeros(self.d_out))

    @classmethod
    def of(
        cls,
        W_dec: Float[Tensor, "n_latents d_in"],  # noqa: N803  the papers' name
        W_enc: Float[Tensor, "_ _"] | None = None,  # noqa: N803
        *,
        b_enc: Float[Tensor, " _"] | None = None,
        b_dec: Float[Tensor, " _"] | None = None,
        k: int = 0,
        called: str = "given",
    ) -> "Linear":
        """The dictionary of these tensors, on the CPU in float32; each row of `W_dec` is a direction.

        `W_enc` [d_in n_latents], `b_enc` [n_latents], `b_dec` [d_in]. Without `W_enc` the directions
        read along themselves. Rows of any length are made unit vectors, and latents longer by as much.
        `ShapeMismatchError` where shapes disagree, `ConfigError` where an entry is not finite.
        """
        n_latents, width = W_dec.shape
        made = cls(LinearConfig(d_in=width, n_latents=n_latents, k=k, directions=called))
        given = {"W_dec": W_dec, "W_enc": W_dec.t() if W_enc is None else W_enc}
        given |= {name: b for name, b in (("b_enc", b_enc), ("b_dec", b_dec)) if b is not None}
        with torch.no_grad():
            for name, tensor in given.items():
                own = getattr(made, name)
                if own.shape != tensor.shape:
                    raise ShapeMismatchError(
                        f"`{name}` has shape {tuple(tensor.shape)}; beside `W_dec` of "
                        f"{tuple(W_dec.shape)} it must have {tuple(own.shape)}. Transpose it, perhaps."
                    )
                if not torch.isfinite(tensor).all():
                    n_wrong = int((~torch.isfinite(tensor)).sum())
                    raise ConfigError(
                        f"`{name}` has {n_wrong:,} entries that are not finite. Pass finite ones."
                    )
                own.copy_(tensor)
        return made.folded(1.0)

    @override
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`, those that are not kept at zero."""
        pre = self._positive(x)
        if self.config.k == 0:
            return pre
        return self._top(pre.reshape(-1, self.n_latents)).dense().reshape(pre.shape)

    @override
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents | RaggedLatents:
        """The kept latents alone."""
        pre = self._positive(x)
        return self._top(pre) if self.config.k else ragged_from_dense(pre)

    def _positive(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        self.check_width(x)
        return (product(x - self.centre, self.W_enc).to(x.dtype) + self.b_enc).relu()

    def _top(self, latents: Float[Tensor, "batch n_latents"]) -> SparseLatents:
        indices = largest_positive(latents, self.config.k)
        return SparseLatents(latents.gather(1, indices), indices.int(), self.n_latents)
