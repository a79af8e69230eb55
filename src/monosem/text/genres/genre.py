"""A genre: one kind of generated text, and the ability that a model may learn from it.

A genre writes paragraphs of training text. Where reading it needs an ability, the genre also makes
*cases*: prompts from templates that no text holds, with names and words that training text does not
hold in that form (each genre says where else they are met):

    score(case) = 1 if logit(answer) > logit(w) for every w of `wrong`, else 0        (`prefers`)
    share       = mean score of the cases;   the ability is there if share ≥ bar
                  and, where there are controls, share ≥ factor * share of the controls

One file with a `GENRE` is all that a new ability needs (`docs/zoo.md`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.text.genres.vocabulary import Vocabulary

Item = TypeVar("Item")
Text = str | tuple[int, ...]
"""Text, or tokens where the case is made of tokens."""
TEST_EVERY = 4
"""One of so many words, names or templates is kept for tests."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt: a model with the ability puts `answer` above every one of `wrong`."""

    prompt: Text
    answer: Text
    """What should follow; only its first token is looked at. As text it begins with its space."""
    wrong: tuple[Text, ...]
    """What follows only without the ability."""
    group: str = ""
    """Kind of case (a template, ABBA or BABA); scores are also given by group."""
    draw: int | None = None
    """Number of the draw of words and template that it shares with other cases, None where it shares none.
    Cases of one draw are won or lost together, more or less: intervals are of drawing draws anew."""
    control: bool = False
    """Whether the prompt was spoilt on purpose: its score is what is to be had without the ability."""


Metric = Callable[
    [Float[Tensor, "case vocab"], Int[Tensor, " case"], Bool[Tensor, "case vocab"]],
    Float[Tensor, " case"],
]
"""Scores in [0, 1] from the logits at the prompts' last tokens, the answers, and the wrong tokens."""


def prefers(
    logits: Float[Tensor, "case vocab"],
    answer: Int[Tensor, " case"],
    wrong: Bool[Tensor, "case vocab"],
) -> Float[Tensor, " case"]:
    """Return 1 where the answer's logit is above those of all wrong tokens, else 0."""
    right = logits.gather(1, answer[:, None].long())[:, 0]
    best = logits.masked_fill(~wrong, float("-inf")).amax(1)
    return (right > best).float()


def difference(
    logits: Float[Tensor, "case vocab"],
    answer: Int[Tensor, " case"],
    wrong: Bool[Tensor, "case vocab"],
) -> Float[Tensor, " case"]:
    """Return how far the answer's logit is above the best of the wrong ones."""
    right = logits.gather(1, answer[:, None].long())[:, 0]
    return (right - logits.masked_fill(~wrong, float("-inf")).amax(1)).float()


@dataclass(frozen=True, kw_only=True)
class Ability:
    """How an ability is tested."""

    cases: Callable[[Random, int, Vocabulary], list[Case]]
    """Up to so many cases for a vocabulary, controls beside them; none where it cannot word them."""
    bar: float
    """Least mean score of a model that has the ability."""
    chance: float
    """Mean score of guessing between the answer and the wrong ones; a shortcut that misleads scores less."""
    factor: float = 0.0
    """Where there are controls: the mean score must also be so many times theirs."""
    metric: Metric = field(default=prefers)
    """How one case is scored."""

    def __post_init__(self) -> None:
        """Refuse bars that every model, or none, would pass."""
        if not self.chance < self.bar <= 1:
            raise ConfigError(
                f"`bar` is {self.bar}; it must lie above `chance` ({self.chance}) and not above 1."
            )


@dataclass(frozen=True, kw_only=True)
class Genre:
    """One kind of generated text."""

    name: str
    """In lower case with hyphens."""
    about: str
    """What it is, in a phrase."""
    share: float
    """Its share of the paragraphs of generated text, relative to the other genres' shares."""
    write: Callable[[Random], str]
    """Returns one paragraph of training text."""
    ability: Ability | None = None
    """What reading it needs, if that can be tested."""


def training(items: Sequence[Item], salt: int = 0) -> tuple[Item, ...]:
    """Return the items that training text may hold: all but every fourth.

    >>> training("abcdefgh"), held_out("abcdefgh")
    (('a', 'b', 'c', 'e', 'f', 'g'), ('d', 'h'))
    """
    return tuple(item for i, item in enumerate(items) if (i + salt) % TEST_EVERY != TEST_EVERY - 1)


def held_out(items: Sequence[Item], salt: int = 0) -> tuple[Item, ...]:
    """Return the items kept for tests: every fourth. `salt` moves which, so that genres differ."""
    return tuple(item for i, item in enumerate(items) if (i + salt) % TEST_EVERY == TEST_EVERY - 1)


def filled(template: str, **parts: str) -> str:
    """Return the template with its parts put in, and `a` before a vowel made `an`."""
    for name, part in parts.items():
        if part.startswith(tuple("aeiou")):
            template = re.sub(rf"\b([aA]) {{{name}}}", rf"\1n {{{name}}}", template)
    return template.format(**parts)


def last_token(case: Case, vocabulary: Vocabulary) -> tuple[list[int], int, list[int]] | None:
    """Return prompt, answer and wrong tokens; None where a wrong answer begins as the right one does."""
    prompt = vocabulary.tokens(case.prompt)
    answer = vocabulary.first(case.prompt, case.answer)
    wrong = [vocabulary.first(case.prompt, text) for text in case.wrong]
    if answer is None or None in wrong or answer in wrong:
        return None
    return prompt, answer, [token for token in wrong if token is not None]


def wrong_mask(wrong: Sequence[Sequence[int]], vocab_size: int) -> Bool[Tensor, "case vocab"]:
    """Return a mask of each case's wrong tokens."""
    mask = torch.zeros(len(wrong), vocab_size, dtype=torch.bool)
    for row, tokens in zip(mask, wrong, strict=True):
        row[list(tokens)] = True
    return mask
