"""llamascopium: dictionaries of OpenMOSS's library since 2025, Llama-Scope-R1-Distill among them.

    config.json               sae_type, d_model, expansion_factor, act_fn, top_k, norm_activation,
                              sparsity_include_decoder_norm, use_decoder_bias, use_glu_encoder, and the sites
    sae_weights.safetensors   (or .pt, under the key `sae`), with dataset_average_activation_norm.<site>

    sae          hook_point_in, hook_point_out; W_E [d, F], b_E [F], W_D [F, d], b_D [d];
                 activation_function.log_jumprelu_threshold [F]. Those of early 2025 have encoder.weight
                 [F, d], decoder.weight [d, F], biases, and log_jumprelu_threshold
    crosscoder   hook_points; W_E [n, d, F], b_E [n, F], W_D [n, F, d], b_D [n, d]
    clt          hook_points_in, hook_points_out; W_E [n, d, F], b_E [n, F], W_D.i [i + 1, F, d], b_D.i [d]:
                 decoders from layers 0 to i into layer i; log_jumprelu_threshold [n, F]

    s       = √d / dataset_average_activation_norm of a site                 norm_activation "dataset-wise"
            = √d / ‖x‖ "token-wise", 1 "inference"
    pre     = (x * s_in) @ W_E + b_E, summed over the sites of a crosscoder;   `b_D` is not subtracted
    score   = pre * ‖W_D row‖, or pre without `sparsity_include_decoder_norm`
    latents = pre where score > 0 "relu", where score > exp(log_jumprelu_threshold) "jumprelu", where score
              is among the k largest of its row "topk" (of all layers of a clt "layertopk")
    y       = (latents @ W_D + b_D) / s_out

Latents are chosen by score, and are reported without the norm. A crosscoder scores once for each site, by
the norm of that site's rows, so that a latent may be active for one site and not for another: this is read
where it cannot happen ("relu", or rows of one norm). What a clt chooses for each layer by itself ("topk")
and what anything chooses by batch is refused, as are `batch-wise` norms, `use_glu_encoder`, Lorsa and MOLT.
In "inference" the recorded norms are not used, and may be anything.

Source: github.com/OpenMOSS/Language-Model-SAEs, src/llamascopium/models/*.py (2.0.0b34), and
src/lm_saes/sae.py at b5c5bb22 (February 2025). These classes were run
beside this on random weights; not verified on published files.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError
from monosem.dictionaries.formats import express, hooks
from monosem.dictionaries.formats.cross_layer import Layer, stacked
from monosem.dictionaries.formats.files import Files, check
from monosem.dictionaries.formats.format import Format
from monosem.dictionaries.formats.pieces import Pieces, agree, setting, unsupported
from monosem.dictionaries.formats.specification import Activation, Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

NAME = "llamascopium"
CONFIG, LANGUAGE_MODEL = "config.json", "lm_config.json"
WEIGHTS = ("sae_weights.safetensors", "sae_weights.pt")
NORM = "dataset_average_activation_norm."
THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
OLD = {
    "W_E": "encoder.weight",
    "b_E": "encoder.bias",
    "W_D": "decoder.weight",
    "b_D": "decoder.bias",
}
CHOICES: dict[str, Activation] = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk"}


def read(config: Mapping[str, Any], tensors: Mapping[str, Any], model: str = "") -> Specification:
    """The dictionary of these files, trained on the language model of this name."""
    kind = setting(config, "sae_type", str, "sae")
    readers = {"sae": _sae, "crosscoder": _crosscoder, "clt": _clt}
    if kind not in readers:
        why = f"its latents are not those of a linear encoder and decoder; {', '.join(readers)} are"
        raise unsupported(NAME, kind, why, "Choose a dictionary of another `sae_type`.")
    if setting(config, "use_glu_encoder", bool, False):
        why = "its pre-activations are gated by a second encoder"
        raise unsupported(NAME, "use_glu_encoder", why, "Choose one without it.")
    own = {_new(name): tensor for name, tensor in tensors.items() if not name.startswith(NORM)}
    if "encoder.weight" in tensors:
        own = {n: t.T if n in ("W_E", "W_D") and _is_matrix(t) else t for n, t in own.items()}
    norms = {name: tensor for name, tensor in tensors.items() if name.startswith(NORM)}
    found = readers[kind](config, Pieces(own, NAME), Pieces(norms, NAME))
    d, n_latents = len(found.b_dec) // max(1, len(found.wiring.widths_out)), found.n_latents
    agree("d_model", setting(config, "d_model", int), d, "W_D")
    each = n_latents // len(found.wiring.widths_in) if kind == "clt" else n_latents
    factor = setting(config, "expansion_factor", float)
    stated = int(d * factor) if abs(factor) < 1e9 else -1
    agree("d_model * expansion_factor", stated, each, "W_E")
    return dataclasses.replace(
        found, place=_place(found.place, model), trained_as=kind, source=NAME
    )


def _sae(config: Mapping[str, Any], pieces: Pieces, norms: Pieces) -> Specification:
    activation, k = _choice(config, "topk")
    biased = setting(config, "use_decoder_bias", bool, True)
    pieces.only("W_E", "b_E", "W_D", *(("b_D",) if biased else ()), *_thresholds(activation))
    W_E = pieces.take("W_E", None, None)
    d, n_latents = W_E.shape
    W_D = pieces.take("W_D", n_latents, d)
    ends = [setting(config, f"hook_point_{end}", str) for end in ("in", "out")]
    rows = torch.linalg.vector_norm(W_D.double(), dim=1)
    axes = _axes(config, norms, ends, d)
    return Specification(
        activation=activation,
        axes=dataclasses.replace(axes, choose_by_norm=activation == "topk" and _by_norm(config)),
        k=k,
        threshold=_threshold(config, pieces, rows) if activation == "jumprelu" else None,
        W_enc=W_E,
        b_enc=pieces.take("b_E", n_latents),
        W_dec=W_D,
        b_dec=pieces.take("b_D", d) if biased else W_D.new_zeros(d),
        wiring=Wiring(kind="transcoder" if ends[0] != ends[1] else "sae"),
        place=Place(site=ends[0], target=ends[1] if ends[0] != ends[1] else ""),
    )


def _crosscoder(config: Mapping[str, Any], pieces: Pieces, norms: Pieces) -> Specification:
    activation, k = _choice(config, "topk")
    pieces.only("W_E", "b_E", "W_D", "b_D", *_thresholds(activation))
    W_E = pieces.take("W_E", None, None, None)
    n_sites, d, n_latents = W_E.shape
    W_D, b_D = pieces.take("W_D", n_sites, n_latents, d), pieces.take("b_D", n_sites, d)
    points = _points(config, "hook_points", n_sites)
    rows = torch.linalg.vector_norm(W_D.double(), dim=2)
    apart = float(((rows - rows[0]).abs() / rows.mean().clamp_min(1e-30)).max())
    if activation != "relu" and apart > express.UNIT:
        why = (
            "a latent is chosen for each site by that site's norm, and may be active for one alone"
        )
        raise unsupported(NAME, f"crosscoder of {activation}", why, "Choose one of `relu`.")
    scales = _each_scale(config, norms, points, d)
    if activation == "topk" and len(set(scales)) > 1:
        why = "latents compete in units of each site's own scale"
        raise unsupported(NAME, "crosscoder of topk", why, "Choose one in `inference` mode.")
    widths = (d,) * n_sites
    return Specification(
        activation=activation,
        axes=Axes(subtract_b_dec=False, choose_by_norm=activation == "topk" and _by_norm(config)),
        k=k,
        threshold=_threshold(config, pieces, rows[0]) if activation == "jumprelu" else None,
        W_enc=torch.cat([_times(own, s) for own, s in zip(W_E, scales, strict=True)]),
        b_enc=pieces.take("b_E", n_sites, n_latents).sum(0),
        W_dec=torch.cat([_times(own, 1 / s) for own, s in zip(W_D, scales, strict=True)], 1),
        b_dec=torch.cat([_times(own, 1 / s) for own, s in zip(b_D, scales, strict=True)]),
        wiring=Wiring(kind="crosscoder", widths_in=widths, widths_out=widths),
        place=Place(site=", ".join(points)),
    )


def _clt(config: Mapping[str, Any], pieces: Pieces, norms: Pieces) -> Specification:
    activation, k = _choice(config, "layertopk")
    W_E = pieces.take("W_E", None, None, None)
    n_layers, d, n_latents = W_E.shape
    names = [f"{part}.{i}" for part in ("W_D", "b_D") for i in range(n_layers)]
    pieces.only("W_E", "b_E", *names, *_thresholds(activation))
    into = [pieces.take(f"W_D.{i}", i + 1, n_latents, d) for i in range(n_layers)]
    reads, writes = (_points(config, f"hook_points_{end}", n_layers) for end in ("in", "out"))
    s_in, s_out = (_each_scale(config, norms, ends, d) for ends in (reads, writes))
    if activation == "topk" and _by_norm(config) and len({*s_in, *s_out}) > 1:
        why = "latents compete in units of each site's own scale"
        raise unsupported(NAME, "layertopk", why, "Choose one in `inference` mode.")
    b_E = pieces.take("b_E", n_layers, n_latents)
    layers: list[Layer] = []
    for i in range(n_layers):
        vectors = torch.stack([into[to][i] for to in range(i, n_layers)], 1)
        rows = torch.linalg.vector_norm(vectors.double().flatten(1), dim=1)
        undo = torch.tensor(s_out[i:], dtype=torch.float64)[:, None]
        layers.append(
            Layer(
                W_enc=_times(W_E[i], s_in[i]),
                b_enc=b_E[i],
                W_dec=(vectors.double() / undo).to(vectors.dtype),
                b_dec=_times(pieces.take(f"b_D.{i}", d), 1 / s_out[i]),
                threshold=_threshold(config, pieces, rows, (i, n_layers))
                if activation == "jumprelu"
                else None,
            )
        )
    by_norm = activation == "topk" and _by_norm(config)
    return Specification(
        activation=activation,
        axes=Axes(subtract_b_dec=False, choose_by_norm=by_norm),
        k=k,
        place=Place(site=", ".join(reads), target=", ".join(writes)),
        **stacked(layers),
    )


def _choice(config: Mapping[str, Any], by_row: str) -> tuple[Activation, int]:
    """Which latents are active; `by_row` is what the library calls the k largest of a row."""
    name = setting(config, "act_fn", str, "relu").lower()
    if name == by_row:
        return "topk", setting(config, "top_k", int)
    if name in ("relu", "jumprelu"):
        return CHOICES[name], 0
    why = "which latents are active does not depend on their own row alone, or on one layer of several"
    instead = "Convert it to `jumprelu` with the library's `topk_to_jumprelu_conversion` first."
    raise unsupported(NAME, name, why, instead)


def _thresholds(activation: Activation) -> tuple[str, ...]:
    return ("threshold",) if activation == "jumprelu" else ()


def _by_norm(config: Mapping[str, Any]) -> bool:
    return setting(config, "sparsity_include_decoder_norm", bool, True)


def _threshold(
    config: Mapping[str, Any],
    pieces: Pieces,
    rows: Float[Tensor, " n_latents"],
    layer: tuple[int, int] = (0, 0),
) -> Float[Tensor, " n_latents"]:
    """Thresholds of `pre`, from logarithms of those of the score; `layer` is which one of how many."""
    i, n_layers = layer
    logarithms = pieces.take("threshold", *((n_layers,) if n_layers else ()), len(rows))
    found = (logarithms[i] if n_layers else logarithms).double().exp().float()
    return express.of_scores(found, rows) if _by_norm(config) else found


def _axes(config: Mapping[str, Any], norms: Pieces, ends: Sequence[str], d: int) -> Axes:
    mode = setting(config, "norm_activation", str, "dataset-wise")
    if mode == "token-wise" and ends[0] == ends[1]:
        return Axes(subtract_b_dec=False, normalisation="unit_rms")
    into, out = _each_scale(config, norms, ends, d)
    if into == out == 1.0:
        return Axes(subtract_b_dec=False)
    return Axes(subtract_b_dec=False, normalisation="scale", scale=into, output_scale=out)


def _each_scale(
    config: Mapping[str, Any], norms: Pieces, points: Sequence[str], d: int
) -> list[float]:
    mode = setting(config, "norm_activation", str, "dataset-wise")
    if mode == "inference":
        return [1.0] * len(points)
    if mode != "dataset-wise":
        why = "the norm of other activations than the one at hand goes into it"
        raise unsupported(NAME, mode, why, "Choose one in `dataset-wise` or `inference` mode.")
    found = [norms.number(NORM + point) for point in points]
    if not 0 < min(found) <= max(found) < math.inf:
        raise ArtifactCorruptError(
            f"The norms of activations (`{NORM}…`) are {found}; they must be positive numbers. Fetch the "
            "file again."
        )
    return [math.sqrt(d) / norm for norm in found]


def _points(config: Mapping[str, Any], key: str, n: int) -> list[str]:
    found = setting(config, key, list)
    agree(f"the number of `{key}`", len(found), n, "W_E")
    return [str(point) for point in found]


def _is_matrix(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1.0 else (tensor.double() * factor).to(tensor.dtype)


def _place(found: Place, model: str) -> Place:
    ends = [
        [hooks.house(name, model) for name in own.split(", ")] for own in (found.site, found.target)
    ]
    site, target = (", ".join(name for name, _ in own) for own in ends)
    return dataclasses.replace(
        found, model=model, site=site, target=target, processing=ends[0][0][1]
    )


def _new(name: str) -> str:
    """The name of today, and "threshold" for what both versions call by long names."""
    if name in THRESHOLDS:
        return "threshold"
    return next((new for new, old in OLD.items() if old == name), name)


def _recognises(files: Files) -> bool:
    if CONFIG not in files or not any(
        name in files for name in (*WEIGHTS, "sae_weights.dcp/.metadata")
    ):
        return False
    return not any(name.endswith("cfg.json") for name in files.names)


def _read(files: Files) -> Specification:
    name = next((name for name in WEIGHTS if name in files), "")
    if not name:
        why = "it is torch's distributed checkpoint, which holds pickles"
        raise unsupported(NAME, "sae_weights.dcp", why, "Save it as `sae_weights.safetensors`.")
    tensors: dict[str, Any]
    if name.endswith(".pt"):
        tensors = setting(files.contents(name), "sae", dict)
    else:
        tensors = dict(files.tensors(name, finite=False))
    for key, tensor in tensors.items():
        if isinstance(tensor, Tensor) and not key.startswith(NORM):
            check(files.path / name, key, tensor)
    model = ""
    if LANGUAGE_MODEL in files:
        model = setting(files.json(LANGUAGE_MODEL), "model_name", str, "")
    return read(files.json(CONFIG), tensors, model)


FORMAT = Format(
    name=NAME,
    about="Llamascopium and Llama-Scope-R1-Distill: config.json and sae_weights.safetensors",
    recognises=_recognises,
    read=_read,
)
