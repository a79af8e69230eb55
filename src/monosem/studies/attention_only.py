"""Huben & Morris, *Attention-Only Transformers*: claim by claim, what is measured beside what is proved.

Bounds come from derivations in `monosem.constructions`, never from the measurement; where a claim
says "limit", the bound is a fixed one that no derivation gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.constructions import boolean
from monosem.constructions.approximations import approximation
from monosem.constructions.conversion import ConversionConfig, convert
from monosem.constructions.functions import function
from monosem.constructions.gated import Product, unit_roundoff
from monosem.constructions.heads import attend, augment, only_self, self_and_bias
from monosem.constructions.linear import linear_heads
from monosem.constructions.neuron import neuron_heads, sigmoid_glu_heads
from monosem.constructions.pseudo_mask import leak
from monosem.constructions.terms import SILU_DIP, HeadSum, scaled_silu
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel

SCALES = {"small": 1, "full": 4}
"""How much larger widths and how many more draws than in the small study."""

_SILU = HeadSum(terms=(scaled_silu(1.0, 1.0),))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, what was measured and what was proved."""

    claim: str
    """In words."""
    dtype: str
    """Number type of the arithmetic."""
    measured: float
    """What came out; an error, unless the claim says otherwise."""
    bound: float
    """What the derivation allows."""

    @property
    def holds(self) -> bool:
        """Whether the measurement keeps to the bound."""
        return self.measured <= self.bound


def attention_only(scale: str = "small") -> list[Claim]:
    """Return all claims, measured now; `small` takes under a minute."""
    if scale not in SCALES:
        raise ConfigError(f"`scale` must be one of {', '.join(SCALES)}, got `{scale}`.")
    size = SCALES[scale]
    with torch.no_grad():
        return [
            *_neurons(size),
            *_activations(),
            *_linear(size),
            *_masks(size),
            *_products(size),
            *_models(),
            *_selectors(size),
        ]


def _draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _run(heads: Any, x: Tensor) -> Tensor:
    rows = augment(x)
    return attend(heads, rows, self_and_bias(rows.shape[-2]))[..., 1:, :]


def _neurons(size: int) -> Iterator[Claim]:
    d, n = 32 * size, 20 * size
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, W, b = (t.to(dtype) for t in (_draw(0, 1, 16, d), _draw(1, n, d), _draw(2, n)))
        eye, none = torch.eye(n, dtype=dtype), torch.zeros(n, dtype=dtype)
        out = _run(neuron_heads(_SILU, W, b, eye, none), x).double()
        true = functional.silu(x.double() @ W.double().T + b.double())
        # A dot product of d + 2 terms and a dozen roundings: relative to Σ |w||x| at most (d + 14) η.
        reach = float((x.double().abs() @ W.double().abs().T + b.double().abs()).max())
        yield Claim(
            claim="one SiLU neuron is one head of internal dimension 1",
            dtype=_name(dtype),
            measured=float((out - true).abs().max()),
            bound=1.1 * (d + 14) * unit_roundoff(dtype) * reach,
        )
    gate, up, none = _draw(3, n, d), _draw(4, n, d), torch.zeros(n, dtype=torch.float64)
    x, eye = _draw(5, 1, 16, d), torch.eye(n, dtype=torch.float64)
    out = _run(sigmoid_glu_heads(gate, none, up, none, eye, none), x)
    true = torch.sigmoid(x @ gate.T) * (x @ up.T)
    reach = float((x.abs() @ up.abs().T).max() * (1 + (x.abs() @ gate.abs().T).max() / 4))
    yield Claim(
        claim="one sigmoid-GLU neuron is one head",
        dtype="float64",
        measured=float((out - true).abs().max()),
        bound=(d + 14) * unit_roundoff(torch.float64) * reach,
    )


def _activations() -> Iterator[Claim]:
    s = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    for gain in (10.0, 1000.0):
        heads = approximation("relu", gain=gain).heads
        near = s / gain
        yield Claim(
            claim=f"ReLU by one head of gain {gain:g} errs by 0.27846 over the gain",
            dtype="float64",
            measured=float((heads(near) - near.relu()).abs().max()),
            bound=SILU_DIP / gain,
        )
    for name in ("gelu", "gelu_tanh"):
        for n in (1, 2, 3, 4):
            best = approximation(name, n)
            yield Claim(
                claim=f"{name} by {n} head{'s' * (n > 1)} keeps to its certified error",
                dtype="float64",
                measured=float((best.heads(s) - function(name)(s)).abs().max()),
                bound=best.error,
            )


def _linear(size: int) -> Iterator[Claim]:
    d = 16 * size
    M, bias, x = _draw(6, d, d), _draw(7, d), _draw(8, 1, 9, d)
    rows = augment(x)
    out = attend(linear_heads(M, bias, d_head=4), rows, only_self(10))[..., 1:, :]
    # Backward error of the singular value decomposition, a small polynomial of d times η ‖M‖.
    bound = (
        16
        * d
        * unit_roundoff(torch.float64)
        * float(torch.linalg.matrix_norm(M, 2) * x.norm(dim=-1).max())
    )
    yield Claim(
        claim="a linear map is ⌈rank / d_head⌉ heads that see themselves alone (limit 16 d η)",
        dtype="float64",
        measured=float((out - (x @ M + bias)).abs().max()),
        bound=bound,
    )


