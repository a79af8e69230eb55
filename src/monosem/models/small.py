"""Shapes of the small language models we train ourselves.

They are GPT-2 blocks (LayerNorm before each part, learned positions): `transformers`' own class, or
ours (`transformer.py`) where MLPs are left out or are SoLU's. Embedding and unembedding are untied,
so that the direct path token -> next token and the MLP are separate matrices.
`1L` is the transformer of Bricken et al. 2023 (one layer, d_model 128, 512 ReLU neurons); the paper
states no heads, context length, positions or norms: four heads, 256 positions, LayerNorm are ours.
"""

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.core.errors import ConfigError, unknown_name
from monosem.models.transformer import SOLU, MonosemConfig, MonosemForCausalLM


@dataclass(frozen=True, kw_only=True)
class SmallModelConfig:
    """Shape of a small transformer."""

    n_layers: int = 1
    """Blocks of attention and MLP."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads; they share `d_model` evenly."""
    d_mlp: int = 512
    """Neurons of each MLP; 0: attention only."""
    activation: str = "relu"
    """Non-linearity of the MLP: `solu`, or one by `transformers`' name."""
    mlp_norm: bool = False
    """A LayerNorm over the neurons after the non-linearity, as with SoLU."""
    context: int = 256
    """Longest context, in tokens, BOS included."""
    init_std: float = 0.02
    """Standard deviation of the first weights: GPT-2's, or about `d_model ** -0.5`, from which the loss
    of narrow models falls sooner (docs/zoo.md)."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("n_layers", "d_model", "n_heads", "d_mlp", "context"):
            value = getattr(self, name)
            if value < (0 if name == "d_mlp" else 1):
                raise ConfigError(f"`{name}` must be at least 1, got {value}.")
        if not self.init_std > 0:
            raise ConfigError(f"`init_std` must be positive, got {self.init_std}. Try 0.02.")
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"`d_model` must be a multiple of `n_heads`, got {self.d_model} and {self.n_heads}."
            )

    @property
    def is_stock(self) -> bool:
        """Whether `transformers` has a class for this shape."""
        return self.d_mlp > 0 and self.activation != SOLU and not self.mlp_norm


WIDE = 0.088
"""About 128 ** -0.5: with it a LayerNorm hardly changes the size of what a matrix writes."""
TWO_LAYERS = SmallModelConfig(n_layers=2, d_mlp=0, context=128, init_std=WIDE)
PRESETS: dict[str, SmallModelConfig] = {
    "1L": SmallModelConfig(),
    "1L-a": SmallModelConfig(),
    "1L-b": SmallModelConfig(),
    "1L-gelu": SmallModelConfig(activation="gelu"),
    "1L-silu": SmallModelConfig(activation="silu"),
    "1L-solu": SmallModelConfig(activation="solu"),
    "1L-solu-norm": SmallModelConfig(activation="solu", mlp_norm=True),
    "2L": SmallModelConfig(n_layers=2),
    "2L-attn-only": TWO_LAYERS,
    "2L-gelu": SmallModelConfig(n_layers=2, activation="gelu", context=128, init_std=WIDE),
    "2L-silu": SmallModelConfig(n_layers=2, activation="silu", context=128, init_std=WIDE),
    "3L-attn-only": SmallModelConfig(n_layers=3, d_mlp=0, context=128, init_std=WIDE),
    "4L": SmallModelConfig(n_layers=4, activation="gelu", context=128, init_std=WIDE),
    "tiny": SmallModelConfig(d_model=32, n_heads=2, d_mlp=64, context=64),
}


def preset(name: str) -> SmallModelConfig:
    """Return a preset by name; an unknown name lists the nearest ones."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def build(
    config: SmallModelConfig, *, vocab_size: int, bos: int | None, eos: int | None, seed: int
) -> GPT2LMHeadModel | MonosemForCausalLM:
    """Return the randomly initialised model; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.is_stock:
            return GPT2LMHeadModel(_gpt2(config, vocab_size, bos, eos))
        return MonosemForCausalLM(_ours(config, vocab_size, bos, eos))


def _ours(
    config: SmallModelConfig, vocab_size: int, bos: int | None, eos: int | None
) -> MonosemConfig:
    return MonosemConfig(
        vocab_size=vocab_size,
        max_position_embeddings=config.context,
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=config.d_mlp,
        hidden_act=config.activation,
        mlp_norm=config.mlp_norm,
        initializer_range=config.init_std,
        use_cache=False,
        bos_token_id=bos,
        eos_token_id=eos,
    )


def _gpt2(
    config: SmallModelConfig, vocab_size: int, bos: int | None, eos: int | None
) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=config.context,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_inner=config.d_mlp,
        activation_function=config.activation,
        initializer_range=config.init_std,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=bos,
        eos_token_id=eos,
    )
