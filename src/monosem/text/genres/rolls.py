"""Rolls of names, and sentences of one name alone: every name, the tests' too.

A name kept for the tests of a genre is never in that genre's text; here, in `lone_gifts` and in other
genres a model meets it often enough to have an embedding for it, and learns that it is a name.
"""

from random import Random

from monosem.text.genres.genre import Genre, filled
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


def write(random: Random) -> str:
    """Return a head and three to eight names, or a sentence of one name."""
    if random.random() < 0.5:
        return filled(random.choice(LONE), n=random.choice(NAMES), gift=random.choice(GIFTS))
    names = random.sample(NAMES, random.randint(3, 8))
    return f"{random.choice(HEADS)} {', '.join(names[:-1])} and {names[-1]}."


GENRE = Genre(name="rolls", about="rolls of names", share=8.0, write=write)
