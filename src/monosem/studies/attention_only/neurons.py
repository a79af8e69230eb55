"""Neurons as heads: one head for a SiLU or a sigmoid GLU, sums of heads for the rest, linear maps."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from monosem.constructions.approximations import FITTED, approximation
from monosem.constructions.certificate import certify
from monosem.constructions.functions import function
from monosem.constructions.heads import attend, augment, only_self, self_and_bias
from monosem.constructions.linear import linear_heads
from monosem.constructions.neuron import neuron_heads, sigmoid_glu_heads
from monosem.constructions.terms import EXACT, SILU_DIP
from monosem.studies.attention_only.claim import Claim, checked, draw, gamma


def neurons(size: int) -> Iterator[Claim]:
    """Yield the claims on single neurons, in three number types."""
    d, n = 32 * size, 20 * size
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, W, b = (t.to(dtype) for t in (draw(0, 1, 16, d), draw(1, n, d), draw(2, n)))
        # A dot product of d + 2 terms and a dozen roundings, relative to Σ |w||x|.
        reach = float((x.double().abs() @ W.double().abs().T + b.double().abs()).max())
        bound = gamma(d + 14, dtype) * reach
        yield checked(
            "one SiLU neuron is one head of internal dimension 1",
            dtype,
            bound,
            partial(_silu_gap, x, W, b),
        )
    gate, up, x = draw(3, n, d), draw(4, n, d), draw(5, 1, 16, d)
    reach = float((x.abs() @ up.abs().T).max() * (1 + (x.abs() @ gate.abs().T).max() / 4))
    yield checked(
        "one sigmoid-GLU neuron is one head",
        torch.float64,
        gamma(d + 14, torch.float64) * reach,
        partial(_glu_gap, x, gate, up),
    )


def activations() -> Iterator[Claim]:
    """Yield what every stored sum of heads is certified to, and what it errs by."""
    s = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    for gain in (10.0, 1000.0):
        heads = approximation("relu", gain=gain).heads
        yield checked(
            f"ReLU by one head of gain {gain:g} errs by 0.27846 over the gain",
            torch.float64,
            SILU_DIP / gain,
            lambda h=heads, near=s / gain: float((h(near) - near.relu()).abs().max()),
        )
    for name, n in FITTED:
        best, known = FITTED[name, n], function(name)
        by = f"{name} by {n} head{'s' * (n > 1)}"
        yield checked(
            f"{by}: the certificate on the whole line is the error stated",
            torch.float64,
            best.error,
            lambda h=best.heads, f=known: certify(f, h).everywhere,
        )
        yield checked(
            f"{by} keeps to its certified error",
            torch.float64,
            best.error,
            lambda h=best.heads, f=known: float((h(s) - f(s)).abs().max()),
        )
    for name, heads in EXACT.items():
        # slope·s + offset, gain·s, σ, their product and the constant: a dozen roundings of |s| and 2
        known = function(name)
        bound = gamma(12, torch.float64) * (1 + heads.size) * (30 + heads.level)
        yield checked(
            f"{name} is one head exactly, to rounding (its certificate is 0)",
            torch.float64,
            bound + certify(known, heads).everywhere,
            lambda h=heads, f=known: float((h(s) - f(s)).abs().max()),
        )


def linear(size: int) -> Iterator[Claim]:
    """Yield the claims on linear maps."""
    d = 16 * size
    M, bias, x = draw(6, d, d), draw(7, d), draw(8, 1, 9, d)
    # Backward error of the singular value decomposition, a small polynomial of d times η ‖M‖.
    norm = float(torch.linalg.matrix_norm(M, 2) * x.norm(dim=-1).max())
    made = linear_heads(M, bias, d_head=4)
    yield checked(
        "a linear map is ⌈rank / d_head⌉ heads that see themselves alone (limit 16 d η)",
        torch.float64,
        gamma(16 * d, torch.float64) * norm,
        lambda: float(
            (attend(made, augment(x), only_self(10))[..., 1:, :] - (x @ M + bias)).abs().max()
        ),
    )


def _silu_gap(x: Tensor, W: Tensor, b: Tensor) -> float:
    eye, none = torch.eye(len(W), dtype=W.dtype), torch.zeros(len(W), dtype=W.dtype)
    out = _run(neuron_heads(EXACT["silu"], W, b, eye, none), x).double()
    return float((out - functional.silu(x.double() @ W.double().T + b.double())).abs().max())


def _glu_gap(x: Tensor, gate: Tensor, up: Tensor) -> float:
    none, eye = torch.zeros(len(gate), dtype=x.dtype), torch.eye(len(gate), dtype=x.dtype)
    out = _run(sigmoid_glu_heads(gate, none, up, none, eye, none), x)
    return float((out - torch.sigmoid(x @ gate.T) * (x @ up.T)).abs().max())


def _run(heads: Any, x: Tensor) -> Tensor:
    rows = augment(x)
    return attend(heads, rows, self_and_bias(rows.shape[-2]))[..., 1:, :]
