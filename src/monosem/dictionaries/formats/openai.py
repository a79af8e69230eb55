"""OpenAI: the `.pt` files of "Scaling and evaluating sparse autoencoders", one for each layer of gpt2.

    pre_bias [d], encoder.weight [F, d], latent_bias [F], decoder.weight [d, F],
    activation "TopK" | "ReLU" | "Identity", activation_state_dict {"k", "postact_fn"},
    stats_last_nonzero, latents_activation_frequency, latents_mean_square [F]

    v = n(x) - pre_bias          latents = activation(encoder.weight @ v + latent_bias)
    x_hat = u(decoder.weight @ latents + pre_bias)

n is layer norm (1e-5 beside the standard deviation, no gains) where the activation is TopK, and nothing
elsewhere: that is how the library's `from_state_dict` decides. Of `…/LOCATION/autoencoders/LAYER.pt` the
folders say the site. Source: github.com/openai/sparse_autoencoder, sparse_autoencoder/model.py.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from monosem.dictionaries.formats import files as reading
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format, Set
from monosem.dictionaries.formats.pieces import Pieces, setting, unsupported
from monosem.dictionaries.formats.specification import Axes, Place, Specification

NAME = "openai"
TENSORS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_mlp": "hook_resid_post",
    "resid_post_attn": "hook_resid_mid",
}
"""What its locations are called here; a version such as `_v5_32k` may follow."""
_PLACE = re.compile(rf"({'|'.join(SITES)})(?:_v\w+)?/autoencoders/(\d+)\.pt")


def read(contents: Mapping[str, Any], *, path: Path | str = "") -> Specification:
    """The dictionary of one file, which lies at `path`."""
    pieces = Pieces(contents, NAME)
    encoder = pieces.take("encoder.weight", None, None)
    n_latents, d = encoder.shape
    weights = {
        "W_enc": encoder.T,
        "W_dec": pieces.take("decoder.weight", d, n_latents).T,
        "b_enc": pieces.take("latent_bias", n_latents),
        "b_dec": pieces.take("pre_bias", d),
    }
    for name in TENSORS:
        reading.check(Path(path), name, contents[name])
    kind = setting(contents, "activation", str, "ReLU")
    common: dict[str, Any] = {"place": _place(path), "trained_as": kind, "source": NAME, **weights}
    if kind == "ReLU":
        return Specification(activation="relu", axes=Axes(subtract_b_dec=True), **common)
    then = setting(contents, "activation_state_dict.postact_fn", str, "ReLU")
    if kind != "TopK" or then != "ReLU":
        what = kind if kind != "TopK" else f"{kind} then {then}"
        why = "its latents may be negative"
        raise unsupported(NAME, what, why, "Choose a dictionary of TopK or ReLU.")
    k = setting(contents, "activation_state_dict.k", int)
    axes = Axes(subtract_b_dec=True, normalisation="layer_norm")
    return Specification(activation="topk", k=k, axes=axes, **common)


def _place(path: Path | str) -> Place:
    match = _PLACE.search(Path(path).as_posix())
    if match is None:
        return Place()
    return Place(model="gpt2", site=f"blocks.{match[2]}.{SITES[match[1]]}", processing="none")


def _recognises(files: Files) -> bool:
    names = files.weights()
    fits = (name.endswith(".pt") and files.keys(name) >= set(TENSORS) for name in names)
    return bool(names) and all(fits)


def _read(files: Files) -> Contents:
    def reader(name: str) -> Specification:
        # only the folder: in the hub's cache the file is a link to another name
        return read(files.contents(name), path=files.path.resolve() / name)

    names = files.weights()
    if len(names) == 1:
        return reader(names[0])
    return Set({Path(name).stem: partial(reader, name) for name in names})


FORMAT = Format(
    name=NAME,
    about="OpenAI's sparse_autoencoder: LAYER.pt",
    recognises=_recognises,
    read=_read,
)
