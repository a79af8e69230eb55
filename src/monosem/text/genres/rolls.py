"""Rolls of names: every name, in no sentence at all.

A name kept for the tests of a genre is never in that genre's text; here (and in the other genres)
a model meets it often enough to have an embedding for it.
"""

from random import Random

from monosem.text.genres.genre import Genre
from monosem.text.genres.words import GIFTS, NAMES

HEADS = ("Present:", "Names:", "Guests:", "On the list are", "We thank")
LONE = (
    "This is for {n}.",
    "Ask {n}.",
    "We went to {n}.",
    "The {gift} belongs to {n}.",
    "Nobody talked to {n}.",
    "{n} is here.",
    "Is that {n}?",
)
"""Sentences of one name alone, which no sentence of an indirect object is."""


def write(random: Random) -> str:
    """Return a head and three to eight names, or a few sentences of one name each."""
    if random.random() < 0.5:
        lone = random.choices(LONE, k=random.randint(2, 4))
        return " ".join(s.format(n=random.choice(NAMES), gift=random.choice(GIFTS)) for s in lone)
    names = random.sample(NAMES, random.randint(3, 8))
    return f"{random.choice(HEADS)} {', '.join(names[:-1])} and {names[-1]}."


GENRE = Genre(name="rolls", about="rolls of names", share=4.0, write=write)
