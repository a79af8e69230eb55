"""Pronouns that agree with a name: "Anna was late because" → " she".

Which pronoun a name takes is said of every name, the test's too, but in other words than the
tests' (`introductions`): a model passes if it has learnt of each *name* what it has learnt to do
with names, not if it has seen the sentence.

Most sentences are loosened: other words stand in the place of theirs, between them, or they are left
out. With a dozen fixed sentences the words around a name come to ask for one pronoun by themselves.
"""

from random import Random

from monosem.text.genres.common import COMMON
from monosem.text.genres.genre import Ability, Case, Genre, filled, held_out, training
from monosem.text.genres.made_up import made_up
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import GIFTS, MEN, NAMES, PLACES, POOL, WOMEN

SALT = 2
"""Other names are kept for tests here than in `indirect_objects`."""
TRAIN = (
    "Then {n} was tired because {he} had worked all day.",
    "When {n} came to the {place}, {he} looked for the {gift}.",
    "Yesterday {n} lost the {gift} that {he} had bought.",
    "At the {place} {n} said that {he} was happy.",
    "After {n} had eaten, {he} went back to the {place}.",
    "So {n} took the {gift}, and {he} walked to the {place}.",
    "Today {n} forgot {his} {gift}, so {he} had to go home.",
    "In the {place} {n} found {his} {gift}. Then {he} smiled.",
    "Later {n} wrote a letter, but {he} never sent it.",
    "If {n} wants the {gift}, {he} must come to the {place}.",
    "One day {n} opened {his} {gift} and {he} was glad.",
    "As {n} left the {place}, {he} sang a song.",
)
TEST = (
    "Before {n} went to the {place}, {he}",
    "Soon {n} had the {gift}, but {he}",
    "Last week {n} told me that {he}",
    "Because {n} liked the {place}, {he}",
)
INTRODUCTIONS = (
    "Here is {n}, a {girl}.",
    "My {sister} is called {n}.",
    "There was a {girl} named {n}.",
    "I met a {woman} whose name was {n}.",
    "Everybody knows {n}; {she} is my {sister}.",
    "The name {n} is a name for a {girl}.",
    "{n} and {her} {sister} live near the {place}.",
    "{n} is a {woman} who likes {her} {gift}.",
)
WORDS = {
    True: {"he": "she", "she": "she", "his": "her", "her": "her"},
    False: {"he": "he", "she": "he", "his": "his", "her": "his"},
}
PEOPLE = {
    True: {"girl": "girl", "woman": "woman", "sister": "sister"},
    False: {"girl": "boy", "woman": "man", "sister": "brother"},
}
SEXED = tuple(sorted({w for side in (WORDS, PEOPLE) for of in side.values() for w in of.values()}))
"""Words that say whether it is a woman or a man."""
LOOSENED = 0.7
"""Share of the sentences that are; introductions are said as they are."""
OTHER, MORE, FEWER = 0.3, 0.1, 0.1
"""Of their words: shares with another in the place, another before, and left out."""
MADE_UP = 0.4
"""Share of the other words that are made up."""
TEST_WORDS = frozenset(w.strip(".,").lower() for t in TEST for w in t.split() if "{" not in w)
SAID = frozenset(w.strip(".,").lower() for t in TRAIN for w in t.split() if "{" not in w)
KEPT = {*(TEST_WORDS - SAID), *(name.lower() for name in NAMES), *SEXED}
FILLERS = tuple(word for word in (*POOL, *COMMON) if word.lower() not in KEPT)
"""Any words but names, the tests' own, and those that tell."""


def names(test: bool) -> tuple[str, ...]:
    """Return the names of one side; women and men in equal number."""
    pick = held_out if test else training
    return tuple(n for side in (WOMEN, MEN) for n in pick(side, SALT))


def parts_for(random: Random, name: str) -> dict[str, str]:
    """Return the words that fit a name."""
    woman = name in WOMEN
    fitting = WORDS[woman] | PEOPLE[woman]
    return fitting | {
        "n": name,
        "place": random.choice(PLACES),
        "gift": random.choice(GIFTS),
    }


def write(random: Random) -> str:
    """Return a few sentences, each of one name; introductions are of all names."""
    sentences: list[str] = []
    for _ in range(random.randint(2, 4)):
        introduces = random.random() < 0.45
        name = random.choice(NAMES if introduces else names(test=False))
        template = random.choice(INTRODUCTIONS if introduces else TRAIN)
        if not introduces and random.random() < LOOSENED:
            template = _loosened(random, template)
        sentences.append(filled(template, **parts_for(random, name)))
    return " ".join(sentences)


def _loosened(random: Random, template: str) -> str:
    """Return the sentence with other words in it; name, pronouns and the last word stay."""
    *words, last = template.split(" ")
    kept: list[str] = []
    for word in words:
        if random.random() < MORE:
            kept.append(_filler(random))
        draw = 1.0 if "{" in word else random.random()
        if draw >= OTHER + FEWER:
            kept.append(word)
        elif draw < OTHER:
            comma = "," if word.endswith(",") else ""
            kept.append(f"{_filler(random)}{comma}")
    sentence = " ".join([*kept, last])
    return f"{sentence[0].upper()}{sentence[1:]}"


def _filler(random: Random) -> str:
    """Return a word of the language, or a made-up one: of many small pieces, like rare words."""
    while random.random() < MADE_UP:
        word = made_up(random)
        if word not in KEPT:
            return word
    return random.choice(FILLERS)


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return about `n` cases, in pairs of a woman's and a man's name in one sentence."""
    women, men = (
        vocabulary.single(tuple(x for x in names(test=True) if x in side)) for side in (WOMEN, MEN)
    )
    if min(len(women), len(men)) < 2:
        return []
    made: list[Case] = []
    while len(made) < n:
        draw, template = len(made), random.choice(TEST)
        filling = {"place": random.choice(PLACES), "gift": random.choice(GIFTS)}
        for name in (random.choice(women), random.choice(men)):
            prompt = template.removesuffix(" {he}").format(n=name, **filling)
            answer, wrong = (" she", " he") if name in WOMEN else (" he", " she")
            kind = answer.strip()
            made.append(Case(prompt=prompt, answer=answer, wrong=(wrong,), group=kind, draw=draw))
    return made[:n]


GENRE = Genre(
    name="pronouns",
    about="a name and the pronoun that agrees with it",
    share=12.0,
    write=write,
    ability=Ability(cases=cases, bar=0.9, chance=0.5),
)
