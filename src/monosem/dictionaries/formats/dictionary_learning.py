"""dictionary_learning: `ae.pt` and `config.json` of saprmarks/dictionary_learning and its forks.

    trainer_0/ae.pt         state dictionary of one class, on the CPU
    trainer_0/config.json   {"trainer": {dict_class, k, layer, lm_name, submodule_name, …},
                             "buffer": {io, ctx_len, …}}

    AutoEncoder             bias [d], encoder.weight [F, d], encoder.bias [F], decoder.weight [d, F]
    AutoEncoderNew          encoder.weight, encoder.bias, decoder.weight, decoder.bias [d]
    GatedAutoEncoder        decoder_bias [d], encoder.weight, gate_bias, r_mag, mag_bias [F], decoder.weight
    JumpReluAutoEncoder     W_enc [d, F], b_enc, W_dec [F, d], b_dec, threshold [F]
    AutoEncoderTopK         k, threshold, encoder.weight, encoder.bias, decoder.weight, b_dec
    BatchTopKSAE            the same
    MatryoshkaBatchTopKSAE  k, threshold, group_sizes, W_enc, b_enc, W_dec, b_dec
    CrossCoder              encoder.weight [L, d, F], encoder.bias, decoder.weight [L, F, d],
                            decoder.bias [L, d]; that of science-of-finetuning

Conventions: raw activations (what `normalize_activations` divided by is folded when it saves); `bias`,
`decoder_bias` and `b_dec` are subtracted, but not in AutoEncoderNew, JumpReluAutoEncoder and CrossCoder;
thresholds must be exceeded. AutoEncoderTopK keeps k latents of each row, and its `threshold` is not read.
BatchTopKSAE and Matryoshka keep what exceeds `threshold`. That is -1 until the step `threshold_start_step`
of training: the library then keeps all positive latents, as it never did in training, so such a file is
refused. `AutoEncoder.from_pretrained` gives decoder columns norm 1, and scales latents, unless told not
to; here they stay as they are in the file.

The layer's output is the site unless `io` says otherwise. Source: dictionary_learning 0.1.0
(github.com/saprmarks/dictionary_learning), dictionary.py, trainers/*.py, utils.py.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError, ConfigError
from monosem.dictionaries.formats import express, hooks
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format, one
from monosem.dictionaries.formats.pieces import (
    Pieces,
    agree,
    filled,
    listed,
    setting,
    unsupported,
)
from monosem.dictionaries.formats.specification import Activation, Axes, Place, Specification
from monosem.dictionaries.wiring import Wiring

NAME = "dictionary_learning"
CONFIG, WEIGHTS = "config.json", "ae.pt"


@dataclass(frozen=True, kw_only=True)
class Class:
    """One of its classes: what it computes, and how it calls it."""

    activation: Activation
    """Which latents are active."""
    trainer: str
    """The class that trains it, as `config.json` names it."""
    vectors: dict[str, str]
    """Its name of each of our vectors."""
    subtract: bool = True
    """Whether what it adds to the output is subtracted from the input."""
    linear: bool = True
    """Whether it has `encoder.weight` [F, d] and `decoder.weight` [d, F], or `W_enc` and `W_dec`."""
    counts: tuple[str, ...] = ()
    """Tensors of training beside them."""

    @property
    def tensors(self) -> set[str]:
        """Names of all its tensors."""
        weights = ("encoder.weight", "decoder.weight") if self.linear else ("W_enc", "W_dec")
        return {*weights, *self.vectors.values(), *self.counts}


_LINEAR = {"b_enc": "encoder.bias", "b_dec": "b_dec"}
_DIRECT = {"b_enc": "b_enc", "b_dec": "b_dec"}
_GATES = {"b_enc": "gate_bias", "r_mag": "r_mag", "b_mag": "mag_bias", "b_dec": "decoder_bias"}
CLASSES: dict[str, Class] = {
    "AutoEncoder": Class(
        activation="relu", trainer="StandardTrainer", vectors=_LINEAR | {"b_dec": "bias"}
    ),
    "AutoEncoderNew": Class(
        activation="relu",
        trainer="StandardTrainer",
        vectors=_LINEAR | {"b_dec": "decoder.bias"},
        subtract=False,
    ),
    "GatedAutoEncoder": Class(activation="gated", trainer="GatedSAETrainer", vectors=_GATES),
    "JumpReluAutoEncoder": Class(
        activation="jumprelu",
        trainer="JumpReluTrainer",
        vectors=_DIRECT | {"threshold": "threshold"},
        subtract=False,
        linear=False,
    ),
    "AutoEncoderTopK": Class(
        activation="topk", trainer="TopKTrainer", vectors=_LINEAR, counts=("k", "threshold")
    ),
    "BatchTopKSAE": Class(
        activation="jumprelu",
        trainer="BatchTopKTrainer",
        vectors=_LINEAR,
        counts=("k", "threshold"),
    ),
    "MatryoshkaBatchTopKSAE": Class(
        activation="jumprelu",
        trainer="MatryoshkaBatchTopKTrainer",
        vectors=_DIRECT,
        linear=False,
        counts=("k", "threshold", "group_sizes"),
    ),
    "CrossCoder": Class(
        activation="relu",
        trainer="CrossCoderTrainer",
        vectors=_LINEAR | {"b_dec": "decoder.bias"},
        subtract=False,
    ),
}


def read(config: Mapping[str, Any] | None, tensors: Mapping[str, Any]) -> Specification:
    """The dictionary of one `ae.pt`, and of the `config.json` beside it, if there is one."""
    refuse_backup(tensors)
    pieces = Pieces(tensors, NAME)
    name = _class(config, pieces)
    if name == "CrossCoder" and "threshold" in pieces:
        why = "its latents compete by norms of their decoders, and how these are taken is not in it"
        raise unsupported(
            NAME, "BatchTopKCrossCoder", why, "Convert it with the library that wrote it."
        )
    pieces.only(*CLASSES[name].tensors)
    stated = config or {}
    crossed = name == "CrossCoder"
    found = _crosscoder(pieces) if crossed else _one_site(pieces, CLASSES[name], stated)
    width = found.d_in // max(1, len(found.wiring.widths_in))
    for key, value in (("activation_dim", width), ("dict_size", found.n_latents)):
        agree(f"trainer.{key}", setting(stated, f"trainer.{key}", int, value), value, "the encoder")
    place, remarks = _place(stated)
    says = setting(stated, "buffer.io", str, "out") == "in_and_out"  # also where no site is named
    transcodes = (says or place.target not in ("", place.site)) and not crossed
    wiring = Wiring(kind="transcoder") if transcodes else found.wiring
    remarks = (*found.remarks, *remarks)
    return dataclasses.replace(
        found, place=place, wiring=wiring, trained_as=name, source=NAME, remarks=remarks
    )


def written(specification: Specification) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`config.json` and the tensors of `ae.pt`; `ConfigError` where no class computes this."""
    s = express.exclusive(express.plain(specification, NAME), NAME)
    express.refuse_skip(s, NAME)
    express.refuse_processing(s, NAME)
    if s.d_in != s.d_out or s.wiring.kind == "clt":
        raise ConfigError(
            f"It reads {s.d_in} columns and writes {s.d_out}, as a `{s.wiring.kind}`; classes of `{NAME}` "
            "have one `activation_dim`. Write it as `saelens` or `circuit_tracer`."
        )
    name = _fitting(s)
    s = express.subtracting(s, CLASSES[name].subtract)
    n_sites = len(s.wiring.widths_in) or 1
    if name == "CrossCoder" and (s.activation != "relu" or len(set(s.wiring.widths_in)) != 1):
        raise ConfigError(
            f"A crosscoder of `{NAME}` is of `relu` and reads sites of one width; this is `{s.activation}` "
            f"of widths {s.wiring.widths_in}. Write it as `monosem`."
        )
    tensors = _of_crosscoder(s) if name == "CrossCoder" else _of_one_site(s, name)
    trainer: dict[str, Any] = {
        "trainer_class": CLASSES[name].trainer,
        "dict_class": name,
        "activation_dim": s.d_in // n_sites,
        "dict_size": s.n_latents,
    }
    if "k" in tensors:
        trainer["k"] = s.k
    kept = {key: value.detach().contiguous() for key, value in tensors.items()}
    return _recorded(s, trainer), kept


