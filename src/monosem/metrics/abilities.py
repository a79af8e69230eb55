"""What a language model can do, measured on cases that no training text of ours holds.

    share = mean over cases of score(logits at the prompt's end)         (genre.py has the scores)
    interval = 95 %, of drawing anew from the genre's own names, words and templates: Wilson's, of as many
               independent cases as they are worth that share them (ABBA and BABA of the same two names;
               `measure.py`)

A study calls `ability(model, "indirect-objects")` first: below its bar, what the study would say of
the model is about noise, and the answer is `not applicable: the model lacks it`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.metrics.measure import share_of_groups
from monosem.models.language_model import LanguageModel
from monosem.text.genres.corpus import GENRES, genres_of
from monosem.text.genres.genre import Ability, Case, Genre, last_token, wrong_mask
from monosem.text.genres.vocabulary import Vocabulary

LACKS = "not applicable: the model lacks it"
MOST_LOGITS = 2**24
"""Numbers of one batch's logits, about; it bounds memory for large vocabularies."""
FEWEST = 20
"""Cases below which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One ability of one model."""

    name: str
    about: str
    share: float | None
    """Mean score of the cases; None where there were too few."""
    low: float = 0.0
    high: float = 1.0
    """Ends of the interval around `share`."""
    n: int
    """Cases that were scored."""
    bar: float
    chance: float
    control: float | None = None
    """Mean score of the controls, where there are any."""
    factor: float = 0.0
    """What `share` must be a multiple of `control` by."""
    groups: dict[str, float] = field(default_factory=dict)
    """Mean score by kind of case."""

    @property
    def holds(self) -> bool:
        """Whether the share reaches the bar and, where there are controls, the multiple of theirs."""
        if self.share is None or self.share < self.bar:
            return False
        return self.control is None or self.share >= self.factor * self.control

    @property
    def verdict(self) -> str:
        """`yes`, or why a study of this ability would say nothing."""
        if self.share is None:
            return f"not applicable: the tokenizer words {self.n} cases, of at least {FEWEST}"
        return "yes" if self.holds else LACKS


def ability(model: LanguageModel, name: str, *, n: int = 400, seed: int = 0) -> Measured:
    """Return one ability of `model`, by the name of its genre or the Python file of your own."""
    (genre,) = able(genres_of([name]))
    vocabulary = Vocabulary(model.vocab_size, model.tokenizer)
    return measure(model, genre, vocabulary, n=n, seed=seed)


def abilities(
    model: LanguageModel,
    genres: Sequence[Genre] = GENRES,
    *,
    n: int = 400,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
) -> dict[str, Measured]:
    """Return every ability that `genres` test, by name.

    `vocabulary` is the model's own, kept by who asks again and again.
    """
    vocabulary = vocabulary or Vocabulary(model.vocab_size, model.tokenizer)
    tested = able(genres, strict=genres is not GENRES)  # what a user names must test something
    return {genre.name: measure(model, genre, vocabulary, n=n, seed=seed) for genre in tested}


def able(genres: Sequence[Genre], *, strict: bool = True) -> tuple[Genre, ...]:
    """Return the genres that test an ability; with `strict` one that does not is an error."""
    for genre in genres:
        if strict and genre.ability is None:
            names = ", ".join(g.name for g in GENRES if g.ability is not None)
            raise ConfigError(f"The genre `{genre.name}` tests no ability. Those that do: {names}.")
    return tuple(genre for genre in genres if genre.ability is not None)


def measure(
    model: LanguageModel, genre: Genre, vocabulary: Vocabulary, *, n: int = 400, seed: int = 0
) -> Measured:
    """Return how `model` does on up to `n` cases of `genre`, which are the same for every model."""
    tested = cast(Ability, genre.ability)
    drawn = tested.cases(Random(f"{genre.name} {seed}"), n, vocabulary)
    cases, scores = scored(model, tested, drawn, vocabulary)
    judged = [(case, s) for case, s in zip(cases, scores, strict=True) if not case.control]
    plain = [s for _, s in judged]
    spoilt = [s for case, s in zip(cases, scores, strict=True) if case.control]
    enough = len(plain) >= FEWEST
    share = sum(plain) / len(plain) if enough else None
    low, high = interval([case for case, _ in judged], plain) if enough else (0.0, 1.0)
    return Measured(
        name=genre.name,
        about=genre.about,
        share=share,
        low=low,
        high=high,
        n=len(plain),
        bar=tested.bar,
        chance=tested.chance,
        control=sum(spoilt) / len(spoilt) if spoilt and enough else None,
        factor=tested.factor,
        groups=_by_group(cases, scores) if enough else {},
    )


def scored(
    model: LanguageModel, tested: Ability, cases: Sequence[Case], vocabulary: Vocabulary
) -> tuple[list[Case], list[float]]:
    """Return the cases that the tokenizer can word and the context can hold, and their scores."""
    worded = [(case, found) for case in cases if (found := last_token(case, vocabulary))]
    fitting = [(case, found) for case, found in worded if len(found[0]) <= model.context]
    fitting.sort(key=lambda pair: len(pair[1][0]))  # like lengths side by side
    scores: list[float] = []
    start = 0
    while start < len(fitting):
        length = len(fitting[min(start + 63, len(fitting) - 1)][1][0])
        size = min(64, max(1, MOST_LOGITS // (length * model.vocab_size)))
        part = [found for _, found in fitting[start : start + size]]
        logits = last_logits(model, [prompt for prompt, _, _ in part])
        answers = torch.tensor([answer for _, answer, _ in part])
        wrong = wrong_mask([wrong for _, _, wrong in part], model.vocab_size)
        scores += [float(x) for x in tested.metric(logits, answers, wrong)]
        start += size
    return [case for case, _ in fitting], scores


def last_logits(
    model: LanguageModel, prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "case vocab"]:
    """Return the logits after each prompt; they are padded on the right, which no token before sees."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    with torch.no_grad():
        logits = model.logits(tokens)
    return logits[torch.arange(len(prompts)), ends].float().cpu()


def interval(cases: Sequence[Case], scores: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean score of some cases, of drawing anew what they share."""
    alone = (-1 - i for i in range(len(cases)))
    draws = [i if case.draw is None else case.draw for case, i in zip(cases, alone, strict=True)]
    found = share_of_groups(np.array(scores), np.array(draws, np.int64))
    return cast(float, found.low), cast(float, found.high)


def _by_group(cases: Sequence[Case], scores: Sequence[float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for case, score in zip(cases, scores, strict=True):
        if case.group and not case.control:
            groups.setdefault(case.group, []).append(score)
    return {name: sum(found) / len(found) for name, found in sorted(groups.items())}
