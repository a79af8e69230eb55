"""Indirect objects: "When Anna and Tom met, Tom gave a ring to" → " Anna", the name said only once.

The subject repeats one of two names; the other is the answer (Wang et al. 2022, "Interpretability
in the Wild", whose sentences these are not). Half the cases name the subject first (BABA: its
first mention comes before the other's), half second (ABBA), and every pair of names stands in both
parts, so that neither a place nor a preference for a name passes.
"""

from random import Random

from monosem.text.genres.common import COMMON
from monosem.text.genres.genre import Ability, Case, Genre, filled, held_out, training
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import GIFTS, NAMES, PLACES, POOL

TRAIN = (
    "Then {a} and {b} went to the {place}, and {s} {gave} a {gift} to {o}.",
    "When {a} and {b} met at the {place}, {s} {gave} a {gift} to {o}.",
    "One day {a} and {b} sat in the {place}. Soon {s} {gave} the {gift} to {o}.",
    "After {a} and {b} had left the {place}, {s} {gave} the {gift} to {o}.",
    "As {a} and {b} worked at the {place}, {s} {gave} a {gift} to {o}.",
    "Because {a} and {b} were old friends, {s} {gave} a {gift} from the {place} to {o}.",
    "Yesterday {a} met {b} near the {place}. Before dinner {s} {gave} a {gift} to {o}.",
    "In the evening {a} saw {b} at the {place}, and {s} {gave} the old {gift} to {o}.",
    "Later {a} and {b} came back from the {place}. It was late, so {s} {gave} the {gift} to {o}.",
    "At the {place} {a} talked with {b} for an hour, and in the end {s} {gave} a {gift} to {o}.",
    "That night {a} called {b} about the {gift}. At the {place} {s} {gave} it to {o}.",
    "So {a} and {b} had a long day at the {place}; {s} {gave} the {gift} to {o}.",
)
TEST = (
    "While {a} and {b} were at the {place}, {s} {gave} a {gift} to {o}.",
    "Today {a} and {b} walked to the {place}. There {s} {gave} the {gift} to {o}.",
    "Once {a} and {b} had found the {place}, {s} {gave} a small {gift} to {o}.",
    "In the {place} {a} and {b} were talking when {s} {gave} the {gift} to {o}.",
)
OPENERS = (
    "Then", "One day", "Later", "That night", "So", "Yesterday", "At noon", "Last week", "Now",
    "In the end", "Before dinner", "It was late.",
)  # fmt: skip
LINKS = ("When", "After", "As", "Because", "Since", "Where")
MEETINGS = (
    "{a} and {b} went to the {place}",
    "{a} met {b} near the {place}",
    "{a} saw {b} at the {place}",
    "{a} and {b} worked at the {place}",
    "{a} talked with {b} for an hour",
    "{a} called {b} about the {gift}",
    "{a} sat with {b} in the {place}",
    "{a} and {b} left the {place}",
    "{a}, who knew {b}, came back",
    "at the {place} {a} waited for {b}",
    "{a} and {b} stood in the {place}",
    "{a} and {b} looked for the {place}",
    "{a} and {b} were friends",
    "{a} and {b} had lunch at the {place}",
    "in the {place} {a} and {b} sang",
    "near the {place} {a} and {b} had a house",
)
JOINS = (
    ", and", ", so", "; then", ". Soon", ". It was late, so", ". After that", ". At last",
    ". The sun was low and", ". Nobody else was there. So", ". They had much to say. Then",
)  # fmt: skip
MORE = (
    "", "", "", " with a {w}", " to look for a {w} and a {v}", " on a {w} day", ", far from the {w}",
    " twice", " for the {w}", ", {w} or {v}, as always",
)  # fmt: skip
"""Of many lengths, so that no distance between names tells which is which."""
GIFTS_GIVEN = (
    "a {gift}",
    "the {gift}",
    "the old {gift}",
    "one more {gift}",
    "it",
    "a {gift} from the {place}",
)
"""Sentences are also composed of these parts, in thousands of forms: twelve templates alone are learnt
one by one, by their places and not by their names."""
GAVE = ("gave", "handed", "passed", "brought", "showed", "sent", "offered", "lent")
ASIDES = (
    "It was a warm day.",
    "The sun was low.",
    "Nobody else was there.",
    "The {place} was quiet.",
    "A {gift} lay on the ground.",
    "They had much to say.",
)
AFTER = (
    "{o} thanked {s}.",
    "{o} looked at the {gift} and smiled at {s}.",
    "{s} smiled.",
    "Then {o} went home.",
    "",
)
WORDS = tuple(word for word in (*POOL, *COMMON) if word not in NAMES)
"""They stand for names in a share of the sentences: what is to be learnt is of tokens, not of names."""
MET = ("while", "today", "once", "there", "when", "in")
TEST_GIFTS, TRAIN_GIFTS = held_out(GIFTS), training(GIFTS)
TEST_PLACES, TRAIN_PLACES = held_out(PLACES), training(PLACES)