def refuse_backup(keys: Collection[str]) -> None:
    """Raise `ArtifactCorruptError` where a file with these keys is a backup of training."""
    if "ae" in keys:
        raise ArtifactCorruptError(
            f"`ae.pt` is a backup of training, with {listed(keys)}; its biases are in units of the "
            "normalised input. The dictionary is in its `ae`: multiply biases and threshold of that by "
            "`norm_factor`, if there is one, and save it as `ae.pt` (`backup = torch.load('ae.pt', "
            "weights_only=True); torch.save(backup['ae'], 'ae.pt')`)."
        )


def _class(config: Mapping[str, Any] | None, pieces: Pieces) -> str:
    """The class that the configuration names, or the one class with these tensors."""
    if config is not None:
        name = setting(config, "trainer.dict_class", str)
        if name not in CLASSES:
            why = f"its known classes are {listed(CLASSES)}"
            raise unsupported(NAME, name, why, "Convert it to one of these first.")
        return name
    weight = pieces.tensors.get("encoder.weight")
    if isinstance(weight, Tensor) and weight.ndim == 3:
        return "CrossCoder"
    fits = [name for name, own in CLASSES.items() if own.tensors == set(pieces.tensors)]
    fits = [name for name in fits if name != "CrossCoder"]
    if len(fits) != 1:
        which = f"may be of {listed(fits)}" if fits else "are of none of its classes"
        raise ArtifactCorruptError(
            f"The tensors of `ae.pt`, {listed(pieces.tensors)}, {which}, and there is no `config.json` "
            'beside it. Put one there that says: {"trainer": {"dict_class": "…"}}.'
        )
    return fits[0]


