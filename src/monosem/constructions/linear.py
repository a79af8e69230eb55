"""Linear maps and activation functions by heads, separately.

A linear map M: under the mask {own row} every pattern is 1, so W_V W_O = M on the augmented row is
exact; with heads of dimension d_head the singular value decomposition M = Σ σ_k u_k v_kᵀ gives
⌈rank / d_head⌉ heads. An activation function of coordinate k: neuron heads that read and write e_k,
with a linear head writing −x_k where the coordinate is to be replaced rather than added to. So an
MLP is also linear heads into a scratch space of its width, one activation head a neuron, linear
heads back: three sublayers and scratch columns, against one sublayer in `neuron.py`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.constructions.heads import Heads
from monosem.constructions.neuron import neuron_heads
from monosem.constructions.terms import HeadSum, Term
from monosem.core.errors import ConfigError


def linear_heads(
    M: Float[Tensor, "d_model d_out"],
    bias: Float[Tensor, " d_out"],
    *,
    d_head: int,
    tolerance: float = 1e-12,
) -> Heads:
    """Return heads that map x to x M + bias under the mask {own row}: ⌈rank / d_head⌉ of them.

    Singular values below `tolerance` times the largest count as zero.
    """
    if d_head < 1:
        raise ConfigError(f"`d_head` must be at least 1, got {d_head}.")
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    rank = max(1, int((tolerance * S.max() < S).sum()))
    n_heads = -(-rank // d_head)
    values = M.new_zeros(n_heads * d_head, M.shape[0] + 2)
    W_O = M.new_zeros(n_heads * d_head, M.shape[1])
    values[:rank, :-2] = (U[:, :rank] * S[:rank]).T
    W_O[:rank] = Vh[:rank]
    W_V = values.unflatten(0, (n_heads, d_head)).transpose(1, 2)
    return Heads(
        W_Q=torch.zeros_like(W_V),  # under the mask {own row} no score matters
        W_K=torch.zeros_like(W_V),
        W_V=W_V,
        W_O=W_O.unflatten(0, (n_heads, d_head)),
        bias=bias,
    )


def activation_heads(
    heads: HeadSum, coordinates: Int[Tensor, " n_coordinates"], d_model: int, *, replace: bool
) -> Heads:
    """Return heads that add act(x_k) to each of `coordinates` k, or with `replace` put it there.

    The mask is {own row, bias row}. Replacing is one more term, the linear head −x_k.
    """
    chosen = coordinates.to(torch.int64)
    rows = torch.eye(d_model, dtype=torch.float64)[chosen]
    none = rows.new_zeros(len(chosen))
    if replace:
        minus = Term(slope=-2.0, gain=0.0)
        heads = HeadSum(terms=(*heads.terms, minus), constant=heads.constant)
    return neuron_heads(heads, rows, none, rows, rows.new_zeros(d_model))
