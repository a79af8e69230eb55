"""The same dictionary under other conventions, for a target that cannot express its own.

Each change is exact but for rounding: it computes in float64 and gives back the dtype it found. What
no change of weights can express is refused by name, so that nothing is approximated silently.

    scale     v * scale @ W_enc = v @ (scale * W_enc)
    centre    (x - c) @ W_enc + b_enc = x @ W_enc + (b_enc - c @ W_enc); so too for `b_dec`
    norms     competing by pre * ‖W_dec row‖ is competing by pre where rows have one norm
"""

import dataclasses
import re

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.dictionaries.formats.specification import Specification
from monosem.dictionaries.saving import steps

_ANY = re.compile("")
_CHANGED = {
    "centred": re.compile(r"hook_(embed|pos_embed|resid_\w+|attn_out|mlp_out)$"),
    "layer_norm_folded": re.compile(r"hook_normalized$"),
    "value_biases_folded": re.compile(r"attn\.hook_[vz]$"),
}
"""Sites at which a processed model holds something else."""
UNIT = 1e-5
"""How far from 1 the norm of a row of `W_dec` may be, as rounding leaves it."""


def plain(specification: Specification, target: str) -> Specification:
    """Without a scale, a centre or a choice by norms; refuses what only another architecture could do."""
    return chosen_plainly(uncentred(unscaled(specification, target)), target)


def unscaled(specification: Specification, target: str) -> Specification:
    """The same on raw activations, with the scale in the weights; latents stay as they are."""
    axes, s = specification.axes, specification
    if axes.normalisation == "none":
        return s
    if axes.normalisation != "scale":
        raise ConfigError(
            f"Its input is normalised by `{axes.normalisation}`, which depends on each activation and "
            f"cannot be put into weights; `{target}` has no such normalisation. Write it as `monosem`, "
            "or as a format that has one."
        )
    into, out = axes.scale, axes.output_scale
    if (
        into != out
    ):  # what is subtracted is in units of the input, what is added in those of the output
        s = subtracting(s, False)
    return dataclasses.replace(
        s,
        axes=dataclasses.replace(s.axes, normalisation="none", scale=1.0, output_scale=1.0),
        W_enc=_scaled(s.W_enc, into),
        W_dec=_scaled(s.W_dec, 1 / out),
        b_dec=_scaled(s.b_dec, 1 / out),
        W_skip=None if s.W_skip is None else _scaled(s.W_skip, into / out),
        centre=None if s.centre is None else _scaled(s.centre, 1 / into),
    )


def uncentred(specification: Specification) -> Specification:
    """The same without `centre`, which moves into the biases."""
    if specification.centre is None:
        return specification
    return dataclasses.replace(_shifted(specification, specification.centre, -1.0), centre=None)


def subtracting(specification: Specification, wanted: bool) -> Specification:
    """The same with `b_dec` subtracted from the input or not, as `wanted`; the biases make up for it."""
    axes = specification.axes
    if axes.subtract_b_dec == wanted:
        return specification
    moved = _shifted(specification, specification.b_dec, 1.0 if wanted else -1.0)
    return dataclasses.replace(moved, axes=dataclasses.replace(axes, subtract_b_dec=wanted))


def chosen_plainly(specification: Specification, target: str) -> Specification:
    """The same with latents that compete by their pre-activation alone, where that is the same."""
    axes, s = specification.axes, specification
    if not axes.choose_by_norm:
        return s
    norms = torch.linalg.vector_norm(s.W_dec.double(), dim=1)
    if s.activation == "topk" and bool((norms - 1).abs().max() > UNIT):
        raise ConfigError(
            "Its latents compete by activation times norm of their decoder row, and these norms are not 1 "
            f"({float(norms.min()):.3g} to {float(norms.max()):.3g}); `{target}` lets them compete by "
            "activation alone. Fold it first (`dictionary.folded(1.0)`), which moves the norms into the "
            "latents."
        )
    return dataclasses.replace(s, axes=dataclasses.replace(axes, choose_by_norm=False))


def refuse_skip(specification: Specification, target: str) -> None:
    """Raise `ConfigError` where it has a skip and `target` has no place for one."""
    if specification.W_skip is not None:
        raise ConfigError(
            f"It adds a linear map of its input to its output (`W_skip`), which `{target}` has no place "
            "for. Write it as `saelens`, `sparsify` or `circuit_tracer`."
        )


def refuse_processing(specification: Specification, target: str) -> None:
    """Raise `ConfigError` where it belongs to a processed model that holds something else at its sites.

    `target` reads models as they are; a processing that changes other sites alone is not its concern.
    """
    place = specification.place
    sites = [*place.site.split(", "), *place.target.split(", ")]
    changed = [
        step
        for step in steps(place.processing)
        if not place.site or any(_CHANGED.get(step, _ANY).search(site) for site in sites if site)
    ]
    if changed:
        raise ConfigError(
            f"It belongs to a model whose weights were processed (`{place.processing}`) and reads other "
            f"activations than the model as it is, which `{target}` hooks. Fit it first "
            "(`activations.processing.for_model`), or write it as `saelens`, which records that."
        )


def exclusive(specification: Specification, target: str) -> Specification:
    """The same with thresholds that must be exceeded, not reached: the next smaller number of each."""
    axes, s = specification.axes, specification
    if s.threshold is None or not axes.inclusive:
        return s
    below = torch.nextafter(s.threshold, torch.full_like(s.threshold, -torch.inf))
    if s.threshold.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"Its thresholds are of {s.threshold.dtype}, and `{target}` asks that they be exceeded, not "
            "reached. Convert it to float32 first."
        )
    return dataclasses.replace(s, threshold=below, axes=dataclasses.replace(axes, inclusive=False))


def one_threshold(specification: Specification) -> float | None:
    """The threshold that all latents share, or None where they have their own."""
    threshold = specification.threshold
    if threshold is None or bool((threshold != threshold[0]).any()):
        return None
    return float(threshold[0])


def _shifted(s: Specification, by: Tensor, sign: float) -> Specification:
    # in units of the normalised input, from which both `centre` and `b_dec` are subtracted
    moved = sign * _encoded(by.double(), s)
    b_enc = (s.b_enc.double() + moved).to(s.b_enc.dtype)
    if s.b_mag is None or s.r_mag is None:
        return dataclasses.replace(s, b_enc=b_enc)
    b_mag = (s.b_mag.double() + s.r_mag.double().exp() * moved).to(s.b_mag.dtype)
    return dataclasses.replace(s, b_enc=b_enc, b_mag=b_mag)


def _encoded(v: Tensor, s: Specification) -> Tensor:
    if s.wiring.kind != "clt":
        return v @ s.W_enc.double()
    n_layers = len(s.wiring.widths_in)
    layers = s.W_enc.double().unflatten(1, (n_layers, -1))
    return torch.einsum("ld,dlf->lf", v.unflatten(0, (n_layers, -1)), layers).flatten()


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1.0 else (tensor.double() * factor).to(tensor.dtype)


def of_scores(threshold: Float[Tensor, " n"], norms: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Thresholds of `pre`, from thresholds of `pre` times the norm of a decoder row.

    A latent whose norm is zero is never above its threshold.
    """
    dtype = torch.promote_types(threshold.dtype, torch.float32)
    found = threshold.double() / norms.double()
    most = torch.finfo(dtype).max
    return torch.where(norms > 0, found, most).clamp_max(most).to(dtype)
