"""Attention heads as plain matrices, and softmax attention over them: what every construction fills in.

scores  = (X W_Q)(X W_K)ᵀ          one matrix per head, no 1/√d_head
pattern = softmax over the keys that the mask allows
out_i   = Σ_heads Σ_j pattern_ij · x_j W_V W_O + bias

A residual row x becomes the augmented row [x | 1 | 0] and one bias row B = [0 | 1 | 1] stands in
front of all rows: two more columns (a constant, a flag that tells B from the rest), one more row.
Huben & Morris, *Attention-Only Transformers and Implementing MLPs with Attention Heads*
(arXiv:2309.08593), derived anew here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.core.errors import ShapeMismatchError


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """Weights of attention heads that all read one stream of rows and write to one."""

    W_Q: Float[Tensor, "n_heads d_in d_qk"]
    """Queries."""
    W_K: Float[Tensor, "n_heads d_in d_qk"]
    """Keys."""
    W_V: Float[Tensor, "n_heads d_in d_v"]
    """Values."""
    W_O: Float[Tensor, "n_heads d_v d_out"]
    """Output of each head."""
    bias: Float[Tensor, " d_out"]
    """Added once, whatever the number of heads."""

    @property
    def n_heads(self) -> int:
        """How many heads there are."""
        return self.W_Q.shape[0]

    @property
    def n_parameters(self) -> int:
        """Numbers in the five tensors."""
        return sum(w.numel() for w in (self.W_Q, self.W_K, self.W_V, self.W_O, self.bias))

    def to(self, dtype: torch.dtype) -> "Heads":
        """Return the same heads in another precision."""
        return Heads(
            W_Q=self.W_Q.to(dtype),
            W_K=self.W_K.to(dtype),
            W_V=self.W_V.to(dtype),
            W_O=self.W_O.to(dtype),
            bias=self.bias.to(dtype),
        )


def augment(x: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch rows d_in"]:
    """Return the rows [x | 1 | 0] behind the bias row B = [0 | 1 | 1]: one more row, two more columns."""
    constant_and_flag = x.new_tensor([1.0, 0.0]).expand(*x.shape[:-1], 2)
    rows = torch.cat([x, constant_and_flag], dim=-1)
    bias_row = rows.new_zeros(*rows.shape[:-2], 1, rows.shape[-1])
    bias_row[..., -2:] = 1.0
    return torch.cat([bias_row, rows], dim=-2)


def self_and_bias(n_rows: int) -> Bool[Tensor, "rows rows"]:
    """Return the mask of a neuron's head: each row attends to itself and to row 0, the bias row."""
    mask = torch.eye(n_rows, dtype=torch.bool)
    mask[:, 0] = True
    return mask


def only_self(n_rows: int) -> Bool[Tensor, "rows rows"]:
    """Return the mask under which attention is the identity: each row attends to itself alone."""
    return torch.eye(n_rows, dtype=torch.bool)


def causal(n_rows: int) -> Bool[Tensor, "rows rows"]:
    """Return the ordinary causal mask: each row attends to itself and to all rows before it."""
    return torch.ones(n_rows, n_rows, dtype=torch.bool).tril()


def scores_of(
    heads: Heads, rows: Float[Tensor, "*batch rows d_in"]
) -> Float[Tensor, "*batch n_heads rows rows"]:
    """Return the scores of all heads, before any mask."""
    q, k = _projected(rows, heads.W_Q), _projected(rows, heads.W_K)
    return q @ k.transpose(-1, -2)


def attend(
    heads: Heads,
    rows: Float[Tensor, "*batch rows d_in"],
    mask: Bool[Tensor, "rows rows"] | None = None,
) -> Float[Tensor, "*batch rows d_out"]:
    """Return what the heads write at every row: ordinary softmax attention, no shortcut.

    Without a mask every row attends to every row.
    """
    scores = scores_of(heads, rows)
    if mask is not None:
        scores = scores.masked_fill(~mask.to(scores.device), -torch.inf)
    z = scores.softmax(-1) @ _projected(rows, heads.W_V)
    return torch.einsum("...hrv,hvd->...rd", z, heads.W_O) + heads.bias


def stack(parts: Sequence[Heads]) -> Heads:
    """Return the heads of all `parts` as one sublayer; their outputs and biases add up."""
    shapes = {(p.W_Q.shape[1:], p.W_V.shape[1:], p.W_O.shape[1:]) for p in parts}
    if len(shapes) != 1:
        raise ShapeMismatchError(
            f"Only heads of equal shape form one sublayer, got {len(shapes)} different shapes. "
            "Build them with the same `d_head` from the same stream."
        )
    return Heads(
        W_Q=torch.cat([p.W_Q for p in parts]),
        W_K=torch.cat([p.W_K for p in parts]),
        W_V=torch.cat([p.W_V for p in parts]),
        W_O=torch.cat([p.W_O for p in parts]),
        bias=torch.stack([p.bias for p in parts]).sum(0),
    )


def _projected(
    rows: Float[Tensor, "*batch rows d_in"], weight: Float[Tensor, "n_heads d_in d_head"]
) -> Float[Tensor, "*batch n_heads rows d_head"]:
    return torch.einsum("...rd,hde->...hre", rows, weight)
