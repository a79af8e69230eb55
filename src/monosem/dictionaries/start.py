"""How dictionaries with a learnt number of active latents start: with as many as they are to have.

    columns = W_dec.T, or unit columns of W_enc where it reads one space and writes another
    bound   = what l0 entries a row of (x - centre) @ columns exceed, on a sample
    scale   = the number that brings the reconstruction from these entries nearest to the target, at most
              `longest`

Random directions with a bias of zero have half of all latents active, and the reconstruction adds
thousands of them up. From there to a few dozen is a long way, on which many die: runs of 500 steps of
`relu` at 64 inputs and 4,096 latents, steered alike, came to an fvu of 0.31, and to 0.06 from here.
Conerly et al. 2025
(transformer-circuits.pub/2025/january-update) choose biases by how often latents fire on data, too.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from monosem.kernels import parts

SAMPLED_ROWS = 1024
"""Rows of the sample that are looked at."""
LONGEST = 0.4
"""Length of encoder vectors at the start of the TopK kinds and of `gated`, at most; their papers know no
bound. Adam's steps have a fixed length, so that a short vector turns faster, and grows as it learns: fvu
after 500 steps is lower wherever the bound is met, on the neurons of 1L-a by a fifth (`topk`) and by 7 %
(`gated`). TopK's that are shorter anyhow, in narrow sites and where k is large, lose by being shortened
(docs/quality.md)."""
LEAST_SCALE = 0.01
"""The smallest scale; encoders and decoders of two sites have nothing to do with each other yet."""


class Start(NamedTuple):
    """Where to begin."""

    columns: Float[Tensor, "d_read n_latents"]
    """Unit encoder columns."""
    bound: Float[Tensor, ""]
    """What an entry must exceed to be among the active."""
    scale: Float[Tensor, ""]
    """What to multiply both by."""


@torch.no_grad()
def sparse_start(
    x: Float[Tensor, "sample d_in"],
    target: Float[Tensor, "sample d_out"],
    W_enc: Float[Tensor, "d_read n_latents"],
    W_dec: Float[Tensor, "n_latents d_out"],
    l0: float,
    *,
    subtract: bool,
    same: bool,
    longest: float = 1.0,
) -> Start:
    """Columns, bound and scale with which `l0` latents of each centred row of `x` are active.

    Rows of `W_dec` are unit vectors. `subtract` says whether a latent is what its entry has above the
    bound, or the whole entry; `same`, whether what is written is what is read; `longest`, what the scale
    is at most.
    """
    x, target = x[:SAMPLED_ROWS], target[:SAMPLED_ROWS]
    columns = W_dec.t() if same else functional.normalize(W_enc, dim=0)
    pre = parts.plain_product(x, columns)
    n = min(max(1, round(l0 * len(x))), pre.numel())
    bound = pre.flatten().topk(n).values[-1].clamp_min(0.0)
    latents = (pre - bound).relu() if subtract else pre * (pre > bound)
    found = latents @ W_dec
    along, square = (found * target).sum(), found.square().sum()
    scale = along / square.clamp_min(torch.finfo(square.dtype).tiny)
    return Start(columns, bound, scale.clamp(LEAST_SCALE, longest))