def names(test: bool) -> tuple[str, ...]:
    """Return the names of one side; women and men in equal number."""
    pick = held_out if test else training
    return tuple(n for side in (NAMES[::2], NAMES[1::2]) for n in pick(side))


def write(random: Random) -> str:
    """Return one to three sentences in the form, with asides between them."""
    sentences: list[str] = []
    for _ in range(random.randint(1, 3)):
        a, b = random.sample(names(test=False) if random.random() < 0.5 else WORDS, 2)
        s, o = (a, b) if random.random() < 0.5 else (b, a)
        parts = {"a": a, "b": b, "s": s, "o": o, "gave": random.choice(GAVE)}
        parts |= {"w": random.choice(WORDS), "v": random.choice(WORDS)}
        parts |= {"place": random.choice(TRAIN_PLACES), "gift": random.choice(TRAIN_GIFTS)}
        text = filled(_template(random), **parts)
        if random.random() < 0.25:
            text = f"{filled(random.choice(ASIDES), **parts)} {text}"
        sentences += [text, filled(random.choice(AFTER), **parts)]
    return " ".join(filter(None, sentences))


def _template(random: Random) -> str:
    if random.random() < 0.3:
        return random.choice(TRAIN)
    meeting, given = random.choice(MEETINGS), random.choice(GIFTS_GIVEN)
    meeting += random.choice(MORE)
    if random.random() < 0.4:
        link = _connective(random) if random.random() < 0.4 else random.choice(LINKS)
        return f"{link} {meeting}, {{s}} {{gave}} {given} to {{o}}."
    opener, join = random.choice(OPENERS), random.choice(JOINS)
    if random.random() < 0.3:
        opener = _connective(random)
    other = random.random()
    if other < 0.25:
        join = f". {random.choice(ASIDES)}"
    elif other < 0.5:
        join = f". {_connective(random)}"
    return f"{opener} {meeting}{join} {{s}} {{gave}} {given} to {{o}}."


def _connective(random: Random) -> str:
    """Return any word, as a sentence begins; the tests' connectives too, or they would be new tokens."""
    return random.choice(MET if random.random() < 0.4 else WORDS).title()


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return about `n` cases, in fours: a pair of names in both parts and in both orders."""
    known = vocabulary.single(names(test=True))
    if len(known) < 4:
        return []
    made: list[Case] = []
    while len(made) < n:
        template = random.choice(TEST).removesuffix(" {o}.")
        first, second = random.sample(known, 2)
        parts = {"gave": random.choice(GAVE), "place": random.choice(TEST_PLACES)}
        parts["gift"] = random.choice(TEST_GIFTS)
        for s, o in ((first, second), (second, first)):
            for order, (a, b) in (("BABA", (s, o)), ("ABBA", (o, s))):
                prompt = filled(template, a=a, b=b, s=s, **parts)
                made.append(Case(prompt=prompt, answer=f" {o}", wrong=(f" {s}",), group=order))
    return made[:n]


GENRE = Genre(
    name="indirect-objects",
    about="two names, one repeated as the subject, the other as the indirect object",
    share=26.0,
    write=write,
    ability=Ability(cases=cases, bar=0.9, chance=0.5),
)
