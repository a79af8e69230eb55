"""A specification as a dictionary: an ordinary architecture in raw-activation form, and back.

What a specification computes, the dictionary computes, with other numbers where that is needed:

    scale        n(x) = s x        latents / s, b_enc / s, b_dec / s, threshold / s; matrices as they are
    centre       (x - c) @ W_enc   b_enc - c @ W_enc
    decoder rows                   latents * norm, W_enc * norm, b_enc * norm, threshold * norm, W_dec / norm
    threshold    pre >= t          pre > the next smaller number; below zero `relu` decides, so zero
    layer_norm, unit_rms           the dictionary of normalised activations in a `Normalised`

Rows that are unit vectors to `UNIT` stay as they are, bit for bit, and so do those of a TopK whose latents
compete by activation alone: other rows would be other latents. Products are computed in float64 and
rounded to float32 once.
"""

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.batch_topk import BatchTopK
from monosem.dictionaries.config import DictionaryConfig
from monosem.dictionaries.formats import express
from monosem.dictionaries.formats.specification import Activation, Axes, Place, Specification
from monosem.dictionaries.gated import Gated, GatedConfig
from monosem.dictionaries.jumprelu import JumpReLU, JumpReLUConfig
from monosem.dictionaries.linear import Linear
from monosem.dictionaries.normalised import Normalised, NormalisedConfig
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.relu_april import ReLUApril
from monosem.dictionaries.saving import Origin
from monosem.dictionaries.tied import Tied
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.dictionaries.wired import Conventions

UNIT = 1e-6
"""How far from 1 the norm of a decoder row may be and the row stays as it is."""
PIECE = 2**20
"""Numbers that are computed in float64 at once."""
_KINDS: dict[Activation, tuple[type[Dictionary[Any]], type[DictionaryConfig]]] = {
    "relu": (ReLU, ReLUConfig),
    "topk": (TopK, TopKConfig),
    "jumprelu": (JumpReLU, JumpReLUConfig),
    "gated": (Gated, GatedConfig),
}


def dictionary_of(specification: Specification) -> Dictionary[Any]:
    """The dictionary that computes this on raw activations."""
    s = _raw(specification)
    norms, unit = _norms(s)
    kind, config_type = _KINDS[s.activation]
    dictionary = kind(config_type(**_settings(s)))
    fill_(dictionary, s, norms)
    dictionary.conventions = dataclasses.replace(
        _conventions(specification.axes), subtract_b_dec=s.axes.subtract_b_dec, unit_rows=unit
    )
    if s.axes.normalisation != "none":
        dictionary = _wrapped(dictionary, s)
    dictionary.origin = _origin(specification)
    return dictionary.eval()


def specification_of(dictionary: Dictionary[Any]) -> Specification:
    """What a dictionary computes; `ConfigError` for an architecture that no specification expresses."""
    if isinstance(dictionary, Normalised):
        within = specification_of(dictionary.inner)
        axes = dataclasses.replace(within.axes, normalisation=dictionary.config.normalisation)
        return dataclasses.replace(within, axes=axes, place=_place(dictionary))
    weights = {name: getattr(dictionary, name).detach() for name in ("W_enc", "W_dec", "b_enc")}
    return Specification(
        axes=Axes(
            subtract_b_dec=dictionary.conventions.subtract_b_dec,
            inclusive=isinstance(dictionary, BatchTopK),
        ),
        b_dec=dictionary.b_dec.detach(),
        W_skip=dictionary.W_skip.detach() if dictionary.wiring.skip else None,
        wiring=dictionary.wiring,
        place=_place(dictionary),
        trained_as=dictionary.architecture,
        source="monosem",
        remarks=dictionary.origin.remarks,
        **weights,
        **_choice(dictionary),
    )


