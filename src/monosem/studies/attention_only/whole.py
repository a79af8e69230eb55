"""How far a converted GPT-2 may be from its original: the bounds of its MLPs carried to the logits.

ρ_i bounds how far the residual streams of the two runs are apart at position i (2-norm), ν_i how far their
rows x̄/s in front of a norm's gain. Nothing is linearised: every step holds for whatever lies within ρ.

    norm        ν = ρ / (s − ρ/√d), as s moves by ρ/√d at most and the map x̄ → x̄/s has slope 1/s
    scores      a_ij = (κ_Q ν_i |k_j − k̄_i| + κ_K ν_j (|q_i| + κ_Q ν_i)) / √d_head; k̄_i = Σ p_ij k_j, which
                is free, for what all keys of a query have in common changes no softmax
    patterns    |p'_ij − p_ij| ≤ p_ij (w_ij + w̄_i) e^ā_i,   w = e^a − 1, means over keys by p
    heads       Σ_j |p'_ij − p_ij| |v_j − z_i| + Σ_j p'_ij κ_V ν_j
    MLPs        the bound of `bounds.py` on the rows as far away as that, and L κ_out κ_in ν

with κ the spectral norms of maps behind their norm's gain. To each step the worst rounding of both runs is
added (γ_n of n operations). A first token is the same in both where it leads every other b by more than
|(W_U[a] − W_U[b]) gain| ν and roundings allow.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monosem.constructions.approximations import Approximation
from monosem.constructions.functions import function
from monosem.models import norms
from monosem.models.access import matrix
from monosem.models.language_model import LanguageModel
from monosem.studies.attention_only.bounds import Affine, ungated
from monosem.studies.attention_only.claim import gamma

POINTS = (
    *("hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "hook_resid_mid"),
    *("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z"),
    *("ln2.hook_scale", "ln2.hook_normalized"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """What conversion may do to the logits of some tokens."""

    logits: Float[Tensor, "batch pos"]
    """The largest change of a logit."""
    decided: Bool[Tensor, "batch pos"]
    """Where no change within the bounds gives another first token."""


def carried(
    original: LanguageModel, best: Approximation, name: str, tokens: Int[Tensor, "batch pos"]
) -> Reach:
    """Return the bound on a model whose activation `name` is replaced by `best`, in its own number type."""
    last = f"blocks.{original.n_layers - 1}.hook_resid_post"
    ends = ["ln_final.hook_scale", "ln_final.hook_normalized", last]
    points = [f"blocks.{layer}.{point}" for layer in range(original.n_layers) for point in POINTS]
    seen = {k: v.double() for k, v in original.capture(tokens, [*points, *ends]).items()}
    dtype = original.model.dtype
    rho = torch.zeros(tokens.shape, dtype=torch.float64)
    for layer, block in enumerate(original.blocks):
        at = {point: seen[f"blocks.{layer}.{point}"] for point in POINTS}
        rho = _attention(block, at, rho, dtype)
        rho = _mlp(original, block, at, best, name, rho, dtype)
    unembed = cast(nn.Linear, original.model.get_output_embeddings())
    norm = cast(Any, original.model).transformer.ln_f
    nu = _normed(seen[last], seen["ln_final.hook_scale"], rho, dtype)
    return _logits(unembed, norm, seen["ln_final.hook_normalized"], nu, dtype)


def _normed(
    x: Float[Tensor, "batch pos d"],
    scale: Float[Tensor, "batch pos 1"],
    rho: Float[Tensor, "batch pos"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch pos"]:
    d, s = x.shape[-1], scale[..., 0]
    least = s * (1 - gamma(2 * d + 16, dtype)) - rho / math.sqrt(d)
    rounded = gamma(d + 16, dtype) * (2 * (x.norm(dim=-1) + rho) / least + math.sqrt(d))
    return torch.where(least > 0, rho / least + 2 * rounded, math.inf)


def _attention(
    block: nn.Module, at: dict[str, Tensor], rho: Float[Tensor, "batch pos"], dtype: torch.dtype
) -> Float[Tensor, "batch pos"]:
    """Return the distance behind attention, from that in front of it."""
    attn, norm = cast(Any, block).attn, cast(Any, block).ln_1
    x, d = at["hook_resid_pre"], at["hook_resid_pre"].shape[-1]
    nu = _normed(x, at["ln1.hook_scale"], rho, dtype)
    q, k, v, z = (at[f"attn.hook_{name}"].transpose(1, 2) for name in ("q", "k", "v", "z"))
    p, d_head = at["attn.hook_pattern"], q.shape[-1]
    scale = 1 / math.sqrt(d_head) if attn.scale_attn_weights else 1.0
    row = at["ln1.hook_normalized"]
    dq, dk, dv = (
        _heads_apart(part, norms.gain(norm).double(), row, nu, d_head, dtype)
        for part in _parts(attn.c_attn)
    )
    k_mean = p @ k
    from_mean = (k[:, :, None] - k_mean[:, :, :, None]).norm(dim=-1)
    q_size, k_size = q.norm(dim=-1) + dq, k.norm(dim=-1) + dk
    a = dq[..., None] * from_mean + q_size[..., None] * dk[:, :, None, :]
    a = a + 2 * gamma(d_head + 8, dtype) * q_size[..., None] * k_size[:, :, None, :]
    allowed = torch.ones(
        p.shape[-2:], dtype=torch.bool, device=p.device
    ).tril()  # p may underflow to 0
    a = torch.where(allowed, a * scale, 0.0)
    w, mean_a = torch.expm1(a), (p * a).sum(-1, keepdim=True)
    dp = p * (w + (p * w).sum(-1, keepdim=True)) * mean_a.exp()
    from_z = (v[:, :, None] - z[:, :, :, None]).norm(dim=-1)
    reached = torch.where(allowed, dv[:, :, None, :], 0.0)
    dz = (dp * from_z).sum(-1) + ((p + dp) * reached).sum(-1)
    sizes = ((p + dp) * (v.norm(dim=-1)[:, :, None] + reached)).sum(-1)
    dz = dz + 2 * gamma(2 * p.shape[-1] + 24, dtype) * sizes
    out = matrix(attn.c_proj).double().reshape(-1, d_head, d)  # z to output, head by head
    each = torch.linalg.matrix_norm(out, 2)
    written = torch.minimum(
        torch.einsum("h,bhi->bi", each, dz),
        torch.linalg.matrix_norm(out.flatten(0, 1), 2) * dz.norm(dim=1),
    )
    affine = Affine.of(attn.c_proj)
    reach = affine.reach(z.transpose(1, 2).flatten(2)).norm(dim=-1)
    reach = reach + torch.linalg.matrix_norm(affine.weight) * dz.norm(dim=1)
    moved = rho + written + 2 * gamma(d + 2, dtype) * reach
    return moved + 2 * gamma(1, dtype) * (at["hook_resid_mid"].norm(dim=-1) + moved)


def _heads_apart(
    part: Affine, gain: Tensor, row: Tensor, nu: Tensor, d_head: int, dtype: torch.dtype
) -> Float[Tensor, "batch heads pos"]:
    """Return how far queries, keys or values of each head may be apart."""
    weight = (part.weight * gain).unflatten(0, (-1, d_head))
    steep = torch.linalg.matrix_norm(weight, 2)
    reach = part.reach(row).unflatten(-1, (-1, d_head)).norm(dim=-1)
    reach = reach + torch.linalg.matrix_norm(weight) * nu[..., None]
    found = steep * nu[..., None] + 2 * gamma(part.weight.shape[1] + 4, dtype) * reach
    return found.transpose(1, 2)


def _parts(c_attn: nn.Module) -> list[Affine]:
    whole = Affine.of(c_attn)
    pairs = zip(whole.weight.chunk(3), whole.bias.chunk(3), strict=True)
    return [Affine(weight, bias) for weight, bias in pairs]


def _mlp(
    original: LanguageModel,
    block: nn.Module,
    at: dict[str, Tensor],
    best: Approximation,
    name: str,
    rho: Float[Tensor, "batch pos"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch pos"]:
    """Return the distance behind an MLP: what its heads err by where they may be, and its own slope."""
    mlp, norm = cast(Any, block).mlp, cast(Any, block).ln_2
    nu = _normed(at["hook_resid_mid"], at["ln2.hook_scale"], rho, dtype)
    gain = norms.gain(norm).double()
    x, away = at["ln2.hook_normalized"], gain.abs().max() * nu
    own = ungated(block, original.family, best, x, dtype, away=away).norm(dim=-1)
    as_is = Approximation(heads=best.heads, error=0.0)  # of the original, roundings alone
    own = own + ungated(block, original.family, as_is, x, dtype).norm(dim=-1)
    into, out = Affine.of(mlp.c_fc).weight * gain, Affine.of(mlp.c_proj).weight
    kappas = torch.linalg.matrix_norm(into, 2) * torch.linalg.matrix_norm(out, 2)
    moved = rho + own + function(name).lipschitz * kappas * nu
    size = at["hook_resid_mid"].norm(dim=-1) + rho
    return moved + 2 * gamma(1, dtype) * (size + moved)


def _logits(
    unembed: nn.Linear,
    norm: nn.Module,
    x: Float[Tensor, "batch pos d"],
    nu: Float[Tensor, "batch pos"],
    dtype: torch.dtype,
) -> Reach:
    made, gain = Affine.of(unembed), norms.gain(norm).double()
    rows = made.weight * gain
    sizes = made.reach(x) + rows.norm(dim=-1) * nu[..., None]
    rounded = 2 * gamma(x.shape[-1] + 4, dtype) * sizes
    logits = made(x)
    first = logits.argmax(-1)
    heads, back = first.unique(return_inverse=True)
    # The quick formula, a² + b² − 2ab, may say less than the distance of rows that lie close.
    far = torch.cdist(rows[heads], rows, compute_mode="donot_use_mm_for_euclid_dist")
    apart = far[back] * nu[..., None]
    may = apart + rounded + rounded.gather(-1, first[..., None])
    lead = logits.gather(-1, first[..., None]) - logits
    others = torch.ones_like(lead, dtype=torch.bool).scatter(-1, first[..., None], False)
    return Reach(
        logits=(rows.norm(dim=-1).max() * nu + rounded.amax(-1)),
        decided=((lead > may) | ~others).all(-1),
    )
