"""gemma_scope: the JumpReLU dictionaries of Gemma 2 (`params.npz`) and Gemma 3 (`params.safetensors`).

    Gemma Scope 1     gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz
                      W_enc [d, F], W_dec [F, d], b_enc [F], b_dec [d], threshold [F]
    Gemma Scope 2     gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium/{config.json,
                      params.safetensors}: the same in lower case, and affine_skip_connection [d_in, d_out]
    several layers    …/clt/width_262k_l0_medium/params_layer_0.safetensors, …; and …/crosscoder/
                      layer_7_13_17_22_width_65k_l0_medium/…: w_enc [d, F], w_dec [F, n_layers, d]

    pre     = x @ W_enc + b_enc                            `b_dec` is not subtracted
    latents = relu(pre) where pre > threshold
    y       = latents @ W_dec + b_dec + x @ affine_skip_connection

`config.json` (architecture, model_name, hf_hook_point_in, hf_hook_point_out, affine_connection, type) says
where one of Gemma 3 belongs; where it is missing, and for Gemma 2, the path does: repository and folders
must keep their names. Sites:

    res, resid_post    blocks.L.hook_resid_post
    mlp, mlp_out       blocks.L.hook_mlp_out: behind the norm after the MLP, what is added to the residual
    att, attn_out      blocks.L.attn.hook_z, heads side by side: what enters the output projection
    transcoders        blocks.L.ln2.hook_normalized to blocks.L.hook_mlp_out; of Gemma 2 the input is before
                       the norm's gain, which was folded into the MLP (2408.05147v2, page 18)
    embedding          hook_embed. It was trained on rows of the embedding matrix, and a Gemma multiplies
                       these by √d: x / √d is read, and what is written is multiplied by √d, `b_dec` too
                       (SAELens leaves `b_dec` as it is)
    clt                all layers, each as a transcoder; decoder vectors for earlier layers are not read,
                       and where they are not zero that is remarked
    crosscoder         a latent reads one of its sites and writes all: a crosscoder whose encoder has
                       zeros ("weakly causal" is a matter of its weights)

Sources: huggingface.co/google/gemma-scope, -2b-pt-transcoders and -2 (README files); Lieberum et al. 2024,
arXiv:2408.05147; loaders of SAELens 6.54 and circuit-tracer. Not verified here on the published files.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from monosem.core.errors import ArtifactMissingError
from monosem.dictionaries.formats import hooks
from monosem.dictionaries.formats.cross_layer import Layer, stacked
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Format
from monosem.dictionaries.formats.pieces import Pieces, agree, setting, unsupported
from monosem.dictionaries.formats.specification import Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

NAME = "gemma_scope"
NPZ, SAFETENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
SKIP = "affine_skip_connection"
CONTEXT = 1024
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_SECOND = re.compile(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)")
_SPLIT = re.compile(r"params_layer_(\d+)\.safetensors")
_POINTS = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "attn.hook_z",
}
_READ, _WRITTEN = "ln2.hook_normalized", "hook_mlp_out"


def read_first(tensors: Mapping[str, Any], path: str = "") -> Specification:
    """One of Gemma 2, from its arrays and the path of its folder."""
    pieces = Pieces({_upper(name): value for name, value in tensors.items()}, NAME)
    pieces.only("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    place = _first_place(path)
    weights = _weights(pieces)
    d = weights["W_enc"].shape[0]
    embeds = place.site == "hook_embed"
    scale = 1 / math.sqrt(d) if embeds else 1.0
    return Specification(
        activation="jumprelu",
        axes=Axes(
            subtract_b_dec=False,
            normalisation="scale" if embeds else "none",
            scale=scale,
            output_scale=scale,
        ),
        wiring=Wiring(kind="transcoder" if place.target else "sae"),
        place=place,
        source=NAME,
        **weights,
    )


def read_second(
    config: Mapping[str, Any], tensors: Mapping[str, Any], path: str = ""
) -> Specification:
    """One of Gemma 3 at one layer, from its tensors, its configuration and the path of its folder."""
    _check(config)
    pieces = Pieces({_upper(name): value for name, value in tensors.items()}, NAME)
    skips = SKIP in pieces
    pieces.only("W_enc", "W_dec", "b_enc", "b_dec", "threshold", SKIP)
    weights = _weights(pieces)
    d_in, d_out = weights["W_enc"].shape[0], weights["W_dec"].shape[1]
    stated = setting(config, "affine_connection", bool, skips)
    agree("affine_connection", int(stated), int(skips), SKIP)
    width = setting(config, "width", int, len(weights["b_enc"]))
    agree("width", width, len(weights["b_enc"]), "b_enc")
    place = _second_place(config, path)
    transcodes = bool(place.target) or skips or setting(config, "type", str, "") == "transcoder"
    return Specification(
        activation="jumprelu",
        axes=Axes(subtract_b_dec=False),
        W_skip=pieces.take(SKIP, d_in, d_out) if skips else None,
        wiring=Wiring(kind="transcoder", skip=skips) if transcodes else Wiring(),
        place=place,
        source=NAME,
        **weights,
    )


def read_layers(
    config: Mapping[str, Any], layers: list[Mapping[str, Any]], path: str = ""
) -> Specification:
    """One of Gemma 3 at several layers, from the tensors of each: a "clt" or a "crosscoder"."""
    _check(config)
    named = next((part for part in ("crosscoder", "clt") if f"/{part}/" in f"/{path}/"), "")
    kind = setting(config, "type", str, named)
    if kind not in ("clt", "crosscoder"):
        raise ArtifactMissingError(
            f"`{path}` does not say whether its {len(layers)} layers are a cross-layer transcoder or a "
            f"crosscoder: `{CONFIG}` has no `type` of `clt` or `crosscoder`. Write it there, or keep the "
            "folder's name."
        )
    found = [_layer(tensors, len(layers)) for tensors in layers]
    place = _layers_place(config, kind, len(layers), path)
    remarks = _backward(found) if kind == "clt" else ()
    weights = _crossed(found) if kind == "crosscoder" else stacked(_causal(found))
    return Specification(
        activation="jumprelu",
        axes=Axes(subtract_b_dec=False),
        place=place,
        trained_as=kind,
        source=NAME,
        remarks=remarks,
        **weights,
    )


def _weights(pieces: Pieces) -> dict[str, Any]:
    W_enc = pieces.take("W_enc", None, None)
    n_latents = W_enc.shape[1]
    W_dec = pieces.take("W_dec", n_latents, None)
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": pieces.take("b_enc", n_latents),
        "b_dec": pieces.take("b_dec", W_dec.shape[1]),
        "threshold": pieces.take("threshold", n_latents),
    }


def _layer(tensors: Mapping[str, Any], n_layers: int) -> Layer:
    """One layer, with decoder vectors for all sites."""
    pieces = Pieces(tensors, NAME)
    pieces.only("w_enc", "w_dec", "b_enc", "b_dec", "threshold", SKIP)
    w_enc = pieces.take("w_enc", None, None)
    d, n_latents = w_enc.shape
    w_dec = pieces.take("w_dec", n_latents, n_layers, None)
    return Layer(
        W_enc=w_enc,
        b_enc=pieces.take("b_enc", n_latents),
        W_dec=w_dec,
        b_dec=pieces.take("b_dec", w_dec.shape[2]),
        threshold=pieces.take("threshold", n_latents),
        W_skip=pieces.take(SKIP, d, w_dec.shape[2]) if SKIP in pieces else None,
    )


def _backward(layers: list[Layer]) -> tuple[str, ...]:
    """Says that layers write to those before them, which none does that is run from first to last."""
    names = [str(i) for i, own in enumerate(layers) if bool(own.W_dec[:, :i].any())]
    if not names:
        return ()
    return (
        f"decoder vectors of layers {', '.join(names)} for earlier layers are not zero and were not read: a "
        "later layer cannot write there",
    )


def _causal(layers: list[Layer]) -> list[Layer]:
    return [
        Layer(
            W_enc=own.W_enc,
            b_enc=own.b_enc,
            W_dec=own.W_dec[:, i:],
            b_dec=own.b_dec,
            threshold=own.threshold,
            W_skip=own.W_skip,
        )
        for i, own in enumerate(layers)
    ]


def _crossed(layers: list[Layer]) -> dict[str, Any]:
    if any(own.W_skip is not None for own in layers):
        why = "a crosscoder writes what it reads, and a skip would be all of it"
        raise unsupported(NAME, SKIP, why, "Choose one without `affine` in its name.")
    widths = tuple(len(own.W_enc) for own in layers)
    return {
        "W_enc": torch.block_diag(*(own.W_enc for own in layers)),
        "b_enc": torch.cat([own.b_enc for own in layers]),
        "W_dec": torch.cat([own.W_dec.flatten(1) for own in layers]),
        "b_dec": torch.cat([own.b_dec for own in layers]),
        "threshold": torch.cat([own.threshold for own in layers if own.threshold is not None]),
        "wiring": Wiring(kind="crosscoder", widths_in=widths, widths_out=widths),
    }


def _check(config: Mapping[str, Any]) -> None:
    architecture = setting(config, "architecture", str, "jump_relu")
    if architecture != "jump_relu":
        raise unsupported(NAME, architecture, "all known are `jump_relu`", "Fetch it again.")


def _first_place(path: str) -> Place:
    repository, layer = _REPOSITORY.search(path), re.search(r"layer_(\d+)", path)
    if repository is None:
        return Place()
    size, kind, what = repository.groups()
    model = f"google/gemma-2-{size}" + ("-it" if kind == "it" else "")
    common: dict[str, Any] = {"model": model, "context": CONTEXT, "prepend_bos": True}
    if "embedding" in path:
        return Place(site="hook_embed", processing="none", **common)
    if layer is None:
        return Place(**common)
    block = f"blocks.{layer[1]}."
    if what == "transcoders":
        sites = {"site": block + _READ, "target": block + _WRITTEN}
        return Place(processing="layer_norm_folded", **sites, **common)
    return Place(site=block + _POINTS[what], processing="none", **common)


def _second_place(config: Mapping[str, Any], path: str) -> Place:
    read, written = (setting(config, f"hf_hook_point_{end}", str, "") for end in ("in", "out"))
    site, target = (_of_point(point) for point in (read, written))
    if not read:
        site, target = _of_folder(path)
    return Place(
        model=_model(config, path),
        site=site,
        target="" if target == site else target,
        processing="none",
        context=CONTEXT,
        prepend_bos=True,
    )


def _of_point(point: str) -> str:
    module, _, end = point.rpartition(".")
    return hooks.of_module(module, reads=end, post_norm=True) if end in ("input", "output") else ""


def _of_folder(path: str) -> tuple[str, str]:
    layer = re.search(r"layer_(\d+)_", path)
    if layer is None:
        return "", ""
    block = f"blocks.{layer[1]}."
    if re.search(r"(?:^|/)transcoder", path):
        return block + _READ, block + _WRITTEN
    point = next((p for name, p in _POINTS.items() if "_" in name and f"{name}" in path), "")
    return (block + point if point else ""), ""


def _layers_place(config: Mapping[str, Any], kind: str, n_layers: int, path: str) -> Place:
    listed = re.search(r"layer_(\d+(?:_\d+)+)_width", path)
    layers = [int(i) for i in listed[1].split("_")] if listed else []
    if kind == "clt":
        layers = list(range(n_layers))
    points = (_READ, _WRITTEN) if kind == "clt" else ("hook_resid_post", "")
    if len(layers) != n_layers:
        points = ("", "")
    site, target = (", ".join(f"blocks.{i}.{p}" for i in layers) if p else "" for p in points)
    return Place(
        model=_model(config, path),
        site=site,
        target=target,
        processing="none",
        context=CONTEXT,
        prepend_bos=True,
    )


def _model(config: Mapping[str, Any], path: str) -> str:
    """The model's name on the hub, where that of 270M is without `-pt`, as those of others are not."""
    repository = _SECOND.search(path)
    found = f"gemma-3-{repository[1]}-{repository[2]}" if repository else ""
    found = setting(config, "model_name", str, found).replace("-v3-", "-3-")
    found = found.removesuffix("-pt") if "270m" in found else found
    return found if "/" in found or not found else f"google/{found}"