def _choice(dictionary: Dictionary[Any]) -> dict[str, Any]:
    """Which latents are active, in a specification's words."""
    match dictionary:
        case TopK():
            return {"activation": "topk", "k": dictionary.config.k}
        case BatchTopK():  # Matryoshka too
            threshold = dictionary.threshold.detach().expand(dictionary.n_latents).clone()
            return {"activation": "jumprelu", "threshold": threshold, "k": dictionary.config.k}
        case JumpReLU():
            return {"activation": "jumprelu", "threshold": dictionary.threshold.detach()}
        case Gated():
            magnitudes = {"r_mag": dictionary.r_mag.detach(), "b_mag": dictionary.b_mag.detach()}
            return {"activation": "gated", **magnitudes}
        case Neurons() | Linear() if dictionary.config.k:
            return {"activation": "topk", "k": dictionary.config.k}
        case ReLU() | ReLUApril() | Tied() | Neurons() | Linear():  # PAnneal is a ReLU
            return {"activation": "relu"}
        case _:
            raise ConfigError(
                f"The architecture `{dictionary.architecture}` computes what no format expresses: they "
                "know relu, topk, jumprelu and gated. Keep it as it is (`save`), or give it a case here."
            )


def _place(dictionary: Dictionary[Any]) -> Place:
    origin = dictionary.origin
    return Place(
        model=origin.model.partition(" ")[0],
        site=origin.site,
        target=origin.target,
        processing=origin.processing or "unknown",
        context=origin.context,
        prepend_bos=origin.prepend_bos,
        fvu=origin.metrics.get("fvu"),
    )


def _settings(s: Specification) -> dict[str, Any]:
    own = {"l0": min(32.0, float(s.n_latents))}  # of training, which is over
    return {
        "d_in": s.d_in,
        "d_out": s.d_out,
        "n_latents": s.n_latents,
        "wiring": dataclasses.replace(s.wiring, skip=s.W_skip is not None),
        **({"k": s.k} if s.activation == "topk" else own),
    }


def _conventions(axes: Axes) -> Conventions:
    scaled = axes.normalisation == "scale"
    apart = scaled and axes.scale != axes.output_scale
    return Conventions(
        loss_scale="not recorded",
        input_scale=1 / axes.scale if scaled else 1.0,
        select_by_decoder_norm=axes.choose_by_norm,
        folded=True,
        input_scales=(1 / axes.scale,) if apart else (),
        output_scales=(1 / axes.output_scale,) if apart else (),
    )


def fill_(dictionary: Dictionary[Any], s: Specification, norms: Tensor | None) -> None:
    """Copy the weights of `s`, with `norms` of decoder rows moved into the latents."""
    with torch.no_grad():
        dictionary.W_enc.copy_(s.W_enc if norms is None else _columns_times(s.W_enc, norms))
        dictionary.b_enc.copy_(_times(s.b_enc, norms))
        dictionary.b_dec.copy_(s.b_dec)
        W_dec = s.W_dec if norms is None else _rows_over(s.W_dec, norms)
        if s.wiring.kind == "clt":
            dictionary.set_decoder_(W_dec.float())
        else:
            dictionary.W_dec.copy_(W_dec)
        if s.W_skip is not None:
            dictionary.W_skip.copy_(s.W_skip)
        if s.r_mag is not None and s.b_mag is not None:
            gated = cast(Gated, dictionary)
            gated.r_mag.copy_(s.r_mag)
            gated.b_mag.copy_(_times(s.b_mag, norms))
        if s.threshold is not None:
            jumprelu = cast(JumpReLU, dictionary)
            least = exceeded(_times(s.threshold, norms), inclusive=s.axes.inclusive)
            # the float32 that is nearest to its exponential is the threshold itself
            jumprelu.log_threshold = nn.Parameter(least.double().log())


def exceeded(threshold: Tensor, *, inclusive: bool) -> Tensor:
    """The float32 numbers that are exceeded exactly where `threshold` is, or is reached; none below 0."""
    nearest = threshold.float()
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    lower = nearest.double() >= threshold if inclusive else nearest.double() > threshold
    return torch.where(lower, below, nearest).clamp_min(0)