def _one_site(pieces: Pieces, own: Class, config: Mapping[str, Any]) -> Specification:
    encoder = pieces.take("encoder.weight" if own.linear else "W_enc", None, None)
    n_latents, d = encoder.shape if own.linear else encoder.shape[::-1]
    decoder = (
        pieces.take("decoder.weight", d, n_latents).T
        if own.linear
        else pieces.take("W_dec", n_latents, d)
    )
    lengths = {ours: d if ours == "b_dec" else n_latents for ours in own.vectors}
    vectors: dict[str, Any] = {
        ours: pieces.take(theirs, lengths[ours]) for ours, theirs in own.vectors.items()
    }
    if own.counts:
        vectors["k"] = _k(pieces, config)
    if "group_sizes" in own.counts:
        sizes = pieces.tensors.get("group_sizes")
        groups = int(sizes.sum()) if isinstance(sizes, Tensor) else 0
        agree("the sum of `group_sizes`", groups, n_latents, "W_enc")
    if own.counts and own.activation == "jumprelu":
        vectors["threshold"] = filled(_measured(pieces), vectors["b_enc"])
    return Specification(
        activation=own.activation,
        axes=Axes(subtract_b_dec=own.subtract),
        W_enc=encoder.T if own.linear else encoder,
        W_dec=decoder,
        **vectors,
    )


def _k(pieces: Pieces, config: Mapping[str, Any]) -> int:
    if "k" not in pieces:  # files of before it was a buffer
        return setting(config, "trainer.k", int)
    k = int(pieces.number("k"))
    agree("trainer.k", setting(config, "trainer.k", int, k), k, "k")
    return k


def _measured(pieces: Pieces) -> float:
    threshold = pieces.number("threshold")
    if threshold < 0:
        raise ArtifactCorruptError(
            f"`threshold` is {threshold:g}: training had not measured it yet, so that which latents are "
            "active depends on the batch. Take a later checkpoint, or write `dict_class` "
            "`AutoEncoderTopK` into `config.json` to keep the k largest latents of each row."
        )
    return threshold


def _crosscoder(pieces: Pieces) -> Specification:
    encoder = pieces.take("encoder.weight", None, None, None)
    n_sites, d, n_latents = encoder.shape
    decoder = pieces.take("decoder.weight", n_sites, n_latents, d)
    widths = (d,) * n_sites
    return Specification(
        activation="relu",
        axes=Axes(subtract_b_dec=False),
        W_enc=encoder.reshape(n_sites * d, n_latents),
        b_enc=pieces.take("encoder.bias", n_latents),
        W_dec=decoder.transpose(0, 1).reshape(n_latents, n_sites * d),
        b_dec=pieces.take("decoder.bias", n_sites, d).reshape(-1),
        wiring=Wiring(kind="crosscoder", widths_in=widths, widths_out=widths),
    )