def _masks(size: int) -> Iterator[Claim]:
    n = 16 * size
    for omega in (10.0, 20.0):
        worst, bound = 0.0, 0.0
        for seed in range(5 * size):
            mask = (_draw(seed, n, n) > 0) | torch.eye(n, dtype=torch.bool)
            found = leak(2 * _draw(seed + 100, n, n), mask, omega)
            if found.measured / found.bound >= worst / max(bound, 1e-300):
                worst, bound = found.measured, found.bound
        yield Claim(
            claim=f"a mask in the weights with Ω = {omega:g} leaks no more than (N − |A|)·e^(Δ − Ω)",
            dtype="float64",
            measured=worst,
            bound=bound,
        )


def _products(size: int) -> Iterator[Claim]:
    largest = 8.0
    for dtype in (torch.float64, torch.float32):
        a = torch.linspace(-largest, largest, 20_001 * size, dtype=dtype)
        u = _draw(9, len(a)).to(dtype)
        for m in (1, 2, 3):
            product = Product(n_terms=m)
            epsilon = product.epsilon(largest, unit_roundoff(dtype))
            slopes = [4 * c / (j * epsilon) for j, c in enumerate(product.weights, 1)]
            heads = [s * u * torch.sigmoid(j * epsilon * a) for j, s in enumerate(slopes, 1)]
            made = torch.stack([*heads, -sum(slopes) * u / 2]).sum(0).double()
            error = (made - a.double() * u.double()).abs() / u.double().abs()
            yield Claim(
                claim=f"a product by {m} head{'s' * (m > 1)} and a centring head, per unit of u",
                dtype=_name(dtype),
                measured=float(error.max()),
                bound=product.error(largest, unit_roundoff(dtype))
                + 2 * largest * unit_roundoff(dtype),
            )


def _models() -> Iterator[Claim]:
    config = GPT2Config(
        vocab_size=61,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=48,
        activation_function="silu",
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).double().eval()
    tokens = torch.randint(0, 61, (2, 48), generator=torch.Generator().manual_seed(0))
    converted = convert(model).model
    gap = (cast(Any, model)(tokens).logits - cast(Any, converted)(tokens).logits).abs().max()
    yield Claim(
        claim="a SiLU transformer of four layers without its MLPs has the same logits (limit)",
        dtype="float64",
        measured=float(gap),
        bound=1e-11,
    )
    yield from _embedded()


def _embedded() -> Iterator[Claim]:
    """Yield what conversion does to the ReLU model that comes with the package."""
    original = LanguageModel.load("1L-a", device="cpu")
    gain = 100.0
    converted = convert(original.model, ConversionConfig(gain=gain))
    tokens = torch.randint(
        0, original.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0)
    )
    site = "blocks.0.hook_mlp_out"
    before, read = "blocks.0.ln2.hook_normalized", original
    x = read.capture(tokens, [before])[before]
    true = original.capture(tokens, [site])[site]
    made = cast(Any, converted.model).transformer.h[0].mlp(x)
    W_out = cast(Tensor, original.model.get_parameter("transformer.h.0.mlp.c_proj.weight"))
    W_in = cast(Tensor, original.model.get_parameter("transformer.h.0.mlp.c_fc.weight"))
    b_in = cast(Tensor, original.model.get_parameter("transformer.h.0.mlp.c_fc.bias"))
    reach = float(((x.abs() @ W_in.abs() + b_in.abs()) @ W_out.abs()).max())
    rounding = 2 * (sum(W_in.shape) + 28) * unit_roundoff(torch.float32) * reach
    yield Claim(
        claim=f"1L-a's ReLU MLP by heads of gain {gain:g}: 0.27846 / gain · Σ |w_out|, and rounding",
        dtype="float32",
        measured=float((made - true).abs().max()),
        bound=SILU_DIP / gain * float(W_out.abs().sum(0).max()) + rounding,
    )
    near = convert(original.model).model
    start = tokens[:1, :8]
    wanted = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    same = cast(Any, original.model).generate(start, **wanted) == cast(Any, near).generate(
        start, **wanted
    )
    yield Claim(
        claim="1L-a and its conversion continue random tokens alike, greedily (tokens that differ)",
        dtype="float32",
        measured=float((~same).sum()),
        bound=0.0,
    )


def _selectors(size: int) -> Iterator[Claim]:
    k = 3 + (size > 1)
    matches = boolean.bit_matches(k)
    both, either = boolean.conjunction(matches), boolean.disjunction(matches)
    error = 1e-6
    for name, head in (("AND", both), ("OR", either), ("XOR", boolean.exclusive(matches))):
        yield Claim(
            claim=f"{name} of {k} selectors, with BOS for rows without a match, at the T of the bound",
            dtype="float64",
            measured=head.error(head.temperature_for(error), bos=True),
            bound=error,
        )
    yield Claim(
        claim=f"AND of {k} selectors takes a width linear in {k} (width)",
        dtype="float64",
        measured=float(both.width),
        bound=float(k + 1),
    )
    yield Claim(
        claim=f"OR of {k} matches takes at least 2^{k} − 1 dimensions: the blow-up (bound: width found)",
        dtype="float64",
        measured=float(either.width_bound),
        bound=float(either.width),
    )
