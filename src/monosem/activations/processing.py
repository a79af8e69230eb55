"""Processing: dictionaries of models whose weights were rewritten first, fitted to the model as it is.

Such a dictionary reads other activations (`processed.py` has the formulas). Where that is exact it takes
the difference up:

    centred     the dictionary sees x - mean of x, and the mean is added to what it makes of it: exact,
                for it is a projection of x
    gain g and offset c of channels    W_enc / g, W_dec * g, and c in the biases: exact where no g is 0

What no dictionary can take up is reproduced in capture: the model is seen as the processed one
(`ProcessedModel`), and the dictionary is left as it is. So it is with what writes into a centred residual
stream from elsewhere, whose mean cannot be known from what it reads; with several sites of which some are
centred; with cross-layer transcoders, tied and normalised dictionaries of folded norms; and with gains
of zero. What neither can is refused by name: a processing that is unknown, or heads that were refactored.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations.processed import Centring, Change, ProcessedModel, Scaling, change
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.gated import Gated
from monosem.dictionaries.normalised import Normalised, NormalisedConfig
from monosem.dictionaries.saving import steps
from monosem.models.language_model import LanguageModel

Changes = list[Change | None]


def for_model(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> Dictionary[Any]:
    """The dictionary that does on `model` as it is what this one does on the model it was trained on.

    `reads` and `writes` are its sites, where it does not record them. It is the same one where both
    models have the same there; else a copy, or `ConfigError` where none is exact.
    """
    read, written = _changes(dictionary, model, reads, writes)
    if not any(read + written):
        return dictionary
    if not _folds(dictionary, read, written):
        processing = dictionary.origin.processing
        raise ConfigError(
            f"The dictionary was trained on a model processed as `{processing}`, and as a "
            f"`{dictionary.architecture}` wired as `{dictionary.wiring.kind}` it cannot take up what that "
            "changes at its sites. See the model as that one: "
            f"`activations.processed.ProcessedModel(model, '{processing}')`."
        )
    if isinstance(read[0], Centring):
        return _centred(dictionary)
    return _unfolded(dictionary, model, (read, written), (reads, writes))


def fitted(
    dictionaries: Mapping[str, Dictionary[Any]],
    model: LanguageModel,
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> tuple[dict[str, Dictionary[Any]], LanguageModel]:
    """Dictionaries and a model that fit together: these fitted, or `model` seen as they were trained.

    All read and write the same sites.
    """
    left: dict[str, str] = {}
    for name, dictionary in dictionaries.items():
        changes = _changes(dictionary, model, reads, writes)
        if any(changes[0] + changes[1]) and not _folds(dictionary, *changes):
            left[name] = dictionary.origin.processing
    if not left:
        own = {name: for_model(d, model, reads, writes) for name, d in dictionaries.items()}
        return own, model
    wanted = next(iter(left.values()))
    others = [name for name, d in dictionaries.items() if d.origin.processing != wanted]
    if others:
        raise ConfigError(
            f"`{next(iter(left))}` needs a model seen as processed (`{wanted}`), and `{others[0]}` is of "
            "another. Use each by itself."
        )
    return dict(dictionaries), ProcessedModel(model, wanted)


def _changes(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    reads: Sequence[str],
    writes: Sequence[str],
) -> tuple[Changes, Changes]:
    """What the processing changes where it reads, and where it writes."""
    processing = dictionary.origin.processing
    if not steps(processing):
        return [], []
    ins, outs = _sites(dictionary, reads, writes)
    if not ins:
        raise ConfigError(
            f"The dictionary was trained on a model processed as `{processing}` and does not record its "
            "site, on which it depends what that changes. Name it: `site='blocks.0.hook_resid_post'`."
        )
    read, written = ([change(model, site, processing) for site in own] for own in (ins, outs))
    return read, written


def _sites(
    dictionary: Dictionary[Any], reads: Sequence[str], writes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ins = dictionary.sites_in or tuple(reads)
    return ins, dictionary.sites_out or tuple(writes) or ins


def _folds(dictionary: Dictionary[Any], read: Changes, written: Changes) -> bool:
    """Whether a dictionary can take up these changes exactly."""
    changes = [own for own in read + written if own is not None]
    if any(isinstance(own, Centring) for own in changes):
        return dictionary.writes_what_it_reads and len(read) == 1
    if dictionary.wiring.kind == "clt" or dictionary.architecture in ("tied", "normalised"):
        return False
    return all(isinstance(own, Scaling) and own.invertible for own in changes)


def _centred(dictionary: Dictionary[Any]) -> Dictionary[Any]:
    widths = {name: getattr(dictionary, name) for name in ("d_in", "d_out", "n_latents")}
    config = NormalisedConfig(inner=dictionary.config, normalisation="centred", **widths)
    own = Normalised(config)
    own.inner = copy.deepcopy(dictionary)
    own.conventions = dictionary.conventions
    own.origin = dataclasses.replace(dictionary.origin, processing="none")
    return own.to(dictionary.W_dec.device)


def _unfolded(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    changes: tuple[Changes, Changes],
    given: tuple[Sequence[str], Sequence[str]],
) -> Dictionary[Any]:
    ins, outs = _sites(dictionary, *given)
    gain_in, bias_in = _side(dictionary, model, changes[0], ins)
    gain_out, bias_out = _side(dictionary, model, changes[1], outs)
    own = copy.deepcopy(dictionary)
    with torch.no_grad():
        own.W_enc.div_(gain_in[:, None])
        skipped = torch.zeros_like(bias_out)
        if own.wiring.skip:
            own.W_skip.div_(gain_in[:, None]).mul_(gain_out)
            skipped = bias_in @ own.W_skip
        # where `b_dec` is subtracted it takes up the bias, and what it gives to the skip is made up for
        shift = (skipped if own.conventions.subtract_b_dec else bias_in) @ own.W_enc
        own.b_enc.sub_(shift)
        if isinstance(own, Gated):
            own.b_mag.sub_(own.r_mag.exp() * shift)
        own.b_dec.mul_(gain_out).add_(bias_out - skipped)
        own.W_dec.mul_(gain_out)
    unit = own.conventions.unit_rows and bool((gain_out == 1).all())
    own.conventions = dataclasses.replace(own.conventions, unit_rows=unit)
    own.origin = dataclasses.replace(dictionary.origin, processing="none")
    return own


def _side(
    dictionary: Dictionary[Any], model: LanguageModel, changes: Changes, sites: tuple[str, ...]
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Gains and offsets of all columns of one side; ones and zeros where nothing changes."""
    like = dictionary.W_dec
    gains, offsets = [], []
    for own, site in zip(changes, sites, strict=True):
        width = model.width(site)
        scaled = isinstance(own, Scaling)
        gains.append((own.gain if scaled else torch.ones(width)).to(like))
        offsets.append((own.offset if scaled else torch.zeros(width)).to(like))
    return torch.cat(gains), torch.cat(offsets)
