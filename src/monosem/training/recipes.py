"""Recipes: complete settings for well-known models, as functions that return them.

recipe = gpt2_small_resid()
model = LanguageModel.load(recipe.model)
store = build_token_store(recipe.tokens, "runs/tokens")
run = train(recipe.train, model, store, "runs/dictionaries")

They differ from one another in what is read; vary one with `dataclasses.replace`. Widths and k are
starting points for one GPU: Gao et al. 2024, arXiv:2406.04093, section 3.1, take k = 32 at 32 latents
a dimension for GPT-2 small.
"""

from collections.abc import Callable
from dataclasses import dataclass

from monosem.core.errors import unknown_name
from monosem.dictionaries.topk import TopKConfig
from monosem.text.store import TokensConfig
from monosem.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, the text it reads, and the run that is trained on it."""

    model: str
    """Name of the language model on the hub."""
    tokens: TokensConfig
    """Text and tokenizer."""
    train: TrainConfig
    """Site, dictionaries and length."""


def gpt2_small_resid() -> Recipe:
    """GPT-2 small, residual stream before block 8, on OpenWebText: 24,576 latents, k = 32."""
    return Recipe(
        model="openai-community/gpt2",
        tokens=TokensConfig(
            corpora=("hub:Skylion007/openwebtext",),
            tokenizer="openai-community/gpt2",
            max_tokens=200_000_000,
        ),
        train=TrainConfig(
            site="blocks.8.hook_resid_pre",
            dictionaries=(TopKConfig(n_latents=24_576, k=32),),
            n_tokens=300_000_000,
            buffer_tokens=2**20,
        ),
    )


def pythia_70m_resid() -> Recipe:
    """Pythia 70M, residual stream after block 3, on the deduplicated Pile: 16,384 latents, k = 32."""
    return Recipe(
        model="EleutherAI/pythia-70m-deduped",
        tokens=TokensConfig(
            corpora=("hub:EleutherAI/the_pile_deduplicated",),
            tokenizer="EleutherAI/pythia-70m-deduped",
            max_tokens=200_000_000,
        ),
        train=TrainConfig(
            site="blocks.3.hook_resid_post",
            dictionaries=(TopKConfig(n_latents=16_384, k=32),),
            n_tokens=300_000_000,
            buffer_tokens=2**20,
        ),
    )


def gelu_mlp() -> Recipe:
    """The 3,072 GELU neurons of GPT-2 small's first MLP, on OpenWebText: 24,576 latents, k = 32.

    A GELU neuron is hardly ever exactly zero, so that the neuron basis is dense here; a dictionary
    is held against its k largest.
    """
    resid = gpt2_small_resid()
    return Recipe(
        model=resid.model,
        tokens=resid.tokens,
        train=TrainConfig(
            site="blocks.0.mlp.hook_post",
            dictionaries=(TopKConfig(n_latents=24_576, k=32),),
            n_tokens=300_000_000,
            buffer_tokens=2**19,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "gelu-mlp": gelu_mlp,
    "gpt2-small-resid": gpt2_small_resid,
    "pythia-70m-resid": pythia_70m_resid,
}


def recipe(name: str) -> Recipe:
    """Return the recipe `name`; an unknown name lists the nearest ones."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