def _upper(name: str) -> str:
    return name.replace("w_", "W_", 1) if name.startswith("w_") else name


def _recognises(files: Files) -> bool:
    names = (files.only,) if files.only else files.names
    return any(name in (NPZ, SAFETENSORS) or _SPLIT.fullmatch(name) for name in names)


def _read(files: Files) -> Specification:
    path = files.path.resolve().as_posix()
    if NPZ in files and files.only in ("", NPZ):
        return read_first(files.tensors(NPZ), path)
    config = files.json(CONFIG) if CONFIG in files else {}
    if SAFETENSORS in files:
        return read_second(config, files.tensors(SAFETENSORS), path)
    matches = (_SPLIT.fullmatch(name) for name in files.names)
    split = {int(match[1]): match[0] for match in matches if match}
    if not split:
        raise ArtifactMissingError(
            f"There is no `{NPZ}`, `{SAFETENSORS}` or `params_layer_….safetensors` in `{files.path}`: it is "
            "no dictionary of Gemma Scope. Name another layout, or none."
        )
    missing = sorted(set(range(max(split) + 1)) - set(split))
    if missing or files.only:
        raise ArtifactMissingError(
            f"`{files.path / files.only}` has layers {sorted(split)} of several that are one dictionary. "
            "Fetch all of its `params_layer_….safetensors`, and pass their folder."
        )
    return read_layers(config, [files.tensors(split[i]) for i in sorted(split)], path)


FORMAT = Format(
    name=NAME,
    about="Gemma Scope 1 and 2: params.npz, params.safetensors, params_layer_*.safetensors",
    recognises=_recognises,
    read=_read,
)
