"""Surface variants of a word (` an`, `An`, `_an`): whether they differ by one shared offset.

For every kind of variant the rows of all pairs (a, b) of the vocabulary are taken. If b − a were one vector
for all words, the share of ‖b − a‖² that pairs have in common would be 1. And from the offset of some
pairs the others could be told: the row nearest to a + offset would be b (held-out analogies). What is nearest
to a *without* the offset is the control: variants of a word lie near each other anyhow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from monosem.circuits.embeddings import matrices
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import untrained

KINDS: dict[str, Callable[[str], str]] = {
    "space": lambda word: f" {word}",
    "capital": lambda word: word.capitalize(),
    "capital after a space": lambda word: f" {word.strip().capitalize()}",
    "all capitals": lambda word: word.upper(),
    "underscore": lambda word: f"_{word}",
    "plural": lambda word: f"{word}s",
}
"""What becomes of a word of small letters; of one with a space before it in `capital after a space`."""
FEWEST, SHORTEST = 10, 2
"""Pairs below which nothing is said; letters of a word."""


@dataclass(frozen=True, kw_only=True)
class Offset:
    """One kind of variant in one matrix."""

    kind: str
    """Which change of the word."""
    matrix: str
    """W_E or W_U."""
    n: int
    """Pairs of the vocabulary."""
    shared: float | None
    """Share of ‖b − a‖² that all pairs have in common; None below 10 pairs."""
    analogies: float | None
    """Share of held-out pairs where b is nearest to a + offset, of all tokens but a."""
    without: float | None
    """The same without the offset."""
    untrained: float | None
    """The share in common in an untrained model."""


def strings(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str]:
    """Return every token's text, with a space where the tokenizer writes Ġ or ▁."""
    ids = list(range(min(vocab_size, len(tokenizer))))
    raw = cast(
        list[str | None], tokenizer.convert_ids_to_tokens(ids)
    )  # of ids that have none: None
    return ["" if t is None else t.replace("Ġ", " ").replace("▁", " ") for t in raw]


def pairs(texts: list[str], kind: str) -> Int64[Tensor, "n 2"]:
    """Return the tokens (a, b) where the text of b is that variant of a's.

    >>> pairs(["an", " an", "dog", "An", " dog"], "space").tolist()
    [[0, 1], [2, 4]]
    """
    if kind not in KINDS:
        raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}, got `{kind}`.")
    at = {text: token for token, text in reversed(list(enumerate(texts)))}
    found: list[tuple[int, int]] = []
    for text, token in sorted(at.items(), key=lambda pair: pair[1]):
        word = text.removeprefix(" ") if kind == "capital after a space" else text
        spaced = kind != "capital after a space" or text.startswith(" ")
        if not (spaced and word.isalpha() and word.islower() and len(word) >= SHORTEST):
            continue
        other = at.get(KINDS[kind](text))
        if other is not None and other != token:
            found.append((token, other))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


@torch.no_grad()
def offsets(model: LanguageModel, *, seed: int = 0) -> list[Offset]:
    """Return every kind of variant in W_E and W_U, beside an untrained model."""
    if model.tokenizer is None:
        raise ConfigError(
            f"`{model.name}` has no tokenizer, so its tokens have no text. Load a folder with one."
        )
    texts = strings(model.tokenizer, model.vocab_size)
    here, there = matrices(model), matrices(untrained(model, seed))
    found: list[Offset] = []
    for kind in KINDS:
        known = pairs(texts, kind)
        for name in (n for n in here if n != "W_pos"):
            none = len(known) < FEWEST
            told = (None, None) if none else analogies(here[name], known, seed=seed)
            found.append(
                Offset(
                    kind=kind,
                    matrix=name,
                    n=len(known),
                    shared=None if none else shared(here[name], known),
                    analogies=told[0],
                    without=told[1],
                    untrained=None if none else shared(there[name], known),
                )
            )
    return found


def shared(x: Float[Tensor, "vocab d"], known: Int64[Tensor, "n 2"]) -> float:
    """Return the share of ‖b − a‖² that pairs have in common: mean d_i · d_j over i ≠ j, over mean ‖d‖²."""
    d = (x[known[:, 1]] - x[known[:, 0]]).double()
    n, own = len(d), d.square().sum()
    across = (d.sum(0).square().sum() - own) / (n * (n - 1))
    return float(across / (own / n).clamp_min(1e-300))


def analogies(
    x: Float[Tensor, "vocab d"], known: Int64[Tensor, "n 2"], *, seed: int = 0
) -> tuple[float, float]:
    """Return the share of held-out pairs told from the offset of the others, and without any offset.

    Nearest is by cosine after the mean row is taken away; half of the pairs are held out. A token of a
    held-out pair is in no pair that the offset is learnt from.
    """
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    held, rest = known[order[: len(known) // 2]], known[order[len(known) // 2 :]]
    rest = rest[~torch.isin(rest, held).any(1)]
    if not len(rest):
        raise ConfigError("No pair is left to learn an offset from. Give more pairs.")
    rows = x - x.mean(0)
    unit = nn.functional.normalize(rows, dim=1)
    offset = (rows[rest[:, 1]] - rows[rest[:, 0]]).mean(0)
    told: list[float] = []
    for added in (offset, torch.zeros_like(offset)):
        nearness = (rows[held[:, 0]] + added) @ unit.T
        nearness[torch.arange(len(held)), held[:, 0]] = -torch.inf
        told.append(float((nearness.argmax(1) == held[:, 1]).double().mean()))
    return told[0], told[1]
