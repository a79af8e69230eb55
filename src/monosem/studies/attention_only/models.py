"""Whole models without their MLPs: MLP by MLP within its bound, and token by token where theory says so."""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from monosem.constructions.approximations import approximation
from monosem.constructions.attention_only import CLASSES
from monosem.constructions.conversion import ConversionConfig, activation_of, convert
from monosem.constructions.gated import Product
from monosem.models.access import TransformerAccess
from monosem.models.families import FAMILIES
from monosem.models.language_model import LanguageModel
from monosem.models.loading import embedded_names
from monosem.models.places import blocks_of, submodule
from monosem.studies.attention_only import bounds
from monosem.studies.attention_only.claim import Claim, checked

LONGEST, N_ROWS = 64, 4
"""Of the random tokens that models are compared on."""
LIMIT = 1e-3
"""Share of the largest logit that no logit may differ by: a limit, which no derivation gives."""
COVERED = 0.25
"""Share of positions, at least, whose first token leads by more than twice that."""


def models(named: Sequence[str]) -> Iterator[Claim]:
    """Yield the claims on a random model, on those of the package that convert, and on those named."""
    yield from _random()
    for name in dict.fromkeys([*embedded_names(), *named]):
        original = LanguageModel.load(name, device="cpu")
        if name in named or original.model.config.model_type in CLASSES:
            yield from _mlps(original)
            yield from _tokens(original)


def _random() -> Iterator[Claim]:
    config = GPT2Config(
        vocab_size=61,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=48,
        activation_function="silu",
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).double().eval()
    tokens = torch.randint(0, 61, (2, 48), generator=torch.Generator().manual_seed(0))
    yield checked(
        "a SiLU transformer of four layers without its MLPs has the same logits (limit)",
        torch.float64,
        1e-11,
        lambda: _gap(model, convert(model).model, tokens),
    )


def _mlps(original: LanguageModel) -> Iterator[Claim]:
    """Yield how far the MLP of any block is from its heads, on what it reads of random tokens."""
    reads = [f"blocks.{layer}.ln2.hook_normalized" for layer in range(original.n_layers)]
    seen = original.capture(_random_tokens(original), reads)
    x = [seen[site] for site in reads]
    gains: tuple[float | None, ...] = (None,)
    if activation_of(original.model) == "relu":
        gains = (100.0, None)
    for gain in gains:
        config = ConversionConfig() if gain is None else ConversionConfig(gain=gain)
        how = "" if gain is None else f", gain {gain:g}"
        for dtype in (torch.float64, torch.float32):
            model = _in(original.model, dtype)
            converted = convert(model, config).model
            yield checked(
                f"{_short(original)}: every MLP by heads{how}, approximation and worst-case rounding",
                dtype,
                _bound(original, converted, x, config, dtype),
                partial(_worst, original.model, converted, x, dtype),
            )


def _tokens(original: LanguageModel) -> Iterator[Claim]:
    """Yield how far logits may be apart, and that first tokens which lead by more than that are the same."""
    converted, tokens = convert(original.model).model, _random_tokens(original)
    dtype, limit = original.model.dtype, LIMIT * float(_logits(original.model, tokens).abs().max())
    yield checked(
        f"{_short(original)}: the largest difference of a logit (limit: {LIMIT:g} of the largest)",
        dtype,
        limit,
        lambda: _gap(original.model, converted, tokens),
    )
    yield checked(
        f"{_short(original)}: first tokens that lead by less than twice that limit (limit: 3 in 4)",
        dtype,
        1 - COVERED,
        lambda: float((_leads(original.model, tokens) <= 2 * limit).double().mean()),
    )
    yield checked(
        f"{_short(original)}: another first token at any of the other positions",
        dtype,
        0.0,
        lambda: float(
            (_first(original.model, tokens) != _first(converted, tokens))[
                _leads(original.model, tokens) > 2 * limit
            ].sum()
        ),
    )
    yield checked(
        f"{_short(original)}: greedy text until a lead is below that (tokens that differ)",
        dtype,
        0.0,
        lambda: _differing(original, converted, tokens, limit),
    )


def _bound(
    original: LanguageModel,
    converted: PreTrainedModel,
    x: Sequence[Float[Tensor, "batch pos d"]],
    config: ConversionConfig,
    dtype: torch.dtype,
) -> float:
    row = original.family
    best = approximation(activation_of(original.model), config.n_heads, gain=config.gain)
    found: list[float] = []
    for block, made, rows in zip(
        original.blocks, blocks_of(converted, FAMILIES[converted.config.model_type]), x, strict=True
    ):
        if not row.up:
            found.append(bounds.ungated(block, row, best, rows, dtype))
            continue
        epsilon = bounds.epsilons(submodule(made, row.mlp), config.n_terms)
        product = Product(n_terms=config.n_terms)
        found.append(bounds.gated(block, row, best, product, epsilon, rows, dtype))
    return max(found)


def _worst(
    original: PreTrainedModel, converted: PreTrainedModel, x: Sequence[Tensor], dtype: torch.dtype
) -> float:
    """Return the largest difference of any MLP's output; the original's is taken in float64."""
    row = FAMILIES[original.config.model_type]
    gaps = [
        submodule(new, row.mlp)(rows.to(dtype)).double()
        - copy.deepcopy(submodule(old, row.mlp)).double()(rows.double())
        for old, new, rows in zip(
            blocks_of(original, row), blocks_of(converted, row), x, strict=True
        )
    ]
    return max(float(gap.abs().max()) for gap in gaps)


def _differing(
    original: LanguageModel,
    converted: PreTrainedModel,
    tokens: Int[Tensor, "batch pos"],
    limit: float,
) -> float:
    start = tokens[:1, : max(1, min(8, original.context // 2))]
    n = min(24, original.context - start.shape[1])
    options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
    one = cast(Any, original.model).generate(start, **options)
    other = cast(Any, converted).generate(start, **options)
    unsure = (_leads(original.model, one)[0] <= 2 * limit).nonzero()
    begun = start.shape[1]
    later = [int(p) + 1 for p in unsure.flatten() if int(p) + 1 >= begun]
    end = min([*later, one.shape[1]])
    return float((one[:, begun:end] != other[:, begun:end]).sum())


def _random_tokens(model: TransformerAccess) -> Int[Tensor, "batch pos"]:
    shape, generator = (N_ROWS, min(model.context, LONGEST)), torch.Generator().manual_seed(0)
    return torch.randint(0, model.vocab_size, shape, generator=generator)


def _logits(model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    return cast(Any, model)(input_ids=tokens, use_cache=False).logits


def _gap(one: PreTrainedModel, other: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> float:
    return float((_logits(one, tokens) - _logits(other, tokens)).abs().max())


def _first(model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    return _logits(model, tokens).argmax(-1)


def _leads(model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    top = _logits(model, tokens).topk(2).values
    return top[..., 0] - top[..., 1]


def _in(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    return copy.deepcopy(model).to(dtype)  # pyright: ignore[reportArgumentType] - torch's stub of `to` on a class of transformers


def _short(model: LanguageModel) -> str:
    return model.name.rstrip("/").rpartition("/")[2]
