"""SAELens: `cfg.json` and `sae_weights.safetensors`, those of version 6, of before, and checkpoints.

    cfg.json       {"architecture", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "normalize_activations",
                    "reshape_activations", "metadata": {"hook_name", "model_name", …}}; before 6 flat
    all            W_enc [d, F], W_dec [F, d], b_dec [d], and of each `architecture`
    standard       b_enc
    topk           b_enc; with `rescale_acts_by_decoder_norm` latents are pre * ‖row‖, and compete so
    jumprelu       b_enc, threshold [F], which must be exceeded; checkpoints before 6.48 log_threshold
    gated          b_gate, r_mag, b_mag, and no b_enc
    transcoder     b_enc, with W_dec [F, d_out], b_dec [d_out]; jumprelu_transcoder: threshold
    skip_…         W_skip [d_out, d]: x @ W_skip.T of the activation itself
    batchtopk      checkpoints: b_enc, topk_threshold, which is of pre * ‖row‖ where that is rescaled

`b_dec` is subtracted where `apply_b_dec_to_input` says so, in transcoders never. `layer_norm` and
`constant_norm_rescale` are done to each activation and undone; `expected_average_only_in` and
`covariance_whitening` are folded before a dictionary is published, and a checkpoint has them beside it,
in `activation_scaler.json` and `activation_whitening.safetensors`.

Source: SAELens 6.54.12 (github.com/decoderesearch/SAELens), sae_lens/saes/*.py,
loading/pretrained_sae_loaders.py, training/activation_scaler.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError, ConfigError
from monosem.dictionaries.formats import saelens_place, saelens_writing
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.format import Contents, Format
from monosem.dictionaries.formats.pieces import Pieces, agree, filled, setting, unsupported
from monosem.dictionaries.formats.specification import Axes, Normalisation, Specification
from monosem.dictionaries.wiring import Wiring

NAME, CONFIG, WEIGHTS = saelens_writing.NAME, saelens_writing.CONFIG, saelens_writing.WEIGHTS
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
BY_BATCH = ("batchtopk", "matryoshka_batchtopk")
JUMPING = ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder")
TRANSCODERS = ("transcoder", "skip_transcoder", *JUMPING[1:])
KINDS = ("standard", "topk", "gated", *JUMPING, *TRANSCODERS[:2], *BY_BATCH)
REFUSED = {
    "temporal": "its latents depend on the tokens before, by attention",
    "matching_pursuit": "its encoder takes one latent after the other",
    "abstopk": "its latents may be negative",
}
NORMALISATIONS: dict[str, Normalisation] = {
    "none": "none",
    "expected_average_only_in": "scale",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_rms",
    "covariance_whitening": "none",
}


def read(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    scaler: Mapping[str, Any] | None = None,
    whitening: Mapping[str, Tensor] | None = None,
) -> Specification:
    """The dictionary of one `cfg.json` and its weights; the rest are a checkpoint's."""
    config = saelens_place.of_version_6(config)
    pieces = Pieces(tensors, NAME)
    kind = _kind(config)
    found = _weights(kind, config, pieces)
    for key, value in (("d_in", found.d_in), ("d_sae", found.n_latents)):
        agree(key, setting(config, key, int, value), value, "W_enc")
    if kind in TRANSCODERS:
        agree("d_out", setting(config, "d_out", int, found.d_out), found.d_out, "W_dec")
    found = _normalised(found, kind, config, scaler, whitening)
    return dataclasses.replace(
        found,
        place=saelens_place.place(config),
        trained_as=setting(config, "metadata.training_architecture", str, kind),
        source=NAME,
        remarks=(*found.remarks, *saelens_place.doubts(config, kind, found)),
    )


def _kind(config: Mapping[str, Any]) -> str:
    kind = setting(config, "architecture", str)
    if kind in REFUSED:
        raise unsupported(NAME, kind, REFUSED[kind], "Choose a dictionary of another architecture.")
    if kind not in KINDS:
        why = f"its architectures are {', '.join(KINDS)}"
        raise unsupported(NAME, kind, why, "Correct `architecture` in `cfg.json`.")
    activation = setting(config, "activation_fn", str, "relu")
    if activation not in ("relu", "topk"):
        raise unsupported(NAME, activation, "its latents are not by relu", "Choose another.")
    return kind


