"""How a pretraining run begins or goes on: whether its tokens fit, with which weights of another model."""

import sys
from pathlib import Path
from typing import Any, cast

from torch import nn

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ConfigError,
    ResumeError,
    UnknownNameError,
)
from monosem.models.language_model import LanguageModel
from monosem.text.store import TokenStore
from monosem.training.next_token import SmallModel

READING = 3
"""Version of what a step reads in pieces or drills; a run that began under another does not go on."""
LEAST_DRILLED = 32
"""Tokens of the shortest context in which every drill repeats something."""
COMPUTED = (
    "model_type", "num_attention_heads", "hidden_act", "activation_function", "mlp_norm", "layer_norm",
)  # fmt: skip
"""Fields of a configuration that no shape of a weight tells."""


def check_store(store: TokenStore, longest: int, drill: float) -> None:
    """Refuse tokens that a model of `longest` positions cannot take, or that cannot be drilled or tested."""
    if store.context > longest:
        raise ConfigError(
            f"The token store has contexts of {store.context} tokens, the model takes at most "
            f"{longest}. Make the tokens with `--context {longest}`."
        )
    if drill and store.context < LEAST_DRILLED:
        raise ConfigError(
            f"`drill` is {drill}, but in contexts of {store.context} tokens no stretch comes again. "
            f"Make the tokens with `--context {LEAST_DRILLED}` or more, or leave `drill` 0."
        )
    if store.n_contexts("heldout") == 0:
        raise ConfigError(
            "The token store holds no held-out text to validate on. Make it with `--heldout-share 0.1`."
        )


def begins_alike(name: str, began: str) -> bool | None:
    """Whether `name` is still the model, of hash `began`, that a run began with; None: nobody knows.

    A folder that is gone or has lost files, or a name on the hub that this machine neither has nor reaches,
    cannot be compared, and that is said.
    """
    if not name:
        return True
    try:
        return LanguageModel.load(name, device="cpu").hash == began
    except (ArtifactMissingError, ArtifactCorruptError, UnknownNameError):
        sys.stderr.write(
            f"`start` is `{name}`, which is not to be had any more; it was not compared with the model "
            "that the run began with.\n"
        )
        return None


def check_state(
    folder: Path, state: dict[str, Any], identity: str, start: str, *, read_apart: bool
) -> bool:
    """Refuse to go on from a `state` of another run; return whether `start` was compared with its model.

    `read_apart`: the run reads pieces or drills, whose meaning depends on `READING`.
    """
    if state["identity"] != identity:
        raise ResumeError(
            f"`{folder}` holds an interrupted run of other settings or tokens. "
            "Finish it with its own settings, or pass `--fresh` to throw it away."
        )
    if read_apart and state.get("reading") != READING:
        raise ResumeError(
            f"`{folder}` holds an interrupted run of another version, which read its pieces and drills "
            "otherwise. Finish it with that version, or pass `--fresh` to begin anew."
        )
    alike = begins_alike(start, state["start"])
    if alike is False:
        raise ResumeError(
            f"`{folder}` holds an interrupted run that began with another model than "
            f"`{start}` now is. Put that one back, or pass `--fresh` to begin anew."
        )
    return alike is not None


def copy_weights(name: str, model: SmallModel, vocabulary: dict[str, int]) -> str:
    """Put the weights of the language model `name` into `model`, if they fit; return its hash.

    A model of more blocks keeps its own first weights in those that the other lacks, after the other's.
    Weights fit where shapes, what the configuration says of the computation, and tokenizers are the same.
    """
    start = LanguageModel.load(name, device="cpu")
    given, wanted = start.model.state_dict(), model.state_dict()
    n_given, n_wanted = start.model.config.num_hidden_layers, model.config.num_hidden_layers
    own = tuple(f"transformer.h.{i}." for i in range(n_given, n_wanted))
    asked = [k for k in wanted if not k.startswith(own)]
    differing = [k for k in asked if k not in given or given[k].shape != wanted[k].shape]
    differing += [k for k in given if k not in wanted]
    if differing:
        raise ConfigError(
            f"`start` is `{name}`, whose weights have another shape than this run's model "
            f"(`{differing[0]}`). Name a model of the same preset, or of one with fewer layers."
        )
    for field in COMPUTED:
        one, other = (getattr(m.config, field, None) for m in (start.model, model))
        if one != other:
            raise ConfigError(
                f"`start` is `{name}`, whose `{field}` is {one}; this run's is {other}, so that the same "
                "weights would mean something else. Name a model of the same preset, or one of fewer layers."
            )
    if start.tokenizer is not None and start.tokenizer.get_vocab() != vocabulary:
        raise ConfigError(
            f"`start` is `{name}`, whose tokenizer is another than the token store's. Make the tokens with "
            f"`--tokenizer {name}`."
        )
    cast(nn.Module, model).load_state_dict(given, strict=not own)
    return start.hash
