"""circuit_tracer: transcoders of all layers, and cross-layer transcoders, as circuit-tracer loads them.

    config.yaml             model_name, model_kind, feature_input_hook, feature_output_hook,
                            activation ("relu", "topk"; else by what the layers hold), k
    "transcoder_set"        layer_0.safetensors, layer_1.safetensors, …, each with W_enc [F, d],
                            W_dec [F, d], b_enc [F], b_dec [d], and where it has them
                            activation_function.threshold [F], W_skip [d_out, d_in]
    "cross_layer_transcoder"  W_enc_0.safetensors, …, with W_enc_0 [F, d], b_enc_0, b_dec_0, threshold_0,
                            and W_dec_0.safetensors, …, with W_dec_0 [F, n_layers - 0, d], for its own
                            layer and those after it

    pre     = x @ W_enc.T + b_enc                    `b_dec` is not subtracted
    latents = relu(pre), or pre where pre > threshold, or pre where among the k largest of its row
    y       = latents @ W_dec + b_dec + x @ W_skip.T

Two conventions differ from those here, and meet where it matters: a threshold below zero lets negative
latents pass, and is refused; "topk" may keep negative pre-activations where fewer than k of a row are
positive, which here are zero. `feature_input_hook` is a TransformerLens name within a block, of a model
without folded norms; of `ln2.hook_normalized` see hooks.py. A cross-layer transcoder has no skip.

A set is read as dictionaries by name (`layer_0`, …), each when it is asked for; circuit-tracer wants all
layers from 0 on, with one number of latents. Where `config.yaml` lists `transcoders`, one for each layer,
these are the set: files of the folder, or of the hub (`hf://organisation/name/path?revision=…`), fetched
when they are asked for; those of Gemma Scope stand there in their own orientation. Those of mwhanna
on the hub are of this layout, beside a
`wandb-config.yaml` that adds nothing. Source: github.com/safety-research/circuit-tracer,
transcoder/*.py, utils/hf_utils.py (state of April 2026); its classes were run beside this on random weights.
"""

import contextlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from monosem.core import hub
from monosem.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError
from monosem.dictionaries.formats import express, hooks
from monosem.dictionaries.formats.cross_layer import Layer, layers_of, stacked
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format, Set
from monosem.dictionaries.formats.pieces import Pieces, filled, setting, unsupported
from monosem.dictionaries.formats.specification import (
    Activation,
    Axes,
    Place,
    Specification,
)
from monosem.dictionaries.saving import steps
from monosem.dictionaries.wiring import Wiring

NAME = "circuit_tracer"
CONFIG = "config.yaml"
SET, CLT = "transcoder_set", "cross_layer_transcoder"
THRESHOLD = "activation_function.threshold"
NEGATIVE = "rows with fewer than k positive pre-activations keep negative ones there, and none here"
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_GEMMA = {
    **{"w_enc": "W_enc", "w_dec": "W_dec", "threshold": THRESHOLD},
    "affine_skip_connection": "W_skip",
}
"""Names of Gemma Scope, whose `W_enc` and skip stand the other way."""
_ENCODER = re.compile(r"W_enc_(\d+)\.safetensors")


def read_layer(config: Mapping[str, Any], tensors: Mapping[str, Any], layer: int) -> Specification:
    """The transcoder of one layer of a set."""
    pieces = Pieces(tensors, NAME)
    skips = "W_skip" in pieces
    pieces.only("W_enc", "W_dec", "b_enc", "b_dec", "W_skip", THRESHOLD, "k")
    W_enc = pieces.take("W_enc", None, None)
    n_latents, d = W_enc.shape
    activation, k = _activation(config, pieces)
    threshold = _threshold(pieces, THRESHOLD, n_latents) if activation == "jumprelu" else None
    return Specification(
        activation=activation,
        axes=Axes(subtract_b_dec=False),
        k=k,
        threshold=threshold,
        W_enc=W_enc.T,
        b_enc=pieces.take("b_enc", n_latents),
        W_dec=pieces.take("W_dec", n_latents, d),
        b_dec=pieces.take("b_dec", d),
        W_skip=pieces.take("W_skip", d, d).T if skips else None,
        wiring=Wiring(kind="transcoder", skip=skips),
        place=_place(config, range(layer, layer + 1)),
        trained_as="transcoder",
        source=NAME,
        remarks=(NEGATIVE,) if activation == "topk" else (),
    )


