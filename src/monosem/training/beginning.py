"""Whether a pretraining run may begin or go on: with these tokens, another model's weights, its own state."""

import sys
from pathlib import Path
from typing import Any

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ConfigError,
    ResumeError,
    UnknownNameError,
)
from monosem.models.language_model import LanguageModel
from monosem.text.store import TokenStore

READING = 3
"""Version of what a step reads in pieces or drills; a run that began under another does not go on."""
LEAST_DRILLED = 32
"""Tokens of the shortest context in which every drill repeats something."""


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