def _weights(kind: str, config: Mapping[str, Any], pieces: Pieces) -> Specification:
    W_enc = pieces.take("W_enc", None, None)
    d_in, n_latents = W_enc.shape
    transcodes = kind in TRANSCODERS
    W_dec = pieces.take("W_dec", n_latents, None if transcodes else d_in)
    d_out = W_dec.shape[1]
    pieces.only("W_enc", "W_dec", "b_dec", *_OWN[kind])
    found = Specification(
        activation="relu",
        axes=Axes(subtract_b_dec=_subtracts(config, transcodes)),
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=W_enc.new_zeros(n_latents) if kind == "gated" else pieces.take("b_enc", n_latents),
        b_dec=pieces.take("b_dec", d_out),
        W_skip=pieces.take("W_skip", d_out, d_in).T if "skip" in kind else None,
        wiring=Wiring(kind="transcoder", skip="skip" in kind) if transcodes else Wiring(),
    )
    return _finetuned(_chosen(found, kind, config, pieces), config, pieces)


def _chosen(
    found: Specification, kind: str, config: Mapping[str, Any], pieces: Pieces
) -> Specification:
    """With what decides which latents are active."""
    n_latents = found.n_latents
    if kind in JUMPING:
        return dataclasses.replace(
            found, activation="jumprelu", threshold=_threshold(pieces, n_latents)
        )
    if kind in BY_BATCH:
        return _by_batch(found, config, pieces)
    if kind == "topk":
        rescaled = setting(config, "rescale_acts_by_decoder_norm", bool, False)
        axes = dataclasses.replace(found.axes, choose_by_norm=rescaled)
        k = setting(config, "k", int)
        return dataclasses.replace(found, activation="topk", k=k, axes=axes)
    if kind == "gated":
        names = {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
        own = {ours: pieces.take(theirs, n_latents) for ours, theirs in names.items()}
        return dataclasses.replace(found, activation="gated", **own)
    return found


_SCALING = ("scaling_factor", "finetuning_scaling_factor")
_OWN: dict[str, tuple[str, ...]] = {
    "standard": ("b_enc", *_SCALING),
    "topk": ("b_enc", *_SCALING),
    "gated": ("b_gate", "r_mag", "b_mag", *_SCALING),
    **{kind: ("b_enc", "threshold", "log_threshold", "W_skip", *_SCALING) for kind in JUMPING},
    **{kind: ("b_enc", "W_skip") for kind in TRANSCODERS[:2]},
    **{kind: ("b_enc", "topk_threshold") for kind in BY_BATCH},
}
"""Tensors of each architecture beside those that all have."""


def _subtracts(config: Mapping[str, Any], transcodes: bool) -> bool:
    subtracts = setting(config, "apply_b_dec_to_input", bool, not transcodes)
    if subtracts and transcodes:
        raise ConfigError(
            "`apply_b_dec_to_input` is true, but a transcoder's `b_dec` is of what it writes, not of what "
            "it reads. Set it to false."
        )
    return subtracts


def _threshold(pieces: Pieces, n_latents: int) -> Tensor:
    if "log_threshold" in pieces:
        return pieces.take("log_threshold", n_latents).exp()
    return pieces.take("threshold", n_latents)


def _by_batch(s: Specification, config: Mapping[str, Any], pieces: Pieces) -> Specification:
    """A checkpoint as it would be published: one threshold, rows of norm 1 where it compares by norms."""
    threshold = filled(pieces.number("topk_threshold"), s.b_enc)
    remarks: tuple[str, ...] = ()
    if not bool((threshold > 0).all()):
        remarks = ("its threshold was not measured yet: all positive latents are active",)
    s = dataclasses.replace(s, activation="jumprelu", threshold=threshold, remarks=remarks)
    rescaled = setting(config, "rescale_acts_by_decoder_norm", bool, True)
    return _unit_rows(s) if rescaled else s


def _unit_rows(s: Specification) -> Specification:
    norms = torch.linalg.vector_norm(s.W_dec.double(), dim=1).clamp_min(1e-8)
    return dataclasses.replace(
        s,
        W_enc=(s.W_enc.double() * norms).to(s.W_enc.dtype),
        b_enc=(s.b_enc.double() * norms).to(s.b_enc.dtype),
        W_dec=(s.W_dec.double() / norms[:, None]).to(s.W_dec.dtype),
        axes=dataclasses.replace(s.axes, choose_by_norm=False),
    )


def _finetuned(s: Specification, config: Mapping[str, Any], pieces: Pieces) -> Specification:
    """With the factors that versions before 6 could put between latents and decoder, in its rows."""
    name = next((name for name in _SCALING if name in pieces), "")
    factors = pieces.take(name, s.n_latents) if name else s.b_dec.new_ones(1)
    if bool((factors == 1).all()):
        return s
    if not setting(config, "finetuning_scaling_factor", bool, True):
        raise ArtifactCorruptError(
            f"`{name}` holds factors that are not 1, and `finetuning_scaling_factor` in `cfg.json` is false: "
            "they contradict each other. Set it to true if the decoder was finetuned, or remove the factors."
        )
    s = _unit_rows(s) if s.axes.choose_by_norm else s  # they are no part of the norms it chooses by
    W_dec = (s.W_dec.double() * factors.double()[:, None]).to(s.W_dec.dtype)
    return dataclasses.replace(s, W_dec=W_dec)


def _normalised(
    s: Specification,
    kind: str,
    config: Mapping[str, Any],
    scaler: Mapping[str, Any] | None,
    whitening: Mapping[str, Tensor] | None,
) -> Specification:
    name = setting(config, "normalize_activations", str, "none")
    if name not in NORMALISATIONS:
        why = f"known are {', '.join(NORMALISATIONS)}"
        raise unsupported(NAME, name, why, "Correct `normalize_activations` in `cfg.json`.")
    if kind in TRANSCODERS and name != "none":
        why = "a transcoder's output is of another site than what is normalised"
        raise unsupported(NAME, f"{kind} with {name}", why, "Set it to `none` if it was folded.")
    if name == "covariance_whitening":
        return _whitened(s, whitening)
    axes = dataclasses.replace(s.axes, normalisation=NORMALISATIONS[name])
    if name == "expected_average_only_in":
        scale = setting(scaler or {}, "scaling_factor", float, 0.0)
        if not 0 < scale < float("inf"):
            raise ConfigError(
                "It reads activations times a factor (`expected_average_only_in`), and the factor is not "
                f"beside it: there is no `scaling_factor` in `{SCALER}`. Put it there: the square root of "
                'd_in over the mean norm of its activations, as {"scaling_factor": …}; or set '
                "`normalize_activations` to `none` if it was folded."
            )
        axes = dataclasses.replace(axes, scale=scale, output_scale=scale)
    return dataclasses.replace(s, axes=axes)


def _whitened(s: Specification, whitening: Mapping[str, Tensor] | None) -> Specification:
    """With z = (x - mean) @ matrix, and x = z @ inverse + mean, in the weights."""
    if whitening is None:
        raise ConfigError(
            f"It reads whitened activations, and there is no `{WHITENING}` beside it. Put it there, or set "
            "`normalize_activations` to `none` if it was folded."
        )
    pieces, d = Pieces(whitening, NAME), s.d_in
    mean = pieces.take("mean", d).double()
    matrix, inverse = (pieces.take(name, d, d).double() for name in ("matrix", "inverse_matrix"))
    s = _unit_rows(s) if s.axes.choose_by_norm else s  # whitening changes the norms of rows
    dtype = torch.promote_types(s.W_enc.dtype, torch.float32)
    return dataclasses.replace(
        s,
        W_enc=(matrix @ s.W_enc.double()).to(dtype),
        W_dec=(s.W_dec.double() @ inverse).to(dtype),
        b_dec=(s.b_dec.double() @ inverse + mean).to(dtype),
        # where `b_dec` is subtracted, the mean is in it already
        centre=None if s.axes.subtract_b_dec else mean.to(dtype),
    )


def _recognises(files: Files) -> bool:
    return CONFIG in files and WEIGHTS in files


def _read(files: Files) -> Contents:
    config, tensors = files.json(CONFIG), files.tensors(WEIGHTS)
    found = read(
        config,
        tensors,
        files.json(SCALER) if SCALER in files else None,
        files.tensors(WHITENING) if WHITENING in files else None,
    )
    remarks = saelens_place.silent(files)
    return dataclasses.replace(found, remarks=(*found.remarks, *remarks))


FORMAT = Format(
    name=NAME,
    about="SAELens: cfg.json and sae_weights.safetensors",
    recognises=_recognises,
    read=_read,
    write=saelens_writing.write,
)
