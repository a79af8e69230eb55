"""Attention sublayers of an attention-only model: many heads of internal dimension 1, two keys a query.

Each head attends to {own row, bias row} (`heads.py`). All heads of a sublayer share one key, the
flag that tells real rows from the bias row (multi-query attention), and have their own queries,
values and outputs. The softmax is a softmax, run in one of two ways:

gathered   only the two keys of each query are gathered: H·N·2 scores
dense      all N + 1 keys under a boolean mask: H·N·(N + 1) scores, the textbook form

A query needs no row but its own and the bias row, whose key and value never change; so beside a
key-value cache nothing has to be kept for these heads, and generating one token costs one row.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.constructions.heads import Heads, augment, self_and_bias
from monosem.core.errors import ConfigError, ShapeMismatchError

MODES = ("gathered", "dense")
"""The two ways to run; the numbers are the same up to rounding."""


class NeuronHeads(nn.Module):
    """One sublayer: heads of internal dimension 1 that read rows of `d_model` and write `d_out`."""

    def __init__(self, d_model: int, n_heads: int, d_out: int, mode: str = "gathered") -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"`mode` must be one of {', '.join(MODES)}, got `{mode}`.")
        self.mode = mode
        self.query = nn.Linear(d_model + 2, n_heads, bias=False)
        self.key = nn.Linear(d_model + 2, 1, bias=False)
        self.value = nn.Linear(d_model + 2, n_heads, bias=False)
        self.output = nn.Linear(n_heads, d_out)

    @torch.no_grad()
    def fill_(self, heads: Heads) -> None:
        """Take the weights of `heads`, which must have internal dimension 1 and one common key."""
        if not bool((heads.W_K[:1] == heads.W_K).all()):
            raise ShapeMismatchError(
                "The heads of one sublayer must share their key; these have several. "
                "Run them with `monosem.constructions.heads.attend`."
            )
        pairs = (
            (self.query.weight, heads.W_Q.squeeze(-1)),
            (self.key.weight, heads.W_K[:1].squeeze(-1)),
            (self.value.weight, heads.W_V.squeeze(-1)),
            (self.output.weight, heads.W_O.squeeze(1).T),
            (self.output.bias, heads.bias),
        )
        for parameter, value in pairs:
            if parameter.shape != value.shape:
                raise ShapeMismatchError(
                    f"Heads with a weight of shape {tuple(value.shape)} do not fit a sublayer that "
                    f"needs {tuple(parameter.shape)}."
                )
            parameter.copy_(value)
            if not bool(parameter.isfinite().all()):
                raise ConfigError(
                    f"A weight of these heads is larger than {parameter.dtype} can hold "
                    f"({torch.finfo(parameter.dtype).max:.3g}). Lower `gain`, or convert in a wider type."
                )

    def as_heads(self) -> Heads:
        """Return the weights as plain matrices, a key for each head, for `heads.attend`."""
        n_heads = self.query.out_features
        return Heads(
            W_Q=self.query.weight.unsqueeze(-1),
            W_K=self.key.weight.unsqueeze(-1).expand(n_heads, -1, -1),
            W_V=self.value.weight.unsqueeze(-1),
            W_O=self.output.weight.T.unsqueeze(1),
            bias=self.output.bias,
        )

    def forward(self, x: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos d_out"]:
        """Return what the heads write at every row of `x`."""
        rows = augment(x)
        bias_row, real = rows[..., :1, :], rows[..., 1:, :]
        q, k, v = self.query(real), self.key(rows), self.value(real)
        v_bias = self.value(bias_row)
        z = self._dense(q, k, v, v_bias) if self.mode == "dense" else _gathered(q, k, v, v_bias)
        return self.output(z)

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, v_bias: Tensor) -> Tensor:
        allowed = self_and_bias(k.shape[-2])[1:].to(q.device)
        scores = q.transpose(-1, -2).unsqueeze(-1) * k.transpose(-1, -2).unsqueeze(-3)
        pattern = _softmax(scores.masked_fill(~allowed, -torch.inf))
        values = torch.cat([v_bias, v], dim=-2).transpose(-1, -2).unsqueeze(-1)
        return (pattern @ values).squeeze(-1).transpose(-1, -2)


class NeuronSublayers(nn.Module):
    """The sublayers that stand where an MLP stood, one after the other."""

    def __init__(self, shapes: Sequence[Sequence[int]], mode: str = "gathered") -> None:
        """Build sublayers of `shapes` (d_model, n_heads, d_out) each."""
        super().__init__()
        self.sublayers = nn.ModuleList(NeuronHeads(d, n, out, mode) for d, n, out in shapes)

    def forward(self, x: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos d_out"]:
        """Return what the last sublayer writes."""
        for sublayer in self.sublayers:
            x = sublayer(x)
        return x


def _gathered(
    q: Float[Tensor, "*batch pos n_heads"],
    k: Float[Tensor, "*batch rows 1"],
    v: Float[Tensor, "*batch pos n_heads"],
    v_bias: Float[Tensor, "*batch 1 n_heads"],
) -> Float[Tensor, "*batch pos n_heads"]:
    pattern = _softmax(torch.stack([q * k[..., 1:, :], q * k[..., :1, :]], dim=-1))
    return pattern[..., 0] * v + pattern[..., 1] * v_bias


def _softmax(scores: Tensor) -> Tensor:
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=wide).to(scores.dtype)
