"""One MLP neuron as one masked head of internal dimension 1.

s_i  = w·x_i + b                                 the neuron's pre-activation
q_i  = gain·s_i + shift,   k_i = 1,  k_B = 0     scores: q_i for its own row, 0 for the bias row
v_i  = slope·s_i + offset, v_B = 0
head = σ(gain·s_i + shift)·(slope·s_i + offset)  softmax over {q_i, 0} is (σ(q_i), 1 − σ(q_i))

so with gain a₂, slope a₁a₂ and no shift or offset the head is a₁·SiLU(a₂ s), exactly. On the
augmented row [x | 1 | flag] (`heads.py`): W_Q = (gain·w, gain·b + shift, −(gain·b + shift)), W_K =
(0, 1, −1), W_V = (slope·w, slope·b + offset, −(slope·b + offset)), W_O = the neuron's output
row. What the bias row itself is given is 0. A neuron of a sum of m terms is m heads.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.constructions.heads import Heads
from monosem.constructions.terms import HeadSum, Term


def neuron_heads(
    heads: HeadSum,
    W_in: Float[Tensor, "n_neurons d_model"],
    b_in: Float[Tensor, " n_neurons"],
    W_out: Float[Tensor, "n_neurons d_out"],
    b_out: Float[Tensor, " d_out"],
) -> Heads:
    """Return the heads of a whole MLP x ↦ Σ_n act(w_n·x + b_n) u_n + b_out, neuron by neuron.

    Heads of one neuron are neighbours: head n·m + j is term j of neuron n.
    """
    slopes, offsets, gains, shifts = _columns(heads, W_in)
    W_Q = _affine(W_in, b_in, gains, shifts)
    return Heads(
        W_Q=W_Q,
        W_K=_flag_key(W_Q),
        W_V=_affine(W_in, b_in, slopes, offsets),
        W_O=W_out.repeat_interleave(heads.n_heads, dim=0).unsqueeze(1),
        bias=b_out + heads.constant * W_out.sum(0),
    )


def sigmoid_glu_heads(
    W_gate: Float[Tensor, "n_neurons d_model"],
    b_gate: Float[Tensor, " n_neurons"],
    W_up: Float[Tensor, "n_neurons d_model"],
    b_up: Float[Tensor, " n_neurons"],
    W_out: Float[Tensor, "n_neurons d_out"],
    b_out: Float[Tensor, " d_out"],
) -> Heads:
    """Return the heads of a sigmoid GLU x ↦ Σ_n σ(g_n)·u_n · w_out_n + b_out: exactly one each."""
    one = torch.ones(1, dtype=W_gate.dtype, device=W_gate.device)
    W_Q = _affine(W_gate, b_gate, one, 0 * one)
    return Heads(
        W_Q=W_Q,
        W_K=_flag_key(W_Q),
        W_V=_affine(W_up, b_up, one, 0 * one),
        W_O=W_out.unsqueeze(1),
        bias=b_out,
    )


def _columns(heads: HeadSum, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def column(name: str) -> Tensor:
        return like.new_tensor([getattr(term, name) for term in heads.terms])

    return column("slope"), column("offset"), column("gain"), column("shift")


def _affine(
    weight: Float[Tensor, "n_neurons d_model"],
    bias: Float[Tensor, " n_neurons"],
    factors: Float[Tensor, " n_terms"],
    extra: Float[Tensor, " n_terms"],
) -> Float[Tensor, "n_heads d_in 1"]:
    """Return the map x ↦ factor·(w·x + b) + extra of augmented rows, and 0 on the bias row."""
    at_one = bias[:, None] * factors + extra
    on_x = weight[:, None, :] * factors[:, None]
    rows = torch.cat([on_x, at_one.unsqueeze(-1), -at_one.unsqueeze(-1)], dim=-1)
    return rows.flatten(0, 1).unsqueeze(-1)


def _flag_key(W_Q: Float[Tensor, "n_heads d_in 1"]) -> Float[Tensor, "n_heads d_in 1"]:
    key = torch.zeros_like(W_Q)
    key[:, -2:, 0] = key.new_tensor([1.0, -1.0])
    return key


LINEAR = Term(slope=2.0, gain=0.0)
"""The identity as a neuron's head: two equal scores weigh exactly ½ each, and the value is 2s."""
