"""Made-up words: to a small vocabulary rare words are many small pieces, and so are these."""

from random import Random

ENDINGS = (
    "ed", "ing", "er", "ly", "s", "ful", "less", "est", "ward", "ness", "able", "ough", "ide",
)  # fmt: skip
SYLLABLE = tuple(
    letters.split()
    for letters in ("b c d f g h k l m n p r s t v w th st wh sh", "a e i o u ou ea")
)


def made_up(random: Random) -> str:
    """Return a word of one to three syllables; it may happen to be a word of the language."""
    made = "".join(random.choice(p) for _ in range(random.choice((1, 2, 3))) for p in SYLLABLE)
    return made + random.choice(("", "", "n", "t", "ck", *ENDINGS))
