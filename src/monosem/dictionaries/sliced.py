"""Slices: dictionaries of which each rank holds some of the latents, and sees all rows.

    offered   = each rank's own k best of each row, or k * batch best of the batch
    latents   = those offered that are among as many best of all ranks
    x_hat     = Σ over ranks of latents @ W_dec  + b_dec
    aux_k     = of the strongest dead latents of all ranks, likewise

So selection agrees, though no rank sees others' pre-activations but the best, and the gradients of `W_enc`,
`b_enc` and `W_dec` need nothing from others: every rank has the same x_hat, and with it the same error.
`b_dec`, which all have alike, is also what is subtracted from the input: of that gradient each rank has a
part, which is summed.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from monosem.dictionaries.auxiliary import A, Auxiliary
from monosem.dictionaries.base import AnyLatents, Dictionary, TrainState
from monosem.dictionaries.batch_topk import BatchTopK
from monosem.dictionaries.config import DictionaryConfig
from monosem.dictionaries.losses import auxiliary_k
from monosem.dictionaries.selection import batch_top_k, top_k
from monosem.dictionaries.topk import TopK
from monosem.kernels import layers, reference, shared
from monosem.kernels.pattern import Pattern, even
from monosem.runtime.distributed import ALONE, World

AXES = {"W_enc": 1, "b_enc": 0, "W_dec": 0, "tokens_since_fired": 0}
"""Along which axis tensors are shared out; others are the same on all ranks."""


@dataclass(frozen=True)
class Span:
    """Which latents of a dictionary this rank has."""

    start: int
    stop: int
    n_latents: int
    """Latents of the whole."""

    def axis(self, name: str, tensor: Tensor) -> int | None:
        """Return the axis along which a tensor, of a name that ends like a weight's, is shared out."""
        return AXES.get(name.rpartition(".")[2]) if tensor.dim() else None

    def of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor."""
        axis = self.axis(name, whole)
        return whole if axis is None else whole.narrow(axis, self.start, self.stop - self.start)


class Sliced(Auxiliary[A], Generic[A]):
    """What slices of all kinds share; none itself."""

    ranks: World = ALONE
    """Who has the other latents."""
    widest: int = 0
    """How many latents a rank has at most."""

    @property
    @override
    def centre(self) -> Float[Tensor, " d_in"]:
        """What is subtracted from the input; all ranks' gradients of it are summed."""
        return self.ranks.common(super().centre)

    @override
    def decode(self, latents: AnyLatents) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction by all ranks' latents."""
        return self.ranks.total(super().decode(latents) - self.b_dec) + self.b_dec

    @override
    def residual(
        self,
        latents: Float[Tensor, "*entries"],
        pattern: Pattern,
        target: Float[Tensor, "batch d_out"],
    ) -> tuple[Float[Tensor, "batch d_out"], Float[Tensor, ""]]:
        """What all ranks' latents leave of `target`, and its mean square; counts who fired here."""
        self.count(latents, pattern)
        flat = Pattern(pattern.indices.flatten(), pattern.row_starts, pattern.n_latents)
        some, where = shared.kept(latents.flatten(), flat, latents.detach().flatten() > 0)
        decoded = self.ranks.total(layers.decode(some, self.decoders, where))
        left = reference.residual_of(decoded, self.b_dec, target)
        return left.residual, left.square / target.numel()

    @override
    def _aux_k(
        self,
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> Float[Tensor, ""]:
        k = self.config.k_aux or auxiliary_k(self.d_in)
        weights = self.centre, self.W_enc, self.b_enc, self.W_dec
        fit = self.config.aux_fit
        return shared.dead_error(x, *weights, state.dead, residual, k, fit=fit, latents=self.ranks)


class SlicedTopK(Sliced[Any], TopK):
    """Some latents of a `TopK`."""

    @override
    def _chosen(
        self, x: Float[Tensor, "batch d_in"], k: int
    ) -> tuple[Float[Tensor, "batch k"], Pattern]:
        pre, pattern = top_k(x, self.centre, self.W_enc, self.b_enc, k)
        return torch.where(shared.of_row(pre, k, self.ranks), pre, 0.0).relu(), even(
            pattern.indices, self.n_latents
        )


class SlicedBatchTopK(Sliced[Any], BatchTopK):
    """Some latents of a `BatchTopK`."""

    @override
    def chosen(
        self, x: Float[Tensor, "batch d_in"], state: TrainState
    ) -> tuple[Float[Tensor, " entries"], Pattern]:
        """The latents of this rank that training keeps of this batch; the threshold is that of all."""
        pre, pattern = batch_top_k(x, self.centre, self.W_enc, self.b_enc, self.config.k)
        n, ranks = self.config.k * len(x), self.ranks
        pre, pattern = shared.batch_largest(pre, pattern, n, ranks, self.widest)
        latents = pre.relu()
        self._follow_(latents.detach(), dataclasses.replace(state, ranks=self.ranks))
        return latents, pattern


KINDS: dict[str, type[Sliced[Any]]] = {"topk": SlicedTopK, "batch_topk": SlicedBatchTopK}
"""The architectures whose latents can be shared out."""


def unsliced(config: DictionaryConfig, size: int) -> str:
    """Return why the latents of such a dictionary cannot be shared out among `size` ranks, "" if they can."""
    name = config.architecture
    if name not in KINDS:
        return f"Latents of `{name}` cannot be shared out among ranks, those of {', '.join(KINDS)} can."
    if config.wiring.n_layers > 1:
        return "Latents of a cross-layer transcoder cannot be shared out among ranks."
    if getattr(config, "multi_weight", 0):
        return "Latents cannot be shared out among ranks where `multi_weight` is not 0."
    k, each = getattr(config, "k", 0), config.n_latents // size
    if k > each:
        return f"Of {config.n_latents} latents {size} ranks have {each} each, fewer than `k` {k}."
    return ""


@torch.no_grad()
def sliced(whole: Dictionary[Any], ranks: World) -> tuple[Dictionary[Any], Span]:
    """Return this rank's latents of a dictionary, and which those are."""
    mine = ranks.share(whole.n_latents)
    span = Span(mine.start, mine.stop, whole.n_latents)
    config = dataclasses.replace(whole.config, n_latents=span.stop - span.start)
    part = KINDS[whole.architecture](config)
    part.ranks, part.conventions = ranks, whole.conventions
    part.widest = max(share.stop - share.start for share in ranks.shares(whole.n_latents))
    weights = part.state_dict()
    for name, tensor in whole.state_dict().items():
        weights[name].copy_(span.of(name, tensor))
    return part, span