def _fitting(s: Specification) -> str:
    """The class that computes this."""
    if s.wiring.kind == "crosscoder":
        return "CrossCoder"
    if s.activation == "relu":
        return "AutoEncoder" if s.axes.subtract_b_dec else "AutoEncoderNew"
    if s.activation != "jumprelu":
        return "GatedAutoEncoder" if s.activation == "gated" else "AutoEncoderTopK"
    common = express.one_threshold(s)
    if s.k < 1 or not s.axes.subtract_b_dec or common is None or common < 0:
        return "JumpReluAutoEncoder"
    return "MatryoshkaBatchTopKSAE" if "atryoshka" in s.trained_as else "BatchTopKSAE"


def _of_one_site(s: Specification, name: str) -> dict[str, Tensor]:
    own = CLASSES[name]
    if own.linear:
        tensors = {"encoder.weight": s.W_enc.T, "decoder.weight": s.W_dec.T}
    else:
        tensors = {"W_enc": s.W_enc, "W_dec": s.W_dec}
    tensors |= {theirs: getattr(s, ours) for ours, theirs in own.vectors.items()}
    common = express.one_threshold(s) if s.activation == "jumprelu" else None
    counts = {
        "k": torch.tensor(s.k, dtype=torch.int),
        "threshold": torch.tensor(-1.0 if common is None else common),
        # how its prefixes lay is not in the specification; only training asks
        "group_sizes": torch.tensor([s.n_latents]),
    }
    return tensors | {key: counts[key] for key in own.counts}


def _of_crosscoder(s: Specification) -> dict[str, Tensor]:
    n_sites, d = len(s.wiring.widths_in), s.wiring.widths_in[0]
    return {
        "encoder.weight": s.W_enc.reshape(n_sites, d, s.n_latents),
        "encoder.bias": s.b_enc,
        "decoder.weight": s.W_dec.reshape(s.n_latents, n_sites, d).transpose(0, 1),
        "decoder.bias": s.b_dec.reshape(n_sites, d),
    }


def _recorded(s: Specification, trainer: dict[str, Any]) -> dict[str, Any]:
    """The configuration, with the place of a dictionary in it."""
    site, target = s.place.site, s.place.target
    layer = hooks.layer_of(site)
    trainer["layer"] = -1 if layer is None else layer
    trainer["lm_name"] = s.place.model
    transcodes = s.wiring.kind == "transcoder"
    trainer["submodule_name"] = hooks.joined(site, target) or None
    buffer = {"d_submodule": s.d_in, "io": "in_and_out" if transcodes else "out"}
    return {"trainer": trainer, "buffer": buffer | {"ctx_len": s.place.context}}


def _place(config: Mapping[str, Any]) -> tuple[Place, tuple[str, ...]]:
    """Where it belongs, and what is doubtful about that."""
    model = _text(config, "trainer.lm_name")
    io = setting(config, "buffer.io", str, "out")
    layer = setting(config, "trainer.layer", int, -1)
    name = _text(config, "trainer.submodule_name")
    if not name and layer >= 0:  # the whole block, as its `get_submodule` says
        name = f"layers.{layer}"
    site, target = hooks.pair(name, io, post_norm=hooks.has_post_norm(model))
    context = setting(config, "buffer.ctx_len", int, 0)
    place = Place(model=model, site=site, target=target, processing="none", context=context)
    return place, () if io == "in" else hooks.doubts(name, model)


def _text(config: Mapping[str, Any], path: str) -> str:
    return setting(config, path, str, "")


def _weights(files: Files) -> str:
    """The one file that is its state dictionary: `ae.pt`, or a checkpoint that was named."""
    if files.only.endswith(".pt"):
        return files.only
    return WEIGHTS if WEIGHTS in files else ""


def _recognises(files: Files) -> bool:
    name = _weights(files)
    return name == WEIGHTS or re.fullmatch(r"ae_\d+\.pt", name) is not None


def _read(files: Files) -> Specification:
    name = _weights(files) or WEIGHTS
    refuse_backup(files.keys(name))
    return read(files.json(CONFIG) if CONFIG in files else None, files.tensors(name))


def _write(contents: Contents, folder: Path) -> None:
    config, tensors = written(one(contents, NAME))
    torch.save(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=4), encoding="utf-8")


FORMAT = Format(
    name=NAME,
    about="dictionary_learning: ae.pt and config.json",
    recognises=_recognises,
    read=_read,
    write=_write,
)
