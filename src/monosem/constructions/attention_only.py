"""Attention-only models as real `transformers` classes: GPT-2, GPT-NeoX, Llama and Gemma without MLPs.

Each class is its family's own causal language model with `NeuronSublayers` where the MLPs stood:
attention, norms, positions, cache and `generate` are the family's. The norm before an MLP stays
before the heads; the bias row and the two columns are added after it, so that it does not see them.
`conversion.convert` fills the weights. `LanguageModel` and `monosem.load_model` know these classes;
`AutoModelForCausalLM` reads their folders after `register()`.
"""

import dataclasses
from typing import Any, cast

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from monosem.constructions.sublayer import NeuronSublayers
from monosem.core.errors import ConfigError, UnsupportedModelError
from monosem.models import transformer
from monosem.models.families import FAMILIES, Family
from monosem.models.loading import OWN
from monosem.models.places import blocks_of

PREFIX = "monosem_attention_only_"


class _Extended:
    """What our configurations have in common."""

    __no_type_check__ = True
    """They take whatever keys their family's files hold; a checked signature would refuse some."""


class AttentionOnlyGPT2Config(_Extended, GPT2Config):
    """GPT-2's configuration and, in `attention_only`, the shapes of the sublayers."""

    model_type = PREFIX + "gpt2"
    attention_only: dict[str, Any] | None = None


class AttentionOnlyGPTNeoXConfig(_Extended, GPTNeoXConfig):
    """GPT-NeoX's configuration and, in `attention_only`, the shapes of the sublayers."""

    model_type = PREFIX + "gpt_neox"
    attention_only: dict[str, Any] | None = None


class AttentionOnlyLlamaConfig(_Extended, LlamaConfig):
    """Llama's configuration and, in `attention_only`, the shapes of the sublayers."""

    model_type = PREFIX + "llama"
    attention_only: dict[str, Any] | None = None


class AttentionOnlyGemma2Config(_Extended, Gemma2Config):
    """Gemma 2's configuration and, in `attention_only`, the shapes of the sublayers."""

    model_type = PREFIX + "gemma2"
    attention_only: dict[str, Any] | None = None


class AttentionOnlyGemma3Config(_Extended, Gemma3TextConfig):
    """Gemma 3's text configuration and, in `attention_only`, the shapes of the sublayers."""

    model_type = PREFIX + "gemma3_text"
    attention_only: dict[str, Any] | None = None


class AttentionOnlyGPT2(GPT2LMHeadModel):
    """GPT-2 with heads for neurons."""

    config_class = AttentionOnlyGPT2Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_mlps(self)


class AttentionOnlyGPTNeoX(GPTNeoXForCausalLM):
    """GPT-NeoX (Pythia) with heads for neurons."""

    config_class = AttentionOnlyGPTNeoXConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_mlps(self)


class AttentionOnlyLlama(LlamaForCausalLM):
    """Llama with heads for neurons."""

    config_class = AttentionOnlyLlamaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_mlps(self)


class AttentionOnlyGemma2(Gemma2ForCausalLM):
    """Gemma 2 with heads for neurons."""

    config_class = AttentionOnlyGemma2Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_mlps(self)


class AttentionOnlyGemma3(Gemma3ForCausalLM):
    """Gemma 3 (text) with heads for neurons."""

    config_class = AttentionOnlyGemma3Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_mlps(self)


CLASSES: dict[str, type[PreTrainedModel]] = {
    "gpt2": AttentionOnlyGPT2,
    "gpt_neox": AttentionOnlyGPTNeoX,
    "llama": AttentionOnlyLlama,
    "gemma2": AttentionOnlyGemma2,
    "gemma3_text": AttentionOnlyGemma3,
}
"""The attention-only class of each type that can be converted."""


def class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the attention-only class for an original model's configuration."""
    if config.model_type not in CLASSES:
        done = config.model_type.startswith(PREFIX)
        raise UnsupportedModelError(
            f"Models of type `{config.model_type}` are not converted: "
            + ("this one is attention-only already." if done else f"{', '.join(CLASSES)} are.")
        )
    return CLASSES[config.model_type]


def family_row(model_type: str, n_sublayers: int) -> Family:
    """Return where the modules of an attention-only model are: its neurons are heads of the last sublayer."""
    last = f"mlp.sublayers.{n_sublayers - 1}"
    original = FAMILIES[model_type.removeprefix(PREFIX)]
    return dataclasses.replace(original, pre=f"{last}.query", down=f"{last}.output", up="")


def is_gated(model_type: str) -> bool:
    """Whether MLPs of this family multiply a gate with a linear map."""
    return bool(FAMILIES[model_type].up)


def register() -> None:
    """Enter all of Monosem's model classes in `transformers`' tables.

    Only names that begin with `monosem` are added; nothing is altered. Calling it again does nothing.
    `LanguageModel` knows them without it.
    """
    transformer.register()
    for model in CLASSES.values():
        config = cast(type[PreTrainedConfig], model.config_class)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


def _replace_mlps(model: PreTrainedModel) -> None:
    made = getattr(model.config, "attention_only", None)
    if not made:
        raise ConfigError(
            f"`{type(model).__name__}` needs `attention_only` in its configuration, which says how "
            "many heads stand for each MLP. `monosem.constructions.conversion.convert` writes it."
        )
    shapes = made["sublayers"]
    row = FAMILIES[model.config.model_type.removeprefix(PREFIX)]
    for block in blocks_of(model, row):
        block.mlp = NeuronSublayers(shapes, made["mode"])


def _enter() -> None:
    """Enter the classes and their rows in our own tables, so that `LanguageModel` takes and loads them."""
    for original, model in CLASSES.items():
        config = cast(type[PreTrainedConfig], model.config_class)
        OWN[config.model_type] = (config, model)
        FAMILIES[config.model_type] = family_row(config.model_type, 2 if is_gated(original) else 1)


_enter()
