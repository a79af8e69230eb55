"""Whole models without their MLPs: MLP by MLP within its bound, and token by token where theory says so."""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from monosem.constructions.approximations import approximation
from monosem.constructions.attention_only import CLASSES
from monosem.constructions.conversion import ConversionConfig, activation_of, convert
from monosem.constructions.functions import function
from monosem.constructions.gated import Product
from monosem.constructions.terms import EXACT
from monosem.models.access import TransformerAccess
from monosem.models.families import FAMILIES
from monosem.models.language_model import LanguageModel
from monosem.models.loading import embedded_names
from monosem.models.places import blocks_of, submodule
from monosem.studies.attention_only import bounds
from monosem.studies.attention_only.claim import Claim, checked
from monosem.studies.attention_only.whole import carried

LONGEST, N_ROWS = 64, 4
"""Of the random tokens that models are compared on."""
N_PROMPT, N_GREEDY = 8, 24
"""Tokens of the prompt and of the text that goes on from it."""
SAME, NOISES = 1e-11, 2.0
"""What is asked of an exact conversion: largest difference in float64, and roundings of float32."""


def models(named: Sequence[str]) -> Iterator[Claim]:
    """Yield the claims on a random model, on those of the package that convert, and on those named."""
    random = _random()
    yield from _exact(random)
    yield from _whole(random)
    for name in dict.fromkeys([*embedded_names(), *named]):
        original = LanguageModel.load(name, device="cpu")
        if name in named or original.model.config.model_type in CLASSES:
            yield from of_model(original)


def of_model(original: LanguageModel) -> Iterator[Claim]:
    """Yield the claims on one model: all of GPT-2's type, of others those on MLPs alone."""
    yield from _mlps(original)
    if not original.family.up and function(activation_of(original.model)).name in EXACT:
        yield from _exact(original)
    if original.model.config.model_type == "gpt2":
        yield from _whole(original)


def _random() -> LanguageModel:
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
        model = GPT2LMHeadModel(config).eval()
    return LanguageModel(model, name="random SiLU model of four layers")


def _exact(original: LanguageModel) -> Iterator[Claim]:
    """Yield what is asked of models whose neurons are heads exactly; limits, beside `_whole`'s bounds."""
    tokens, single = _random_tokens(original), _in(original.model, torch.float32)
    double = _in(original.model, torch.float64)
    yield checked(
        f"{_short(original)}: the same logits without its MLPs (limit)",
        torch.float64,
        SAME,
        lambda: _gap(_logits(double, tokens), _logits(convert(double).model, tokens)),
    )
    true = _logits(double, tokens)
    yield checked(
        f"{_short(original)}: its logits miss the true ones by at most twice what the original's do (limit)",
        torch.float32,
        NOISES * _gap(true, _logits(single, tokens)),
        lambda: _gap(true, _logits(convert(single).model, tokens)),
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


def _whole(original: LanguageModel) -> Iterator[Claim]:
    """Yield how far logits may be apart by what is proved, and that first tokens so decided are the same.

    Where nothing is proved, as in float32 of most models, nothing is claimed.
    """
    tokens, activation = _random_tokens(original), activation_of(original.model)
    carry = partial(carried, best=approximation(activation), name=activation)
    for dtype in (torch.float64, torch.float32):
        model = LanguageModel(_in(original.model, dtype), name=original.name)
        reach, short = carry(model, tokens=tokens), _short(original)
        if not reach.decided.any():
            continue
        prompt = tokens[:1, : max(1, min(N_PROMPT, model.context // 2))]
        text = _greedy(model.model, prompt, min(N_GREEDY, model.context - prompt.shape[1]))
        # of the new tokens, those before the first that is not decided
        sure = carry(model, tokens=text).decided[0, prompt.shape[1] - 1 : -1]
        n = int(sure.long().cumprod(0).sum())
        converted, largest = convert(model.model).model, float(reach.logits.max())
        n_decided = f"{int(reach.decided.sum())} of {reach.decided.numel()}"
        if math.isfinite(largest):
            yield checked(
                f"{short}: the largest difference of a logit, its MLPs' bounds carried through",
                dtype,
                2 * largest,  # either is within `largest` of the run whose patterns were seen
                partial(_logit_gap, model.model, converted, tokens),
            )
        yield checked(
            f"{short}: another first token where that decides it ({n_decided} positions)",
            dtype,
            0.0,
            partial(_other_firsts, model.model, converted, tokens, reach.decided),
        )
        if n:
            yield checked(
                f"{short}: greedy text while that decides it ({n} tokens; how many differ)",
                dtype,
                0.0,
                partial(_differing, converted, prompt, text[:, : prompt.shape[1] + n]),
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
            found.append(float(bounds.ungated(block, row, best, rows, dtype).max()))
            continue
        epsilon = bounds.epsilons(submodule(made, row.mlp), config.n_terms)
        product = Product(n_terms=config.n_terms)
        errors = bounds.gated(block, row, best, product, epsilon, rows, dtype)
        found.append(float(errors.max()))
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
    converted: PreTrainedModel, prompt: Int[Tensor, "1 start"], text: Int[Tensor, "1 pos"]
) -> float:
    return float((text != _greedy(converted, prompt, text.shape[1] - prompt.shape[1])).sum())


def _greedy(model: PreTrainedModel, text: Int[Tensor, "1 start"], n: int) -> Int[Tensor, "1 pos"]:
    for _ in range(n):
        text = torch.cat([text, _logits(model, text)[:, -1:].argmax(-1)], 1)
    return text


def _random_tokens(model: TransformerAccess) -> Int[Tensor, "batch pos"]:
    shape, generator = (N_ROWS, min(model.context, LONGEST)), torch.Generator().manual_seed(0)
    return torch.randint(0, model.vocab_size, shape, generator=generator)


def _logits(model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    return cast(Any, model)(input_ids=tokens, use_cache=False).logits


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def _logit_gap(
    one: PreTrainedModel, other: PreTrainedModel, tokens: Int[Tensor, "batch pos"]
) -> float:
    return _gap(_logits(one, tokens), _logits(other, tokens))


def _other_firsts(
    one: PreTrainedModel,
    other: PreTrainedModel,
    tokens: Int[Tensor, "batch pos"],
    decided: Bool[Tensor, "batch pos"],
) -> float:
    differ = _logits(one, tokens).argmax(-1) != _logits(other, tokens).argmax(-1)
    return float((differ & decided).sum())


def _in(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    return copy.deepcopy(model).to(dtype)  # pyright: ignore[reportArgumentType] - torch's stub of `to` on a class of transformers


def _short(model: LanguageModel) -> str:
    """Return the last part of a path that says something: training writes a model to NAME/model."""
    parts = [part for part in model.name.split("/") if part not in ("", "model")]
    return parts[-1] if parts else model.name
