"""What studies share in running: names checked at the door, text of their own, dictionaries trained once."""

from collections.abc import Collection, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from monosem.core.config import content_hash, to_json
from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactKindError,
    ConfigError,
    ResumeError,
    unknown_name,
)
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train

CONTEXT = 128
"""Tokens a context of a study's own text, where the model reads as many."""
REFUSED = (ResumeError, ArtifactKindError, ArtifactCorruptError)
"""What is raised of a run that lies there already and can neither be used nor be gone on with."""


def check(
    out: Path,
    *,
    scale: str,
    scales: Collection[str],
    figures: Sequence[str],
    known: Collection[str],
) -> None:
    """Raise for a scale or figure that does not exist, and for a file where the folder is to be."""
    if scale not in scales:
        raise unknown_name("scale", scale, scales)
    for name in figures:
        if name not in known:
            raise unknown_name("figure", name, known)
    if out.is_file():
        raise ConfigError(f"`{out}` is a file. Name a folder for the study.")


def own_text(
    model: LanguageModel,
    out: Path,
    *,
    max_tokens: int,
    corpora: tuple[str, ...] = ("python",),
    weights: tuple[float, ...] = (),
    fresh: bool = False,
) -> TokenStore:
    """Return text that comes with the package as `model` reads it, kept in `out`; 0 tokens: all of it."""
    if not isinstance(model.tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"`{model.name}` brings no fast tokenizer to read text with. Give a token store."
        )
    config = TokensConfig(
        corpora=corpora,
        weights=weights,
        max_tokens=max_tokens,
        context=context_of(model),
    )
    folder = out / f"tokens-{max_tokens or 'all'}"
    return build_token_store(config, folder, tokenizer=model.tokenizer, fresh=fresh)


def context_of(model: LanguageModel) -> int:
    """Return how many tokens a context of a study's own text has."""
    return min(CONTEXT, model.context)


def trained(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    out: Path,
    *,
    name: str,
    fresh: bool = False,
) -> TrainingRun:
    """Return the run of `config`, used again where `out` has it.

    Its folder is named by a hash of all that it hangs on: another seed, model or text is another folder.
    `fresh` trains anew where what lies there is refused: stopped on other threads or another device, or
    damaged. A good run is used even so: the same settings make the same dictionary, in hours.
    """
    key = content_hash([to_json(config), model.hash, store.hash])
    folder = out / f"{name}-{key[:8]}"
    try:
        return train(config, model, store, folder)
    except REFUSED:
        if not fresh:
            raise
    return train(config, model, store, folder, fresh=True)