def _raw(s: Specification) -> Specification:
    """The same on raw activations, with latents in units of the raw output."""
    s, axes = express.uncentred(s), s.axes
    if axes.normalisation != "scale":
        return s
    into, out = axes.scale, axes.output_scale
    if into != out:  # `b_dec` cannot be subtracted in units of the input and added in others
        s = express.subtracting(s, False)
    return dataclasses.replace(
        s,
        axes=dataclasses.replace(s.axes, normalisation="none", scale=1.0, output_scale=1.0),
        W_enc=s.W_enc if into == out else _times(s.W_enc, into / out),
        b_enc=_times(s.b_enc, 1 / out),
        b_dec=_times(s.b_dec, 1 / out),
        threshold=None if s.threshold is None else _times(s.threshold, 1 / out),
        b_mag=None if s.b_mag is None else _times(s.b_mag, 1 / out),
        W_skip=s.W_skip if s.W_skip is None or into == out else _times(s.W_skip, into / out),
    )


def _norms(s: Specification) -> tuple[Tensor | None, bool]:
    """What latents are multiplied by, None where they stay, and whether rows are unit vectors then."""
    norms = torch.cat([own.double().norm(dim=1) for own in s.W_dec.split(_rows(s.W_dec))])
    unit = bool(((norms - 1).abs() <= UNIT).all())
    if unit or (s.activation == "topk" and not s.axes.choose_by_norm):
        return None, unit
    whole = bool((norms > 0).all())
    if s.activation == "topk":  # a row of zeros competes with a score of zero
        return norms, whole
    return torch.where(norms > 0, norms, 1.0), whole


def _columns_times(matrix: Tensor, norms: Tensor) -> Tensor:
    """The columns of a matrix times `norms`, rounded once; in pieces, for memory's sake."""
    product = torch.empty(matrix.shape)
    pieces = (whole.split(_rows(matrix)) for whole in (matrix, product))
    for own, into in zip(*pieces, strict=True):
        into.copy_(own.double().mul_(norms))
    return product


def _rows_over(matrix: Tensor, norms: Tensor) -> Tensor:
    """The rows of a matrix divided by `norms`, likewise; rows of zeros stay."""
    norms = torch.where(norms > 0, norms, 1.0)
    quotient = torch.empty(matrix.shape)
    pieces = (whole.split(_rows(matrix)) for whole in (matrix, norms, quotient))
    for own, by, into in zip(*pieces, strict=True):
        into.copy_(own.double().div_(by[:, None]))
    return quotient


def _rows(matrix: Tensor) -> int:
    return max(1, PIECE // matrix.shape[1])


def _times(tensor: Tensor, factor: Tensor | float | None) -> Tensor:
    return tensor if factor is None else tensor.double() * factor


def _wrapped(inner: Dictionary[Any], s: Specification) -> Dictionary[Any]:
    assert s.axes.normalisation in ("layer_norm", "unit_rms")
    own = dataclasses.replace(inner.config, d_in=0, d_out=0)
    config = NormalisedConfig(
        d_in=s.d_in, n_latents=s.n_latents, inner=own, normalisation=s.axes.normalisation
    )
    whole = Normalised(config)
    whole.inner = inner
    whole.conventions = inner.conventions
    return whole


def _origin(s: Specification) -> Origin:
    rounded = [
        name
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip")
        if getattr(s, name) is not None and getattr(s, name).dtype == torch.float64
    ]
    remarks = s.remarks
    if rounded:
        remarks = (*remarks, f"{', '.join(rounded)} of float64 were rounded to float32")
    place = s.place
    return Origin(
        site=place.site,
        target=place.target,
        model=place.model,
        metrics={} if place.fvu is None else {"fvu": place.fvu},
        source=f"{s.source} {s.trained_as}".strip(),
        processing="" if place.processing == "unknown" else place.processing,
        context=place.context,
        prepend_bos=place.prepend_bos,
        remarks=remarks,
    )
