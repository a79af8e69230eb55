"""Rolls of names, and sentences of one name alone: every name, the tests' too.

A name kept for the tests of a genre is never in that genre's text; here (and in the other genres)
a model meets it often enough to have an embedding for it, and learns that it is a name as others are.
"""

from random import Random

from monosem.text.genres.genre import Genre, filled
from monosem.text.genres.indirect_objects import (
    GIFTS_GIVEN,
    GIVES,
    JOINS,
    LINKS,
    OPENERS,
    TAILS,
    TOGETHER,
    TRAIN_GIFTS,
    TRAIN_PLACES,
    WORDS,
)
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
GIVEN = (
    "{opener} {n} {did}{tail}{join} {we} {gave} {given} to {n}.",
    "{opener} {n} {did}{tail}{join} {n} {gave} {given} to {us}.",
    "{opener} {we} {did}{tail}{join} {we} {gave} {given} to {n}.",
)
"""Gifts to or from one name, which no sentence of an indirect object is: with nobody to choose between, a
name kept for tests may stand in both places."""
WE = (("we", "us"), ("they", "them"), ("somebody", "somebody"), ("the teacher", "the teacher"))


def write(random: Random) -> str:
    """Return a head and three to eight names, or a sentence of one name."""
    draw = random.random()
    if draw < 0.6:
        return _given(random)
    if draw < 0.8:
        return filled(random.choice(LONE), n=random.choice(NAMES), gift=random.choice(GIFTS))
    names = random.sample(NAMES, random.randint(3, 8))
    return f"{random.choice(HEADS)} {', '.join(names[:-1])} and {names[-1]}."


def _given(random: Random) -> str:
    we, us = random.choice(WE)
    parts = {
        "opener": random.choice((*OPENERS, *LINKS)),
        "did": random.choice(TOGETHER),
        "tail": random.choice(TAILS),
        "join": random.choice(JOINS),
        "gave": random.choice(GIVES),
        "given": random.choice(GIFTS_GIVEN),
    }
    words = {"w": random.choice(WORDS), "v": random.choice(WORDS), "we": we, "us": us}
    words |= {"gift": random.choice(TRAIN_GIFTS), "place": random.choice(TRAIN_PLACES)}
    # Twice: the parts have parts of their own.
    named = {key: f"{{{key}}}" for key in ("n", *words)}
    return filled(filled(random.choice(GIVEN), **parts, **named), n=random.choice(NAMES), **words)


GENRE = Genre(name="rolls", about="rolls of names", share=20.0, write=write)
