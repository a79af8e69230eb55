"""The table of model families: where each `transformers` family keeps the modules we read.

One row per `model_type`. A new family is a new row; a single model may bring its own row by hand,
`LanguageModel(model, tokenizer, family=Family(...))`, and is then checked by the self-test.
Paths are attribute paths: `base` from the causal language model, `layers`, `embed`, `pos_embed`
and `ln_final` from `base`, all others from one block.
"""

import dataclasses
from dataclasses import dataclass

from transformers import PreTrainedConfig

from monosem.core.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths of one family of causal language models."""

    base: str
    """The transformer without its unembedding."""
    layers: str
    """The list of blocks."""
    embed: str
    """Token embedding; its output is `hook_embed`."""
    pos_embed: str = ""
    """Learned position embedding, where the family has one."""
    ln_final: str
    """Norm before the unembedding."""
    ln1: str
    """Norm whose output attention reads."""
    ln2: str
    """Norm whose output the MLP reads; its input is `hook_resid_mid`, unless `parallel`; empty without
    MLPs."""
    attn: str
    """Attention module."""
    o_proj: str
    """Attention's output projection; its input is `attn.hook_z`."""
    mlp: str
    """MLP module; empty in a model of attention only, and then `ln2`, `pre` and `down` too."""
    pre: str
    """Projection whose output is `mlp.hook_pre` (the gate, in gated MLPs)."""
    down: str
    """MLP's output projection; its input is `mlp.hook_post`, the neurons."""
    up: str = ""
    """In gated MLPs, the projection that the activated gate is multiplied with."""
    attn_out: str = ""
    """Module whose output is added to the residual for attention, if it is not `attn`."""
    mlp_out: str = ""
    """Module whose output is added to the residual for the MLP, if it is not `mlp`."""
    parallel: bool = False
    """Attention and MLP both read `hook_resid_pre`; there is no `hook_resid_mid`."""
    q_proj: str = ""
    """Only for attention outside `AttentionInterface`: the module whose output is q."""
    k_proj: str = ""
    v_proj: str = ""
    pattern: str = ""
    """Only for attention outside `AttentionInterface`: the module whose input is the pattern."""

    @property
    def has_interface(self) -> bool:
        """Whether attention goes through `transformers`' `AttentionInterface`."""
        return not self.q_proj


_LLAMA = Family(
    base="model",
    layers="layers",
    embed="embed_tokens",
    ln_final="norm",
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="self_attn",
    o_proj="self_attn.o_proj",
    mlp="mlp",
    pre="mlp.gate_proj",
    down="mlp.down_proj",
    up="mlp.up_proj",
)
_GEMMA = dataclasses.replace(
    _LLAMA,
    ln2="pre_feedforward_layernorm",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_GPT2 = Family(
    base="transformer",
    layers="h",
    embed="wte",
    pos_embed="wpe",
    ln_final="ln_f",
    ln1="ln_1",
    ln2="ln_2",
    attn="attn",
    o_proj="attn.c_proj",
    mlp="mlp",
    pre="mlp.c_fc",
    down="mlp.c_proj",
)
_GPT_NEO = dataclasses.replace(
    _GPT2,
    o_proj="attn.attention.out_proj",
    q_proj="attn.attention.q_proj",
    k_proj="attn.attention.k_proj",
    v_proj="attn.attention.v_proj",
    pattern="attn.attention.attn_dropout",
)
_GPT_NEOX = Family(
    base="gpt_neox",
    layers="layers",
    embed="embed_in",
    ln_final="final_layer_norm",
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="attention",
    o_proj="attention.dense",
    mlp="mlp",
    pre="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    attn_out="post_attention_dropout",
    mlp_out="post_mlp_dropout",
    parallel=True,
)

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _GPT_NEOX,
    "monosem": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
}


def family_of(config: PreTrainedConfig) -> Family:
    """Return the row of `config.model_type`; `UnsupportedModelError` says what a row needs."""
    row = FAMILIES.get(config.model_type)
    if row is None:
        fields = dataclasses.fields(Family)
        needed = ", ".join(f.name for f in fields if f.default is dataclasses.MISSING)
        raise UnsupportedModelError(
            f"Models of type `{config.model_type}` are not in the table of families. Supported: "
            f"{', '.join(FAMILIES)}. A table row gives the paths of the modules {needed}; pass one "
            "by hand as `LanguageModel(model, tokenizer, family=Family(...))` "
            "(see `monosem.models.families`), and the self-test checks it."
        )
    if row.mlp and getattr(config, "intermediate_size", None) == 0:
        row = dataclasses.replace(row, ln2="", mlp="", pre="", down="", up="")
    parallel = getattr(config, "use_parallel_residual", row.parallel)
    return dataclasses.replace(row, parallel=bool(parallel))
