"""Selection: which latents of which rows take part, and their pre-activations, which carry gradients.

    batch_top_k   the k * batch largest of a batch, however many fall to each row
    above         all that are higher than a floor of their own; none is chosen beforehand

Both return entries at a `Pattern` where that saves work, so that decoding and its gradients cost what
the entries cost, not what all latents do.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.kernels import dispatch, sparse_cpu
from monosem.kernels.dense import count_positive, product
from monosem.kernels.dispatch import has_cpu_kernel
from monosem.kernels.pattern import Pattern

SPARSE = 0.06
"""Largest share of entries for which a pattern is quicker than all latents at once (CPU)."""
STRIDE, FEWEST, DEVIATIONS = 61, 4096, 6
"""How a batch's largest values are guessed; a prime stride visits all latents of a power of two."""


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
        self, latents: Float[Tensor, "*entries"], W_dec: Float[Tensor, "n_latents d_out"]
    ) -> Float[Tensor, "batch d_out"]:
        """Weighted sum of decoder rows; `latents` has the shape of `pre`."""
        if self.pattern is None:
            return product(latents, W_dec).to(W_dec.dtype)
        return dispatch.decode(latents, W_dec, self.pattern)

    def count(self, active: Bool[Tensor, "*entries"]) -> Int64[Tensor, " n_latents"]:
        """On how many rows each latent is active."""
        if self.pattern is None:
            return count_positive(active)
        chosen = self.pattern.indices[active]
        return torch.bincount(chosen, minlength=self.pattern.n_latents)


def above(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    floor: Float[Tensor, " n_latents"] | float,
) -> Selection:
    """All entries with a pre-activation above `floor`, or simply all where those are too many.

    Away from the CPU it is always all: how many are above would have to be asked of the device.
    """
    pre = product(x - centre, W_enc).to(x.dtype) + b_enc
    if not has_cpu_kernel(x, centre, W_enc, b_enc):
        return Selection(pre, None)
    found = pre.detach() > floor
    if int(found.sum()) > SPARSE * found.numel():
        return Selection(pre, None)
    pattern = compressed(found.flatten().nonzero()[:, 0], *found.shape)
    # exact, where the product that chose was rounded to bfloat16
    values = sparse_cpu.inner(x - centre, W_enc, pattern).detach() + b_enc.detach()[pattern.indices]
    return Selection(sparse_cpu.encode_at(x, centre, W_enc, b_enc, pattern, values), pattern)


def batch_top_k(
    x: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    b_enc: Float[Tensor, " n_latents"],
    k: int,
) -> tuple[Float[Tensor, " entries"], Pattern]:
    """The `k * batch` largest pre-activations of the batch, differentiable, and where they are."""
    with_kernel = has_cpu_kernel(x, centre, W_enc, b_enc)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not with_kernel):
        pre = torch.addmm(b_enc, x - centre, W_enc)
    flat = pre.flatten()
    places = largest(flat.detach(), k * len(x)).sort().values
    pattern = compressed(places, *pre.shape)
    if with_kernel:
        values = flat[places]
        return sparse_cpu.encode_at(x, centre, W_enc, b_enc, pattern, values), pattern
    return flat[places], pattern


def largest(values: Float[Tensor, " many"], n: int) -> Int64[Tensor, " n"]:
    """Where the `n` largest values are, in no particular order.

    On the CPU every `STRIDE`-th value guesses a bound that somewhat more than `n` reach, and only those
    are searched: eight times as fast. Where too few reach it, all are searched.
    """
    if values.device.type == "cpu" and n >= FEWEST:
        sample, expected = values[::STRIDE], n / STRIDE
        n_above = min(len(sample), math.ceil(expected + DEVIATIONS * expected**0.5))
        reached = (values >= sample.topk(n_above).values[-1]).nonzero()[:, 0]
        if len(reached) >= n:
            return reached[values[reached].topk(n, sorted=False).indices]
    return values.topk(n, sorted=False).indices


def compressed(places: Int64[Tensor, " entries"], batch: int, n_latents: int) -> Pattern:
    """The pattern of sorted places in a flattened `[batch n_latents]`."""
    firsts = torch.arange(batch + 1, device=places.device) * n_latents
    starts = torch.searchsorted(places, firsts)
    return Pattern((places % n_latents).int(), starts.int(), n_latents)