def read_clt(
    config: Mapping[str, Any],
    encoders: list[Mapping[str, Any]],
    decoders: list[Mapping[str, Any]],
) -> Specification:
    """The cross-layer transcoder of these files, in the order of layers."""
    n_layers = len(encoders)
    layers: list[Layer] = []
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        pieces = Pieces({**encoder, **decoder}, NAME)
        threshold = f"threshold_{i}"
        pieces.only(*(f"{name}_{i}" for name in ("W_enc", "b_enc", "b_dec", "W_dec", "threshold")))
        W_enc = pieces.take(f"W_enc_{i}", None, None)
        n_latents, d = W_enc.shape
        layers.append(
            Layer(
                W_enc=W_enc.T,
                b_enc=pieces.take(f"b_enc_{i}", n_latents),
                W_dec=pieces.take(f"W_dec_{i}", n_latents, n_layers - i, d),
                b_dec=pieces.take(f"b_dec_{i}", d),
                threshold=_threshold(pieces, threshold, n_latents) if threshold in pieces else None,
            )
        )
    weights = stacked(layers)
    return Specification(
        activation="relu" if weights["threshold"] is None else "jumprelu",
        axes=Axes(subtract_b_dec=False),
        place=_place(config, range(n_layers)),
        trained_as="clt",
        source=NAME,
        **weights,
    )


