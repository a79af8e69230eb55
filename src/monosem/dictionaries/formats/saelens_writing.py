"""A specification as SAELens keeps it; what it has no class for is refused with the reason."""

import dataclasses
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from monosem.core.artifact import write_json
from monosem.core.errors import ConfigError
from monosem.dictionaries.formats import express, hooks
from monosem.dictionaries.formats.format import Contents, one
from monosem.dictionaries.formats.saelens_place import PROCESSED
from monosem.dictionaries.formats.specification import Specification
from monosem.dictionaries.saving import steps

NAME, CONFIG, WEIGHTS = "saelens", "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""The version whose layout is written."""
_SAES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_NORMALISATIONS = {
    "none": "none",
    "layer_norm": "layer_norm",
    "unit_rms": "constant_norm_rescale",
}


def written(specification: Specification) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`cfg.json` and the tensors of `sae_weights.safetensors`; `ConfigError` where it has no class."""
    s, kind = _fitting(specification)
    tensors = {"W_enc": s.W_enc, "W_dec": s.W_dec, "b_enc": s.b_enc, "b_dec": s.b_dec}
    if s.W_skip is not None:
        tensors["W_skip"] = s.W_skip.T
    if s.activation == "jumprelu" and s.threshold is not None:
        tensors["threshold"] = s.threshold
    if s.r_mag is not None and s.b_mag is not None:
        tensors |= {"b_gate": tensors.pop("b_enc"), "r_mag": s.r_mag, "b_mag": s.b_mag}
    # it has one type for all; the widest holds them exactly
    dtype = s.W_enc.dtype
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    config: dict[str, Any] = {
        "architecture": kind,
        "d_in": s.d_in,
        "d_sae": s.n_latents,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": s.axes.subtract_b_dec,
        "normalize_activations": _NORMALISATIONS[s.axes.normalisation],
        "reshape_activations": "hook_z" if s.place.site.endswith("hook_z") else "none",
        "metadata": _metadata(s),
    }
    if s.wiring.kind == "transcoder":
        config["d_out"] = s.d_out
    if s.activation == "topk":
        config |= {"k": s.k, "rescale_acts_by_decoder_norm": s.axes.choose_by_norm}
    return config, {name: value.detach().to(dtype).contiguous() for name, value in tensors.items()}


def write(contents: Contents, folder: Path) -> None:
    """Fill `folder` with one dictionary."""
    config, tensors = written(one(contents, NAME))
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def _fitting(specification: Specification) -> tuple[Specification, str]:
    """The same in conventions that SAELens has, and its name for such a kind."""
    s = express.exclusive(express.uncentred(specification), NAME)
    if s.axes.normalisation == "scale":  # published dictionaries read raw activations
        s = express.unscaled(s, NAME)
    if s.wiring.kind in ("crosscoder", "clt"):
        raise ConfigError(
            f"It is a {s.wiring.kind} of several sites, and a dictionary of `{NAME}` is of one site, or "
            "from one to another. Write it as `circuit_tracer` or `monosem`."
        )
    if s.wiring.kind == "sae" and s.W_skip is None and s.d_in == s.d_out:
        return s, _SAES[s.activation]
    if s.activation not in ("relu", "jumprelu"):
        raise ConfigError(
            f"It is a transcoder whose latents are active by `{s.activation}`; `{NAME}` has transcoders of "
            "relu and jumprelu alone. Write it as `circuit_tracer`, `sparsify` or `monosem`."
        )
    if s.axes.normalisation != "none":
        raise ConfigError(
            f"It is a transcoder that normalises each activation (`{s.axes.normalisation}`), which those of "
            f"`{NAME}` do not undo. Write it as `monosem`."
        )
    s = dataclasses.replace(
        express.subtracting(s, False), wiring=dataclasses.replace(s.wiring, kind="transcoder")
    )
    jumps = "jumprelu_" if s.activation == "jumprelu" else ""
    return s, f"{jumps}{'skip_' if s.W_skip is not None else ''}transcoder"


def _metadata(s: Specification) -> dict[str, Any]:
    place = s.place
    stated: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "converted_by": "monosem",
        "model_name": place.model or None,
        "hook_name": hooks.lens(place.site, place.processing, place.model) or None,
        "hook_head_index": None,
        "context_size": place.context or None,
        "prepend_bos": place.prepend_bos,
        "exclude_special_tokens": False,
    }
    if s.wiring.kind == "transcoder":
        target = hooks.lens(place.target, place.processing, place.model)
        stated["hook_name_out"] = target or None
    if place.processing != "unknown":
        done = steps(place.processing)
        kwargs = {key: True for key, word in PROCESSED.items() if word in done}
        stated["model_from_pretrained_kwargs"] = kwargs
    return stated
