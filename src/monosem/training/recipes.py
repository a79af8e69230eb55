"""Recipes: complete settings for well-known models, as functions that return them.

recipe = gpt2_small_resid()
model = LanguageModel.load(recipe.model)
store = build_token_store(recipe.tokens, "runs/tokens")
run = train(recipe.train, model, store, "runs/dictionaries")

They differ from one another in what is read; vary one with `dataclasses.replace`. Widths and k are
starting points for one GPU: Gao et al. 2024, arXiv:2406.04093, section 3.1, take k = 32 at 32 latents
a dimension for GPT-2 small.

The defaults of `TrainConfig` are for a thousand steps; these runs have 73,243. Their peak learning
rate is Gao et al.'s 2e-4 / sqrt(n_latents / 2^14), which dictionary_learning takes for its TopK too,
with its warm-up of 1,000 steps and a decay over the last fifth; 4,096 tokens a step is the batch of
SAELens and of the GPT-2 dictionaries of Dunefsky et al. 2024, arXiv:2406.11944.
"""

from collections.abc import Callable
from dataclasses import dataclass

from monosem.core.errors import unknown_name
from monosem.dictionaries.topk import TopKConfig
from monosem.text.store import TokensConfig
from monosem.training.optim import OptimConfig
from monosem.training.settings import TrainConfig

N_TOKENS = 300_000_000
"""Ordinary tokens of a run, repeats counted."""
BATCH_SIZE = 4096
"""Tokens a step."""
OPTIM = OptimConfig(lr=2e-4, warmup=1000 * BATCH_SIZE / N_TOKENS, decay=0.2)
"""Optimiser and schedule of a long run."""


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
            n_tokens=N_TOKENS,
            batch_size=BATCH_SIZE,
            optim=OPTIM,
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
            n_tokens=N_TOKENS,
            batch_size=BATCH_SIZE,
            optim=OPTIM,
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
            n_tokens=N_TOKENS,
            batch_size=BATCH_SIZE,
            optim=OPTIM,
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
