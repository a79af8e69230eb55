"""How a pretraining run begins with the weights of another model, of the same preset and tokenizer."""

from pathlib import Path
from typing import cast

from torch import nn

from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.models.loading import embedded_names
from monosem.training.next_token import SmallModel


def begins_alike(name: str, summary: Json) -> bool:
    """Whether `name` is still the model that the finished run began with; one that is gone counts."""
    if name not in embedded_names() and not (name and Path(name).is_dir()):
        return True
    return LanguageModel.load(name, device="cpu").hash == summary["start"]


def copy_weights(name: str, model: SmallModel) -> str:
    """Put the weights of the language model `name` into `model`, if they fit; return its hash."""
    start = LanguageModel.load(name, device="cpu")
    given, wanted = start.model.state_dict(), model.state_dict()
    differing = [k for k in wanted if k not in given or given[k].shape != wanted[k].shape]
    if differing or len(given) != len(wanted):
        raise ConfigError(
            f"`start` is `{name}`, whose weights have another shape than this run's model"
            f"{f' (`{differing[0]}`)' if differing else ''}. Name a model of the same preset and tokenizer."
        )
    cast(nn.Module, model).load_state_dict(given)
    return start.hash
