"""Weights of one language model put into another: of the same shape, of more blocks, or with MLPs besides.

What the larger model has and the other lacks begins writing nothing into the residual stream,

    W_out = 0, b_out = 0   of its MLPs, and of the attention of its further blocks,

so that before the first step its logits are those of the model it grew from (Chen et al. 2016,
"Net2Net", make deeper networks so). Its other weights stay random: the first gradient that reaches
W_out is not zero, and the second one reaches all.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.models.transformer import MonosemForCausalLM
from monosem.training.next_token import SmallModel

OURS = (GPT2LMHeadModel, MonosemForCausalLM)
"""Classes whose blocks compute the same, where their configurations say the same."""
PARTS = ("mlp", "ln_2")
"""Modules of a block that an attention-only model lacks."""
WRITERS = ("c_proj.weight", "c_proj.bias")
"""How the weights end that write into the residual stream."""


def copy_weights(name: str, model: SmallModel, vocabulary: dict[str, int]) -> str:
    """Put the weights of the language model `name` into `model`, if they fit; return its hash.

    `name` may have fewer blocks, the first ones, and no MLPs. Raises `ConfigError` where shapes, what the
    configurations say of the computation, or tokenizers differ otherwise.
    """
    start = LanguageModel.load(name, device="cpu")
    if start.tokenizer is not None and start.tokenizer.get_vocab() != vocabulary:
        raise ConfigError(
            f"`start` is `{name}`, whose tokenizer is another than the token store's. Make the tokens with "
            f"`--tokenizer {name}`, or begin with random weights (`--start ''`)."
        )
    given, wanted = _weights(start.model), _weights(model)
    lacking = [*range(_n_layers(start.model), _n_layers(model))]
    added = _added(wanted, lacking, no_mlp=not any(".mlp." in key for key in given))
    differing = [k for k in wanted if k not in given and k not in added]
    differing += [k for k in given if k not in wanted or given[k].shape != wanted[k].shape]
    if differing:
        raise ConfigError(
            f"`start` is `{name}`, whose weights have another shape than this run's model "
            f"(`{differing[0]}`). Name a model of the same preset, or of one with fewer layers or no MLPs."
        )
    _check_computation(name, start.model, model, mlp=any(".mlp." in key for key in given))
    with torch.no_grad():
        for key, weight in given.items():
            wanted[key].copy_(weight)
        for key in added:
            if key.endswith(WRITERS):
                wanted[key].zero_()
    return start.hash


def _weights(model: Any) -> dict[str, Tensor]:
    """Return the weights by name, matrices with outputs first whatever the class keeps them as."""
    found = dict(cast(nn.Module, model).state_dict())
    for name, module in cast(nn.Module, model).named_modules():
        if isinstance(module, Conv1D):
            found[f"{name}.weight"] = found[f"{name}.weight"].T
    return found


def _n_layers(model: Any) -> int:
    return model.config.num_hidden_layers


def _added(names: dict[str, Tensor], lacking: list[int], *, no_mlp: bool) -> set[str]:
    """Return the weights that the other model has no counterpart of."""
    blocks = tuple(f"transformer.h.{i}." for i in lacking)
    return {
        name
        for name in names
        if name.startswith(blocks) or (no_mlp and any(f".{part}." in name for part in PARTS))
    }


def _check_computation(name: str, start: Any, model: Any, *, mlp: bool) -> None:
    """Raise where the same weights would mean something else; `mlp`: the start has MLPs."""
    one, other = (_computation(m, mlp=mlp) for m in (start, model))
    for field, value in one.items():
        if value != other[field]:
            raise ConfigError(
                f"`start` is `{name}`, whose `{field}` is {value}; this run's is {other[field]}, so that the "
                "same weights would mean something else. Name a model of the same preset, or of one with "
                "fewer layers or no MLPs."
            )


def _computation(model: Any, *, mlp: bool) -> dict[str, Any]:
    """Return what a configuration says of the computation and no shape of a weight tells."""
    config = model.config
    said = {
        "model class": "a GPT-2 of ours" if isinstance(model, OURS) else type(model).__name__,
        "num_attention_heads": config.num_attention_heads,
        "layer_norm_epsilon": getattr(config, "layer_norm_epsilon", None),
        "layer_norm": getattr(config, "layer_norm", True),
        "scale_attn_weights": getattr(config, "scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": getattr(
            config, "scale_attn_by_inverse_layer_idx", False
        ),
    }
    if mlp:
        activation = getattr(config, "activation_function", None)
        said["activation_function"] = activation or getattr(config, "hidden_act", None)
        said["mlp_norm"] = getattr(config, "mlp_norm", False)
    return said
