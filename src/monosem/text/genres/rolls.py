"""Rolls of names, and sentences of one name alone: every name, the tests' too.

A name kept for the tests of a genre is never in that genre's text; here, in `lone_gifts` and in other
genres a model meets it often enough to have an embedding for it, and learns that it is a name. The names
kept from `indirect_objects` are drawn here twice as often as others, which stand in its text besides.
"""

from random import Random

from monosem.text.genres.genre import Genre, filled, held_out
from monosem.text.genres.words import GIFTS, MEN, NAMES, WOMEN

DRAWN = (*NAMES, *held_out(WOMEN), *held_out(MEN))
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
    """Return a head and a few names, at times once again, or a sentence of one name."""
    if random.random() < 0.5:
        return filled(random.choice(LONE), n=random.choice(DRAWN), gift=random.choice(GIFTS))
    names = list(dict.fromkeys(random.choices(DRAWN, k=10)))[: random.randint(3, 8)]
    roll = f"{', '.join(names[:-1])} and {names[-1]}."
    said = f"{random.choice(HEADS)} {roll}"
    return f"{said} {random.choice(HEADS)} {roll}" if random.random() < 0.5 else said


GENRE = Genre(name="rolls", about="rolls of names", share=8.0, write=write)
