"""sparsify: `cfg.json` and `sae.safetensors` of EleutherAI/sparsify, in a folder named by its hookpoint.

    <run>/layers.10/cfg.json           {activation, k, num_latents, expansion_factor, transcode,
                                        skip_connection, normalize_decoder, multi_topk, d_in}
    <run>/layers.10/sae.safetensors    encoder.weight [F, d], encoder.bias [F], W_dec [F, d], b_dec [d],
                                       W_skip [d_out, d_in] where `skip_connection`

    pre     = (x - b_dec) @ encoder.weight.T + encoder.bias               b_dec only without `transcode`
    latents = relu(pre) where it is among the k largest of its row                             "topk"
    latents = relu(pre) where it is the largest of its group, of k groups side by side     "groupmax"
    y       = latents @ W_dec + b_dec + x @ W_skip.T

`num_latents` 0 means `expansion_factor * d_in`; W_dec has the orientation of the encoder. Decoder rows
have norm 1 where `normalize_decoder`, which is of training alone, and so is `multi_topk`. "groupmax" is
read where it is another function too: k 1 is "topk", and k = F is "relu", which is written so as well.
Old files have `signed`, for latents that may be negative; these are refused.

A hookpoint is a module of the base model: its output is the site, and with `transcode` its input is the
site and its output the target. `cfg.json` may name it as `hookpoint`, which the library passes over;
what is written here does. Source: eai-sparsify 1.3.3 (github.com/EleutherAI/sparsify), sparse_coder.py,
fused_encoder.py, config.py.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.dictionaries.formats import express, hooks
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format, Set
from monosem.dictionaries.formats.pieces import Pieces, agree, setting, unsupported
from monosem.dictionaries.formats.specification import Activation, Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

NAME = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def read(
    config: Mapping[str, Any], tensors: Mapping[str, Any], hookpoint: str = ""
) -> Specification:
    """The dictionary of one folder of the name `hookpoint`."""
    pieces = Pieces(tensors, NAME)
    skips = setting(config, "skip_connection", bool, False)
    transcodes = setting(config, "transcode", bool, False)
    pieces.only(*TENSORS, *(("W_skip",) if skips else ()))
    encoder = pieces.take("encoder.weight", None, None)
    n_latents, d = encoder.shape
    agree("d_in", setting(config, "d_in", int), d, "encoder.weight")
    stated = setting(config, "num_latents", int, 0)
    agree("num_latents", stated or _expanded(config, d), n_latents, "encoder.weight")
    activation, k = _activation(config, n_latents)
    point, model = setting(config, "hookpoint", str, hookpoint), setting(config, "model", str, "")
    io = "in_and_out" if transcodes else "out"
    site, target = hooks.pair(point, io, post_norm=hooks.has_post_norm(model))
    return Specification(
        activation=activation,
        axes=Axes(subtract_b_dec=not transcodes),
        k=k,
        W_enc=encoder.T,
        b_enc=pieces.take("encoder.bias", n_latents),
        W_dec=pieces.take("W_dec", n_latents, d),
        b_dec=pieces.take("b_dec", d),
        W_skip=pieces.take("W_skip", d, d).T if skips else None,
        wiring=Wiring(kind="transcoder", skip=skips) if transcodes or skips else Wiring(),
        place=Place(model=model, site=site, target=target, processing="none"),
        trained_as=setting(config, "activation", str, "topk"),
        source=NAME,
        remarks=hooks.doubts(point, model),
    )


def written(specification: Specification) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`cfg.json` and the tensors of `sae.safetensors`; `ConfigError` where it cannot be."""
    express.refuse_processing(specification, NAME)
    s = express.plain(specification, NAME)
    if s.activation not in ("topk", "relu"):
        raise ConfigError(
            f"Latents are active by `{s.activation}`; `{NAME}` has the k largest of a row and nothing else. "
            "Write it as `saelens`."
        )
    if s.d_in != s.d_out or s.wiring.kind in ("crosscoder", "clt"):
        raise ConfigError(
            f"It reads {s.d_in} columns and writes {s.d_out}, as a `{s.wiring.kind}`; `{NAME}` has one "
            "`d_in` and one site. Write it as `saelens` or `circuit_tracer`."
        )
    # with a skip but no other target, it is one of theirs that reads and writes the same site
    same = s.place.target in ("", s.place.site)
    skips = s.W_skip is not None
    transcodes = s.wiring.kind == "transcoder" and not (skips and s.axes.subtract_b_dec and same)
    s = express.subtracting(s, not transcodes)
    norms = torch.linalg.vector_norm(s.W_dec.double(), dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, s.n_latents // s.d_in),
        "normalize_decoder": bool((norms - 1).abs().max() <= express.UNIT),
        "num_latents": s.n_latents,
        "k": s.k if s.activation == "topk" else s.n_latents,
        "multi_topk": False,
        "skip_connection": skips,
        "transcode": transcodes,
        "d_in": s.d_in,
        "hookpoint": hooks.joined(s.place.site, s.place.target),
        "model": s.place.model,
    }
    tensors = {
        "encoder.weight": s.W_enc.T,
        "encoder.bias": s.b_enc,
        "W_dec": s.W_dec,
        "b_dec": s.b_dec,
    }
    if s.W_skip is not None:
        tensors["W_skip"] = s.W_skip.T
    return config, {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _expanded(config: Mapping[str, Any], d: int) -> int:
    return setting(config, "expansion_factor", int) * d


def _activation(config: Mapping[str, Any], n_latents: int) -> tuple[Activation, int]:
    if setting(config, "signed", bool, False):
        why = "its latents may be negative"
        raise unsupported(NAME, "signed", why, "Choose a dictionary that was trained without it.")
    name, k = setting(config, "activation", str, "topk"), setting(config, "k", int)
    if k == n_latents:  # as many groups, or as many places, as there are latents
        return "relu", 0
    if name == "topk" or (name == "groupmax" and k == 1):
        return "topk", k
    why = (
        f"it keeps the largest of each of {k} groups of latents"
        if name == "groupmax"
        else "unknown"
    )
    raise unsupported(NAME, name, why, "Choose a dictionary of `topk`.")


def _recognises(files: Files) -> bool:
    return bool(_hookpoints(files))


def _hookpoints(files: Files) -> dict[str, str]:
    """Folders that hold a dictionary, by hookpoint; the folder itself under its own name."""
    if CONFIG in files and WEIGHTS in files:
        return {files.path.resolve().name: ""}
    folders = (name.rpartition("/") for name in files.names if name.endswith(f"/{WEIGHTS}"))
    return {folder: f"{folder}/" for folder, _, _ in folders if f"{folder}/{CONFIG}" in files}


def _read(files: Files) -> Contents:
    def reader(hookpoint: str, folder: str) -> Specification:
        return read(files.json(folder + CONFIG), files.tensors(folder + WEIGHTS), hookpoint)

    found = _hookpoints(files)
    if list(found.values()) == [""]:
        return reader(*next(iter(found.items())))
    return Set({name: partial(reader, name, folder) for name, folder in found.items()})


def _write(contents: Contents, folder: Path) -> None:
    single = isinstance(contents, Specification)
    for name, specification in ({"": contents} if single else contents).items():
        config, tensors = written(specification)
        place = folder / name
        place.mkdir(exist_ok=True)
        safetensors.torch.save_file(tensors, place / WEIGHTS)
        (place / CONFIG).write_text(json.dumps(config), encoding="utf-8")


FORMAT = Format(
    name=NAME,
    about="sparsify: cfg.json and sae.safetensors, in a folder for each hookpoint",
    recognises=_recognises,
    read=_read,
    write=_write,
)
