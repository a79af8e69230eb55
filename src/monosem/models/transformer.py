"""The one model class of our own, for shapes that `transformers` has no class for.

    x ← x + attn(ln_1(x));   x ← x + mlp(ln_2(x));   logits = ln_f(x) W_U
    mlp(x) = norm(act(x W_in + b)) W_out + b,         solu(x) = x · softmax(x)

It is GPT-2 with parts that may be left out (the MLPs, all LayerNorms) or put in (SoLU of Elhage
et al. 2022, and the extra LayerNorm after it). `monosem.load_model` knows it; `AutoModelForCausalLM`
does after `monosem.register()`, which is what changes the tables of `transformers`, and nothing else.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from monosem.core.errors import ConfigError, unknown_name

SOLU = "solu"


class MonosemConfig(PreTrainedConfig):
    """Shape of a small transformer, in the words of `transformers`."""

    # `transformers` gives configurations an `__init__` that takes more than its signature says, which a
    # type checker at run time would refuse.
    __no_type_check__ = True
    model_type = "monosem"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 1
    num_attention_heads: int = 4
    head_dim: int | None = None
    """Width of a head; None: the heads share `hidden_size` evenly."""
    intermediate_size: int = 512
    """Neurons of each MLP; 0 leaves the MLPs out."""
    hidden_act: str = "relu"
    """`solu`, or a non-linearity by `transformers`' name."""
    mlp_norm: bool = False
    """A LayerNorm over the neurons, after the non-linearity."""
    layer_norm: bool = True
    """LayerNorms before attention, MLP and unembedding."""
    max_position_embeddings: int = 256
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = False


class SoLU(nn.Module):
    """x · softmax(x) over the neurons (Elhage et al. 2022, "Softmax Linear Units")."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x · softmax(x)."""
        return x * x.softmax(-1)


def eager_attention_forward(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Return softmax(q kᵀ · scaling + mask) v, and the pattern: the plain formula."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = scores.softmax(-1).to(value.dtype)
    return (pattern @ value).transpose(1, 2), pattern


class Attention(nn.Module):
    """Causal attention; q, k and v are one matrix."""

    is_causal = True

    def __init__(self, config: MonosemConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.d_head = config.head_dim or config.hidden_size // config.num_attention_heads
        d_z = self.d_head * config.num_attention_heads
        self.scaling = self.d_head**-0.5
        self.c_attn = nn.Linear(config.hidden_size, 3 * d_z)
        self.c_proj = nn.Linear(d_z, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return what attention adds to the residual, and its pattern where it was computed."""
        batch, n_positions, _ = hidden_states.shape
        q, k, v = (
            x.view(batch, n_positions, -1, self.d_head).transpose(1, 2)
            for x in self.c_attn(hidden_states).chunk(3, dim=-1)
        )
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        # The configuration is asked at every pass: a tap puts another function there.
        attend = AttentionInterface().get_interface(
            cast(Any, self.config)._attn_implementation, eager_attention_forward
        )
        z, pattern = attend(self, q, k, v, mask, scaling=self.scaling, **options)
        return self.c_proj(z.flatten(-2).contiguous()), pattern


class MLP(nn.Module):
    """W_out(norm(act(W_in x)))."""

    def __init__(self, config: MonosemConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = SoLU() if config.hidden_act == SOLU else _activation(config.hidden_act)
        width, epsilon = config.intermediate_size, config.layer_norm_epsilon
        self.norm = nn.LayerNorm(width, eps=epsilon) if config.mlp_norm else nn.Identity()
        self.c_proj = nn.Linear(width, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to the residual."""
        return self.c_proj(self.norm(self.act(self.c_fc(x))))


class Block(nn.Module):
    """Attention and, unless the model is attention-only, an MLP."""

    def __init__(self, config: MonosemConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = _norm(config)
        self.attn = Attention(config, layer)
        self.has_mlp = config.intermediate_size > 0
        if self.has_mlp:
            self.ln_2 = _norm(config)
            self.mlp = MLP(config)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None, **options: Any
    ) -> Tensor:
        """Return the residual stream after the block."""
        x = hidden_states + self.attn(self.ln_1(hidden_states), mask, cache, **options)[0]
        return x + self.mlp(self.ln_2(x)) if self.has_mlp else x


class MonosemPreTrainedModel(PreTrainedModel):
    """What the model and its head share: how weights begin, what attention may be."""

    config: MonosemConfig
    config_class = MonosemConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Begin as GPT-2: normal, and narrower by depth for what adds to the residual."""
        super()._init_weights(module)
        if isinstance(module, Attention | MLP):
            narrow = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            nn.init.normal_(module.c_proj.weight, std=narrow)


class MonosemModel(MonosemPreTrainedModel):
    """The transformer without its unembedding."""

    def __init__(self, config: MonosemConfig) -> None:
        super().__init__(config)
        _check(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = _norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another token embedding in."""
        self.wte = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Return the normalised residual stream of every position."""
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        x = x + self.wpe(position_ids)
        for block in self.h:
            x = block(x, mask, past_key_values)
        return BaseModelOutputWithPast(
            last_hidden_state=self.ln_f(x), past_key_values=past_key_values if use_cache else None
        )


class MonosemForCausalLM(MonosemPreTrainedModel, GenerationMixin):
    """The transformer with its unembedding."""

    def __init__(self, config: MonosemConfig) -> None:
        super().__init__(config)
        self.transformer = MonosemModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the unembedding."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another unembedding in."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, and with `labels` the next-token loss."""
        out = self.transformer(input_ids, attention_mask=attention_mask, **options)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = cast(Any, self).loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)


def register() -> None:
    """Let `AutoConfig` and `AutoModelForCausalLM` read folders of `MonosemForCausalLM`."""
    AutoConfig.register(MonosemConfig.model_type, MonosemConfig, exist_ok=True)
    AutoModelForCausalLM.register(MonosemConfig, MonosemForCausalLM, exist_ok=True)


def _norm(config: MonosemConfig) -> nn.Module:
    if not config.layer_norm:
        return nn.Identity()
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def _activation(name: str) -> nn.Module:
    if name not in ACT2FN:
        raise unknown_name("activation", name, [SOLU, *ACT2FN])
    return ACT2FN[name]


def _check(config: MonosemConfig) -> None:
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"`hidden_size` is {config.hidden_size}, no multiple of `num_attention_heads` "
            f"({config.num_attention_heads}). Change one of them, or give `head_dim`."
        )
