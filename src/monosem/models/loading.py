"""Finding and reading a language model: one of our own, a folder, or a name on the Hugging Face hub.

A folder is an ordinary Hugging Face one: `config.json`, safetensors, tokenizer files. Whatever
number type the file holds, the weights are float32 unless another `dtype` is asked for.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    MonosemError,
    UnknownNameError,
    suggestion,
)
from monosem.core.homes import import_home
from monosem.core.hub import only_cached
from monosem.models.families import family_of
from monosem.models.small import PRESETS
from monosem.models.transformer import MonosemConfig, MonosemForCausalLM

EMBEDDED = Path(__file__).parent / "embedded"
"""Folders of the models that come with the package."""

OWN: dict[str, tuple[Any, Any]] = {MonosemConfig.model_type: (MonosemConfig, MonosemForCausalLM)}
"""Configuration and model class of our own model types: these are read without `register()`.
Rooms that build more enter theirs when they are imported, as `core/homes.py` has them be."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def embedded_names() -> list[str]:
    """Return the names of the language models that come with the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def locate(name: str | Path) -> str:
    """Return the folder or the hub name that `name` means; the package's own models come first.

    The folder that `monosem pretrain` wrote stands for the Hugging Face folder `model` inside it.
    """
    text = str(name)
    if text in embedded_names():
        return str(EMBEDDED / text)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ArtifactMissingError(
                f"There is no language model in `{path}`: it has no `config.json`. "
                "Pass a folder that `transformers` saved, or the name of a model."
            )
        return str(path / "model" if (path / "model" / "config.json").is_file() else path)
    if isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")):
        raise ArtifactMissingError(
            f"There is no language model at `{path}`: the folder does not exist. "
            f"Pass a folder, a hub name, or one of: {', '.join(embedded_names())}."
        )
    return text


def read_model(
    name: str | Path, *, device: torch.device, dtype: torch.dtype | None
) -> PreTrainedModel:
    """Return the frozen model at `name`; its family is checked before any weight is read."""
    place = locate(name)
    cached = only_cached(place)
    with _errors(name, place), no_bar():
        config_class, model_class = _classes(place, cached)
        family_of(config_class.from_pretrained(place, local_files_only=cached))
        read: Any = model_class.from_pretrained(
            place,
            dtype=dtype or torch.float32,
            output_loading_info=True,
            local_files_only=cached,
        )
    model, notes = cast(tuple[PreTrainedModel, dict[str, Any]], read)
    missing = sorted(notes["missing_keys"])
    if missing:
        raise ArtifactCorruptError(
            f"The weights of `{name}` lack {len(missing)} tensors, such as `{missing[0]}`; they would be "
            "random. Get the folder again."
        )
    model.requires_grad_(False)
    return cast(Any, model).to(device)


def _classes(place: str, cached: bool) -> tuple[Any, Any]:
    """Return the classes to read a configuration and a model with: ours, or `transformers`' own."""
    written, _ = PreTrainedConfig.get_config_dict(place, local_files_only=cached)
    kind = str(written.get("model_type"))
    if kind not in OWN:
        import_home(kind)
    return OWN.get(kind, (AutoConfig, AutoModelForCausalLM))


def read_tokenizer(name: str | Path) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer beside the model, or None where the folder has no tokenizer files."""
    place = locate(name)
    folder = Path(place)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        return None
    cached = only_cached(place)
    with _errors(name, place):
        bare = folder.is_dir() and not (folder / "config.json").is_file()
        config_class = AutoConfig if bare else _classes(place, cached)[0]
        # Ours is handed over: `transformers` would warn of a type that it does not know.
        given: dict[str, Any] = {}
        if config_class is not AutoConfig:
            given["config"] = config_class.from_pretrained(place, local_files_only=cached)
        return AutoTokenizer.from_pretrained(place, local_files_only=cached, **given)


@contextlib.contextmanager
def _errors(name: str | Path, place: str) -> Generator[None]:
    local = Path(place).is_dir()
    try:
        yield
    except SafetensorError as error:
        raise ArtifactCorruptError(
            f"The weights of `{name}` cannot be read ({error}): the file is truncated or altered. "
            "Get it again."
        ) from error
    except MonosemError:  # ours already say what is wrong
        raise
    except (OSError, ValueError, RuntimeError) as error:  # files, JSON, shapes of tensors
        if local:
            raise ArtifactCorruptError(
                f"The folder `{place}` cannot be read as a language model: {_first_line(error)} "
                "It needs `config.json` and `model.safetensors`."
            ) from error
        known = embedded_names()
        if name in PRESETS:
            raise UnknownNameError(
                f"`{name}` is a preset whose weights do not come with the package. Make them with "
                f"`monosem pretrain {name} --tokens STORE --out FOLDER`, and name that folder."
            ) from error
        raise UnknownNameError(
            f"There is no language model `{name}`: no folder has that name, it is none of the models "
            f"of the package ({', '.join(known)}), and the Hugging Face hub did not give it "
            f"({_first_line(error)}).{suggestion(str(name), known)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def no_bar() -> Generator[None]:
    """Silence `transformers`' own progress bar, and leave its setting as it was."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
