"""Agreement of subject and verb over an attractor: "The keys near the door" → " are".

Every test subject is met in training, with its verb right after it; with another noun between
them only the training subjects are. The attractor has the other number, so the nearer noun
misleads.
"""

from random import Random

from monosem.text.genres.genre import Ability, Case, Genre, held_out, training
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import THINGS

LINKS_TRAIN = (
    "near the {x}",
    "behind the {x}",
    "with the {x}",
    "next to the {x}",
    "that the {x} saw",
    "under the {x}",
)
LINKS_TEST = ("beside the {x}", "by the {x}")
VERBS = (("is", "are"), ("was", "were"), ("has been", "have been"))
ENDS = ("old", "new", "here", "very small", "not far away", "still there", "good", "dark", "ready")
OPENERS = ("The", "Then the", "I know that the", "Today the", "They say that the")
TRAIN_THINGS, TEST_THINGS = training(THINGS), held_out(THINGS)


def write(random: Random) -> str:
    """Return a few sentences, two thirds of them with an attractor."""
    return " ".join(_sentence(random) for _ in range(random.randint(2, 4)))


def _sentence(random: Random) -> str:
    plural = random.randrange(2)
    verb, opener = random.choice(VERBS)[plural], random.choice(OPENERS)
    if random.random() < 0.35:
        return f"{opener} {random.choice(THINGS)[plural]} {verb} {random.choice(ENDS)}."
    noun, other = random.choice(TRAIN_THINGS), random.choice(THINGS)
    link = random.choice(LINKS_TRAIN).format(x=other[random.randrange(2)])
    return f"{opener} {noun[plural]} {link} {verb} {random.choice(ENDS)}."


def cases(random: Random, n: int, _: Vocabulary) -> list[Case]:
    """Return about `n` cases, in pairs: one sentence in both numbers, the attractor in the other."""
    made: list[Case] = []
    while len(made) < n:
        draw = len(made)
        noun, other = random.sample(TEST_THINGS, 2)
        link, opener = random.choice(LINKS_TEST), random.choice(OPENERS)
        verbs = random.choice(VERBS[:2])
        for plural in (0, 1):
            prompt = f"{opener} {noun[plural]} {link.format(x=other[1 - plural])}"
            answer, wrong = f" {verbs[plural]}", f" {verbs[1 - plural]}"
            group = "plural" if plural else "singular"
            made.append(Case(prompt=prompt, answer=answer, wrong=(wrong,), group=group, draw=draw))
    return made[:n]


GENRE = Genre(
    name="agreement",
    about="a verb that agrees with its subject over a noun of the other number",
    share=8.0,
    write=write,
    ability=Ability(cases=cases, bar=0.9, chance=0.5),
)
