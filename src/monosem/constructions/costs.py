"""What neuron heads cost: in multiplications, in numbers held at once, and in seconds.

dense       N + 1 keys a query under a mask: the textbook form
gathered    the two keys of each query, a real softmax over two
collapsed   softmax(q, 0) written as σ(q): algebra has turned the heads back into the MLP
original    the MLP
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.constructions.neuron import neuron_heads
from monosem.constructions.sublayer import NeuronHeads
from monosem.constructions.terms import HeadSum
from monosem.core.errors import ConfigError

FORMS = ("dense", "gathered", "collapsed", "original")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One form of one MLP of width `n_neurons` on one text of `length` tokens."""

    form: str
    """dense, gathered, collapsed or original."""
    length: int
    """Tokens."""
    flops: int
    """Multiplications and additions, exponentials counted as one."""
    held: int
    """Numbers that must be held at once besides weights, input and output."""
    seconds: float
    """Median time of a forward pass."""


class Collapsed(nn.Module):
    """Neuron heads with their two-key softmax written as σ: an MLP whose activation is the sum of terms."""

    def __init__(self, heads: HeadSum, into: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.heads, self.into, self.out = heads, into, out

    def forward(self, x: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos d_out"]:
        """Return the MLP of `x`."""
        return self.out(self.heads(self.into(x)))


def flops(form: str, *, d_model: int, n_neurons: int, n_terms: int, length: int) -> int:
    """Return multiplications and additions of one sublayer on `length` tokens.

    >>> flops("original", d_model=4, n_neurons=8, n_terms=1, length=10)
    1360
    """
    projections = 2 * length * d_model * n_neurons
    if form in ("original", "collapsed"):
        per_neuron = 1 if form == "original" else 5 * n_terms
        return 2 * projections + per_neuron * n_neurons * length
    if form not in FORMS:
        raise ConfigError(f"`form` must be one of {', '.join(FORMS)}, got `{form}`.")
    n_heads, wide = n_neurons * n_terms, d_model + 2
    n_keys = 2 if form == "gathered" else length + 1
    around = 2 * length * n_heads * (2 * wide + d_model) + 2 * (length + 1) * wide
    return (
        around + 6 * n_heads * length * n_keys
    )  # scores, exp, sum, division, and weights times values


def held(form: str, *, n_neurons: int, n_terms: int, length: int) -> int:
    """Return how many intermediate numbers a form holds at once: the pattern decides."""
    if form in ("original", "collapsed"):
        return n_neurons * length
    n_heads = n_neurons * n_terms
    n_keys = 2 if form == "gathered" else length + 1
    return n_heads * length * (n_keys + 2)


def measure(
    heads: HeadSum,
    activation: nn.Module,
    *,
    d_model: int,
    n_neurons: int,
    lengths: Sequence[int],
    repeats: int = 3,
) -> list[Cost]:
    """Return the cost of all four forms of one random MLP at every length, timed in turns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        into, out = nn.Linear(d_model, n_neurons), nn.Linear(n_neurons, d_model)
    made = neuron_heads(heads, into.weight, into.bias, out.weight.T, out.bias)
    forms: dict[str, nn.Module] = {
        "collapsed": Collapsed(heads, into, out),
        "original": nn.Sequential(into, activation, out),
    }
    for mode in ("dense", "gathered"):
        sublayer = NeuronHeads(d_model, made.n_heads, d_model, mode)
        sublayer.fill_(made)
        forms[mode] = sublayer
    found: list[Cost] = []
    for length in lengths:
        times = _timed(forms, torch.randn(1, length, d_model), repeats)
        for form in FORMS:
            shape = {"n_neurons": n_neurons, "n_terms": heads.n_heads, "length": length}
            cost = Cost(
                form=form,
                length=length,
                flops=flops(form, d_model=d_model, **shape),
                held=held(form, **shape),
                seconds=times[form],
            )
            found.append(cost)
    return found


@torch.no_grad()
def _timed(forms: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats + 1):  # the first round warms up
        for form, module in forms.items():
            start = time.perf_counter()
            module(x)
            times[form].append(time.perf_counter() - start)
    return {form: statistics.median(seconds[1:]) for form, seconds in times.items()}
