"""Selection: which latents of which rows take part, and their pre-activations, which carry gradients.

    top_k         the k largest of each row
    batch_top_k   the k * batch largest of a batch, however many fall to each row
    above         all that are higher than a floor of their own; none is chosen beforehand

All return entries at a `Pattern` where that saves work, so that decoding and its gradients cost what
the entries cost, not what all latents do. An encoder may read its input in parts (kernels.parts).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.kernels import dispatch, layers, parts, parts_cpu
from monosem.kernels.dense import count_positive
from monosem.kernels.dispatch import has_cpu_kernel
from monosem.kernels.encoder import encode_top_k
from monosem.kernels.pattern import Pattern, at_places, even
from monosem.kernels.ragged import encode_above, encode_batch_top_k
from monosem.kernels.select import first_largest, largest_positive

SPARSE = 0.06
"""Largest share of entries for which a pattern is quicker than all latents at once (CPU)."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Pre-activations that take part: entries at a pattern, or those of all latents."""

    pre: Float[Tensor, "*entries"]
    """`[entries]` at `pattern`, or `[batch n_latents]` where there is none."""
    pattern: Pattern | None

    def at(self, per_latent: Float[Tensor, " n_latents"]) -> Float[Tensor, "*entries"]:
        """A value of each latent's own, at every entry; broadcast where all latents take part."""
        return per_latent if self.pattern is None else per_latent[self.pattern.indices]

    def decode(
        self, latents: Float[Tensor, "*entries"], decoders: layers.Decoders
    ) -> Float[Tensor, "batch d_out"]:
        """Weighted sum of decoder rows; `latents` has the shape of `pre`."""
        if self.pattern is None:
            return layers.decode_dense(latents, decoders)
        return layers.decode(latents, decoders, self.pattern)

    def count(self, latents: Float[Tensor, "*entries"]) -> Int64[Tensor, " n_latents"]:
        """On how many rows each latent is above zero; `latents` has the shape of `pre`."""
        latents = latents.detach()
        if self.pattern is None:
            return count_positive(latents)
        active = self.pattern.indices[latents > 0]
        return torch.bincount(active, minlength=self.pattern.n_latents)


def top_k(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, "batch k"], Pattern]:
    """The `k` largest positive pre-activations of each row, differentiable, and which latents they are."""
    if len(W_enc) == x.shape[1]:
        return encode_top_k(x, centre, W_enc, b_enc, k)
    if has_cpu_kernel(x, centre, W_enc, b_enc):
        return parts_cpu.encode_top_k(x, centre, W_enc, b_enc, k)
    pre = parts.pre_activations(x - centre, W_enc, b_enc)
    indices = largest_positive(pre.detach(), k)
    return pre.gather(1, indices), even(indices.int(), len(b_enc))


def above(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    floor: Float[Tensor, " n_latents"] | float,
) -> Selection:
    """All entries with a pre-activation above `floor`, or simply all where those are too many.

    Away from the CPU it is always all: how many are above would have to be asked of the device.
    """
    if has_cpu_kernel(x, centre, W_enc, b_enc):
        found = encode_above(x, centre, W_enc, b_enc, floor, SPARSE)
        if found is not None:
            return Selection(*found)
    return Selection(parts.product(x - centre, W_enc).to(x.dtype) + b_enc, None)


def batch_top_k(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_read n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, " entries"], Pattern]:
    """The `k * batch` largest pre-activations of the batch, differentiable, and where they are.

    On the CPU the positive ones alone, if those are fewer, and the first of equal ones.
    """
    if has_cpu_kernel(x, centre, W_enc, b_enc) and k <= SPARSE * len(b_enc):
        return encode_batch_top_k(x, centre, W_enc, b_enc, k)
    whole = len(W_enc) == x.shape[1]
    if whole and dispatch.room_of(x, centre, W_enc, b_enc) == "triton":
        gpu = dispatch.sparse_triton()
        values, pattern = gpu.choose_batch_top_k((x - centre).detach(), W_enc, b_enc, k)
        return gpu.encode_at(x, centre, W_enc, b_enc, pattern, values), pattern
    pre = parts.pre_activations(x - centre, W_enc, b_enc)
    flat, n = pre.detach().flatten(), k * len(x)
    if pre.device.type == "cpu":
        places = first_largest(flat, n)[0].nonzero()[:, 0]
    else:
        places = flat.topk(n, sorted=False).indices.sort().values
    return pre.flatten()[places], at_places(places, *pre.shape)
