"""Repeated n-grams, which induction continues: "moon bread … moon" → " bread".

With a *short* prefix one token decides what follows: it stood there once before. With a *longer*
one the last token stood there twice, each time with another successor, and only the tokens before
it tell which is meant: " cold moon bread … warm moon stone … cold moon" → " bread". A head that
matches one token (Olsson et al. 2022) passes prefix 1 and is at chance, 1/2, on prefixes 2 and 3.

Test cases are random tokens of the model's own vocabulary, so no text can hold them; a model that was
drilled (`monosem pretrain --drill`) has met their kind, never the case.
"""

import functools
from random import Random

from monosem.text.genres.common import COMMON
from monosem.text.genres.genre import Ability, Case, Genre
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import POOL

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PREFIXES = (1, 2, 3)
N_WORDS = 40
"""Words of a line, about; in so few a short stretch comes again often."""


def write(random: Random) -> str:
    """Return a line with a stretch that comes again, or with stretches that share their middles."""
    if random.random() < 0.85:
        return _plain(random)
    return _ambiguous(random)


def _plain(random: Random) -> str:
    stretch = [_word(random) for _ in range(random.choice((2, 3, 4, 4, 5, 6, 8, 12)))]
    words = list(stretch)
    while len(words) < N_WORDS:
        # Fillers and starts are drawn anew: at a fixed distance the place would tell what the token does.
        words += [_word(random) for _ in range(random.choice((0, 0, 1, 1, 2)))]
        words += stretch[random.randrange((len(stretch) + 2) // 3) :]
    return " ".join(words)


def _ambiguous(random: Random) -> str:
    shared = [_word(random) for _ in range(random.choice((1, 1, 2)))]
    branches = [[_word(random), *shared, _word(random)] for _ in range(2)]
    words: list[str] = []
    for _ in range(random.randint(3, 5)):
        words += [*random.choice(branches), *(_word(random) for _ in range(random.randint(0, 2)))]
    return " ".join(words)


def _word(random: Random) -> str:
    draw = random.random()
    if draw < 0.9:
        word = random.choice(POOL if draw < 0.4 else COMMON)
        # Beginnings of words are words of their own here, or tokens that are only parts of words were
        # never met in random text.
        return word[: random.randint(2, 3)] if random.random() < 0.3 else word
    if draw < 0.98:
        return "".join(random.choice(LETTERS) for _ in range(random.randint(1, 2)))
    return str(random.randrange(100))


def cases_of(prefix: int, random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return `n` cases whose continuation the last `prefix` tokens decide and fewer do not.

    Each prompt is `prefix` random tokens x_1 … x_p and what followed them, the same tokens with
    another first one and another successor (for p > 1), random tokens between, and x_1 … x_p.
    """
    plain = vocabulary.plain
    if len(plain) < 24:
        return []
    made: list[Case] = []
    while len(made) < n:
        drawn = random.sample(plain, 20)
        first, other, right, wrong = drawn[:4]
        shared, filler = drawn[4 : 3 + prefix], drawn[6 + prefix : 16]
        meant, rival = [first, *shared, right], [other, *shared, wrong]
        if prefix == 1:
            rival = [other, wrong]
        parts = [meant, rival] if len(made) % 2 else [rival, meant]
        cut = random.randrange(1, 4)
        prompt = [*filler[:cut], *parts[0], *filler[cut:5], *parts[1], *filler[5:], *meant[:-1]]
        made.append(Case(prompt=tuple(prompt), answer=(right,), wrong=((wrong,),)))
    return made


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return `n` cases in which a whole random stretch comes again, wrong being the rest of it."""
    plain = vocabulary.plain
    if len(plain) < 24:
        return []
    made: list[Case] = []
    while len(made) < n:
        stretch = random.sample(plain, 12)
        at = random.randrange(3, 10)
        wrong = tuple((token,) for i, token in enumerate(stretch) if i != at)
        prompt = (*stretch, *stretch[:at])
        made.append(Case(prompt=prompt, answer=(stretch[at],), wrong=wrong))
    return made


GENRE = Genre(
    name="induction",
    about="random words that come again",
    share=16.0,
    write=write,
    ability=Ability(cases=cases, bar=0.5, chance=1 / 12),
)
BY_PREFIX = tuple(
    Genre(
        name=f"induction-prefix-{prefix}",
        about=f"random words that come again, told apart by the last {prefix}",
        share=0.0,
        write=_ambiguous,
        ability=Ability(cases=functools.partial(cases_of, prefix), bar=0.8, chance=0.5),
    )
    for prefix in PREFIXES
)
"""The score by length of prefix: tested apart, the text is the first one's."""