def written_layer(s: Specification) -> dict[str, Tensor]:
    """The tensors of one layer's file."""
    if s.wiring.kind != "transcoder" or s.d_in != s.d_out:
        raise ConfigError(
            f"It is a `{s.wiring.kind}` of {s.d_in} columns to {s.d_out}; `{NAME}` keeps transcoders that "
            "read and write sites of one width. Write it as `saelens` or `sparsify`."
        )
    s = _plain(s)
    tensors = {"W_enc": s.W_enc.T, "W_dec": s.W_dec, "b_enc": s.b_enc, "b_dec": s.b_dec}
    if s.threshold is not None and s.activation == "jumprelu":
        tensors[THRESHOLD] = s.threshold.clamp_min(0)  # relu asks for no less
    if s.W_skip is not None:
        tensors["W_skip"] = s.W_skip.T
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def written_clt(s: Specification) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a cross-layer transcoder."""
    express.refuse_skip(s, NAME)
    s = _plain(s)
    if s.activation == "topk":
        raise ConfigError(
            f"Its latents of all layers compete for {s.k} places; a cross-layer transcoder of `{NAME}` is of "
            "`relu` or `jumprelu`. Write it as `monosem`."
        )
    files: dict[str, dict[str, Tensor]] = {}
    for i, own in enumerate(layers_of(s)):
        encoder = {f"W_enc_{i}": own.W_enc.T, f"b_enc_{i}": own.b_enc, f"b_dec_{i}": own.b_dec}
        if own.threshold is not None:
            encoder[f"threshold_{i}"] = own.threshold.clamp_min(0)
        for name, tensors in ((f"W_enc_{i}", encoder), (f"W_dec_{i}", {f"W_dec_{i}": own.W_dec})):
            kept = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
            files[f"{name}.safetensors"] = kept
    return files


def _recognises(files: Files) -> bool:
    return bool(_layers(files)) or "W_enc_0.safetensors" in files.names or bool(_links(files))


def _links(files: Files) -> list[str]:
    """What `config.yaml` lists, where it does and can be read."""
    if CONFIG not in files or files.only not in ("", CONFIG):
        return []
    with contextlib.suppress(ArtifactCorruptError):
        found: list[Any] = setting(files.yaml(CONFIG), "transcoders", list, [])
        return [str(link) for link in found]
    return []


def _linked(files: Files, link: str) -> dict[str, Tensor]:
    """The tensors of one transcoder that `config.yaml` lists, in the layout of a layer."""
    name = hub.named(link) if link.startswith("hf://") else None
    inside = link in files.names
    if name is None and not inside:
        raise ArtifactMissingError(
            f"`{CONFIG}` lists `{link}`, which is neither a file of `{files.path}` nor an address on the hub "
            "(`hf://organisation/name/path`). Correct it there."
        )
    path = files.path / link if name is None else hub.download(name)
    tensors = Files.at(path).tensors(path.name)
    renamed = {_GEMMA.get(key.lower(), key): tensor for key, tensor in tensors.items()}
    if "threshold" not in tensors:  # a layer as it is, and not one of Gemma Scope
        return tensors
    flipped = ("W_enc", "W_skip")
    return {key: t.T if key in flipped and t.ndim == 2 else t for key, t in renamed.items()}


def _layers(files: Files) -> dict[int, str]:
    found = (_LAYER.fullmatch(name) for name in files.weights())
    return {int(match[1]): match[0] for match in found if match}


def _read(files: Files) -> Contents:
    config = files.yaml(CONFIG) if CONFIG in files else {}
    layers, links = _layers(files), _links(files)
    if links and setting(config, "model_kind", str, SET) == SET:

        def linked(layer: int, link: str) -> Specification:
            return read_layer(config, _linked(files, link), layer)

        return Set({f"layer_{i}": partial(linked, i, link) for i, link in enumerate(links)})
    if not layers:
        return _read_clt(files, config)
    if setting(config, "model_kind", str, SET) == CLT:
        raise ArtifactCorruptError(
            f"`{CONFIG}` says `{CLT}`, but the files are those of a `{SET}`. They are of different "
            "downloads; fetch both again."
        )

    def reader(layer: int, name: str) -> Specification:
        return read_layer(config, files.tensors(name), layer)

    readers = {f"layer_{i}": partial(reader, i, name) for i, name in sorted(layers.items())}
    return reader(*next(iter(layers.items()))) if files.only else Set(readers)


def _read_clt(files: Files, config: Mapping[str, Any]) -> Specification:
    n_layers = sum(1 for name in files.names if _ENCODER.fullmatch(name))
    if n_layers == 0:
        raise ArtifactMissingError(
            f"There is no `W_enc_0.safetensors` in `{files.path}`, whose `{CONFIG}` says `{CLT}`. Fetch the "
            "whole folder; links of a cross-layer transcoder are not followed."
        )
    encoders, decoders = (
        [f"{kind}_{i}.safetensors" for i in range(n_layers)] for kind in ("W_enc", "W_dec")
    )
    missing = [name for name in (*encoders, *decoders) if name not in files.names]
    if missing:
        raise ArtifactMissingError(
            f"There is no `{missing[0]}` among {n_layers} layers in `{files.path}`; every layer has a "
            "`W_enc_…` and a `W_dec_…`. Fetch the whole folder."
        )
    return read_clt(
        config,
        [files.tensors(name) for name in encoders],
        [files.tensors(name) for name in decoders],
    )


def _write(contents: Contents, folder: Path) -> None:
    if isinstance(contents, Specification) and contents.wiring.kind == "clt":
        kept, config = written_clt(contents), _config([contents], CLT)
    else:
        several = [contents] if isinstance(contents, Specification) else list(contents.values())
        written = [written_layer(s) for s in several]
        layers = [hooks.layer_of(s.place.site) for s in several]
        if None in layers or len(set(layers)) < len(layers):
            raise ConfigError(
                f"The layers are {layers}; a set of `{NAME}` has one transcoder for each layer, and its "
                "sites say which. Give each the site it reads."
            )
        kept = {f"layer_{i}.safetensors": own for i, own in zip(layers, written, strict=True)}
        config = _config(several, SET)
    for name, tensors in kept.items():
        safetensors.torch.save_file(tensors, folder / name)
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _config(several: list[Specification], kind: str) -> dict[str, Any]:
    """What `config.yaml` says of all; `ConfigError` where they do not agree."""
    described = [_described(s) for s in several]
    differing = [key for key in described[0] if len({own[key] for own in described}) > 1]
    if differing:
        raise ConfigError(
            f"The dictionaries differ in {', '.join(differing)}; a set of `{NAME}` has one for all. Write "
            "those that agree."
        )
    return {
        "model_kind": kind,
        **{key: v for key, v in described[0].items() if v and key != "latents"},
    }


def _described(s: Specification) -> dict[str, Any]:
    model, processing = s.place.model, s.place.processing
    ends = [names.split(", ")[0] for names in (s.place.site, s.place.target)]
    if "centred" in steps(processing) or hooks.house(ends[0], model)[1] != "layer_norm_folded":
        express.refuse_processing(s, NAME)
    points = [
        hooks.lens(site, processing, model).partition(".")[2].partition(".")[2] for site in ends
    ]
    if not all(points):
        raise ConfigError(
            f"It reads `{s.place.site}` and writes `{s.place.target}`; `{NAME}` needs the names of both, "
            "such as `blocks.3.hook_resid_mid` and `blocks.3.hook_mlp_out`. Record them with it."
        )
    return {
        "model_name": model,
        "feature_input_hook": points[0],
        "feature_output_hook": points[1],
        "scan": model.rpartition("/")[2] or "monosem",
        "activation": s.activation if s.activation in ("relu", "topk") else "",
        "k": s.k if s.activation == "topk" else 0,
        "latents": s.n_latents,
    }


def _plain(s: Specification) -> Specification:
    if s.activation == "gated":
        raise ConfigError(
            f"Its latents are `gated`, which `{NAME}` does not compute. Write it as `saelens`."
        )
    return express.subtracting(express.exclusive(express.plain(s, NAME), NAME), False)


def _activation(config: Mapping[str, Any], pieces: Pieces) -> tuple[Activation, int]:
    stated = setting(config, "activation", str, "")
    if stated not in ("", "relu", "topk", "jump_relu", "jumprelu"):
        raise unsupported(NAME, stated, "it is unknown", "It can be `relu`, `topk` or `jump_relu`.")
    if stated in ("relu", "topk") and THRESHOLD in pieces:
        raise ArtifactCorruptError(
            f"`{CONFIG}` says `{stated}`, but the layer has `{THRESHOLD}`, which only `jump_relu` has. "
            "Correct one of them."
        )
    if stated == "topk" or "k" in pieces:
        return "topk", int(pieces.number("k")) if "k" in pieces else setting(config, "k", int)
    return "jumprelu" if THRESHOLD in pieces or "jump" in stated else "relu", 0


def _threshold(pieces: Pieces, name: str, n_latents: int) -> Tensor:
    found = pieces.tensors.get(name)
    if isinstance(found, Tensor) and found.numel() == 1 and n_latents > 1:
        threshold = filled(pieces.number(name), found.reshape(1).expand(n_latents))
    else:
        threshold = pieces.take(name, n_latents)
    if bool((threshold < 0).any()):
        raise unsupported(
            NAME,
            name,
            f"thresholds down to {float(threshold.min()):g} let negative latents pass",
            "Latents here are never negative; clamp it at 0 if that is what is meant.",
        )
    return threshold


def _place(config: Mapping[str, Any], layers: range) -> Place:
    model = setting(config, "model_name", str, "")
    processing = "none"
    ends: list[str] = []
    for key in ("feature_input_hook", "feature_output_hook"):
        point = setting(config, key, str, "")
        found = [hooks.house(f"blocks.{i}.{point}", model) for i in layers]
        certain = bool(point) and all(site for site, _ in found)
        ends.append(", ".join(site for site, _ in found) if certain else "")
        if certain and found[0][1] != "none":
            processing = found[0][1]
    return Place(
        model=model,
        site=ends[0],
        target=ends[1],
        processing=processing if ends[0] else "unknown",
    )


FORMAT = Format(
    name=NAME,
    about="circuit-tracer: config.yaml with layer_*.safetensors, or W_enc_* and W_dec_* of a CLT",
    recognises=_recognises,
    read=_read,
    write=_write,
)
