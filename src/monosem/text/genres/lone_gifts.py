"""Gifts to or from one name: "When Anna came to the park, we gave the ring to Anna."

The words are those of `indirect_objects`, but nobody is there to choose between. So a name that is kept
for the tests of that genre may stand in either place here, and a model learns of it what it learns of
names; which of two is meant it learns of other names only.
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
    TRAIN_GIFTS,
    TRAIN_PLACES,
    WORDS,
)
from monosem.text.genres.rolls import DRAWN

GIVEN = (
    "{opener} {n} {did}{tail}{join} {we} {gave} {given} to {n}.",
    "{opener} {n} {did}{tail}{join} {n} {gave} {given} to {us}.",
    "{opener} {we} {did}{tail}{join} {we} {gave} {given} to {n}.",
)
DID = (
    "went to the {place}", "worked at the {place}", "left the {place}", "stood in the {place}",
    "looked for the {place}", "had lunch at the {place}", "sang", "came back", "sat in the {place}",
    "walked", "had a long day", "found the {place}",
)  # fmt: skip
"""What one may do, or several."""
WE = (("we", "us"), ("they", "them"), ("somebody", "somebody"), ("the teacher", "the teacher"))


def write(random: Random) -> str:
    """Return a sentence of giving in which one name is said."""
    we, us = random.choice(WE)
    parts = {
        "opener": random.choice((*OPENERS, *LINKS)),
        "did": random.choice(DID),
        "tail": random.choice(TAILS),
        "join": random.choice(JOINS),
        "gave": random.choice(GIVES),
        "given": random.choice(GIFTS_GIVEN),
    }
    words = {"w": random.choice(WORDS), "v": random.choice(WORDS), "we": we, "us": us}
    words |= {"gift": random.choice(TRAIN_GIFTS), "place": random.choice(TRAIN_PLACES)}
    # Twice: the parts have parts of their own.
    named = {key: f"{{{key}}}" for key in ("n", *words)}
    return filled(filled(random.choice(GIVEN), **parts, **named), n=random.choice(DRAWN), **words)


GENRE = Genre(
    name="lone-gifts", about="gifts to or from one name, nobody else named", share=12.0, write=write
)
