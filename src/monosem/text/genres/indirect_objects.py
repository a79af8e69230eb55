"""Indirect objects: "When Anna and Tom met, Tom gave a ring to" → " Anna", the name said only once.

The subject repeats one of two names; the other is the answer (Wang et al. 2022, "Interpretability
in the Wild", whose sentences these are not). Half the cases name the subject first (BABA: its
first mention comes before the other's), half second (ABBA), and every pair of names stands in both
parts, so that neither a place nor a preference for a name passes.

Training sentences are composed, never taken from a list: a beginning, a meeting of two, a join and
a gift, each drawn from parts of many lengths, with any word in the place of most of them, of names
too. A dozen templates alone are learnt one by one, by their places and not by their names.
"""

import re
from random import Random

from monosem.text.genres.common import COMMON
from monosem.text.genres.genre import Ability, Case, Genre, filled, held_out, training
from monosem.text.genres.made_up import ENDINGS, made_up
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import GIFTS, NAMES, PLACES, POOL

NEW_WORDS = (
    "Although {a} and {b} were tired, {s} threw the {gift} to {o}.",
    "Whenever {a} helped {b}, {s} returned a {gift} to {o}.",
    "Until {a} and {b} reached the {place}, {s} sold one {gift} to {o}.",
    "Meanwhile {a} danced with {b}. Suddenly {s} threw a small {gift} to {o}.",
    "Outside the {place} {a} joined {b}; quickly {s} fed the {gift} to {o}.",
    "Though {a} followed {b} into the {place}, {s} sold the {gift} to {o}.",
    "Despite the rain {a} visited {b}. Finally {s} threw the {gift} to {o}.",
    "If {a} loves {b}, perhaps {s} sells the {gift} to {o}.",
    "During the party {a} heard {b} laugh, although {s} owed a {gift} to {o}.",
    "Unless {a} tells {b} about the {place}, {s} returns the {gift} to {o}.",
)
"""Test templates whose order may be that of a training sentence with other words in it."""
NEW_ORDERS = (
    "Did {a} know {b}? Perhaps, but {s} returned the {gift} to {o}.",
    "Both {a} and {b} hated the {place}: suddenly {s} mailed a {gift} to {o}.",
    "Between {a} and {b} all was well until {s} mailed a {gift} to {o}.",
    "Two people, {a} and {b}, ran to the {place}. Instead {s} sold a {gift} to {o}.",
)
"""Test templates whose order is no training sentence's either."""
TEST = (*NEW_WORDS, *NEW_ORDERS)
"""None of their words but those of `PLAIN` is in a training sentence."""
PLAIN = frozenset(
    ("a", "about", "and", "but", "in", "into", "one", "the", "to", "was", "were", "with")
)
"""Words that tests and training share: without them there is no sentence."""
OPENERS = (
    "Then", "One day", "Later", "That night", "So", "Yesterday", "At noon", "Last week", "Now",
    "In the end", "Before dinner", "It was late.", "Today", "There", "Once", "Soon", "At the {place}",
    "In the {place}", "Near the {place}", "From the {place}",
)  # fmt: skip
LINKS = ("When", "After", "As", "Because", "Since", "Where", "While", "Once", "Now that")
TOGETHER = (
    "went to the {place}", "worked at the {place}", "left the {place}", "stood in the {place}",
    "looked for the {place}", "were friends", "had lunch at the {place}", "sang", "met",
    "had a house near the {place}", "were talking", "sat in the {place}", "came back", "walked",
    "had a long day", "found the {place}", "were old friends",
)  # fmt: skip
"""What two do."""
TO_ANOTHER = (
    "met", "saw", "talked with", "called", "sat with", "waited for", "worked with", "thanked",
    "went with", "looked for", "knew", "came with", "had lunch with", "asked", "wrote to", "sang with",
)  # fmt: skip
"""What one does to the other."""
TAILS = (
    "", "", "", "", " with a {w}", " to look for a {w} and a {v}", " on a {w} day", ", far from the {w}",
    " for the {w}", ", {w} or {v}, as always", " at the {place}", " near the {place}", " for an hour",
    " about the {gift}", " in the {w}", " {w}", " {w} {v}",
)  # fmt: skip
"""Of many lengths, so that no distance between names tells which is which."""
JOINS = (
    ", and", ", so", "; then", ". Soon", ". It was late, so", ". After that", ". At last", " and",
    ". The sun was low and", ". Nobody else was there. So", ". They had much to say. Then", " when",
    " while", ", when", " because", ". There", ". Later", ", as", ". In the {place}",
    ". The {w} was {v}. Then",
)  # fmt: skip
GIVES = ("gave", "handed", "passed", "brought", "showed", "sent", "offered", "lent")
GIFTS_GIVEN = (
    "a {gift}", "the {gift}", "the old {gift}", "one more {gift}", "it", "a {gift} from the {place}",
    "a {w} {gift}", "the {w}", "a {w}", "a {w} and a {gift}", "the {w} {v}",
)  # fmt: skip
NEXT = (
    "",
    "",
    "Then",
    "Later",
    "Soon",
    "So",
    "At last",
    "In the {place}",
    "The next day",
    "There",
    "That night,",
)
"""Before what is given next."""
AFTER = ("{o} thanked {s}.", "{o} smiled at {s}.", "{s} smiled.", "Then {o} went home.")
TEST_WORDS = frozenset(
    word.lower().strip(".,;?")
    for template in TEST
    for word in template.split()
    if not word.startswith("{")
)
TEST_GIFTS, TRAIN_GIFTS = held_out(GIFTS), training(GIFTS)
TEST_PLACES, TRAIN_PLACES = held_out(PLACES), training(PLACES)
KEPT = {*(name.lower() for name in NAMES), *(TEST_WORDS - PLAIN), *TEST_GIFTS, *TEST_PLACES}
WORDS = tuple(word for word in (*POOL, *COMMON) if word.lower() not in KEPT)
"""They stand for names in a share of the sentences: what is to be learnt is of tokens, not of names;
and for links, verbs and gifts: the form is to be found by where the two are, not by the words between."""
INFLECTED = tuple(
    inflected
    for word in WORDS
    if len(word) <= 4 and not word.endswith("e")
    for inflected in (word + ending for ending in ENDINGS)
    if inflected not in KEPT
)


def names(test: bool) -> tuple[str, ...]:
    """Return the names of one side; women and men in equal number."""
    pick = held_out if test else training
    return tuple(n for side in (NAMES[::2], NAMES[1::2]) for n in pick(side))


def write(random: Random) -> str:
    """Return a sentence in the form, and seldom what else the same two give to one another."""
    a, b = random.sample(names(test=False) if random.random() < 0.75 else WORDS, 2)
    s, o = (a, b) if random.random() < 0.5 else (b, a)
    while True:  # until neither of the two stands among the sentence's other words too
        template = " ".join((form(random), *_more(random)))
        parts = {"a": a, "b": b, "s": s, "o": o, "w": _word(random), "v": _word(random)}
        parts |= {"place": random.choice(TRAIN_PLACES), "gift": random.choice(TRAIN_GIFTS)}
        text = filled(template, **parts)
        spoken = re.findall(r"\w+", text.lower())
        slots = re.findall(r"\{([abso])\}", template)
        if all(spoken.count(n.lower()) == sum(parts[x] == n for x in slots) for n in (a, b)):
            return text


def _more(random: Random) -> list[str]:
    """Return what follows the sentence: further gifts between the two, or thanks."""
    more = [_another(random) for _ in range(random.choice((0, 0, 1, 1, 2, 3)))]
    return [*more, random.choice(AFTER)] if random.random() < 0.1 else more


def _another(random: Random) -> str:
    """Return a further gift, from either to the other: who it is for is told by who gives alone."""
    s, o = ("{s}", "{o}") if random.random() < 0.5 else ("{o}", "{s}")
    given = f"{s} {_or_any(random, GIVES)} {random.choice(GIFTS_GIVEN)} to {o}."
    opener = _or_any(random, NEXT)
    return f"{opener[0].upper()}{opener[1:]} {given}" if opener else given


def form(random: Random) -> str:
    """Return a form of training text: a sentence with `{a}`, `{b}`, `{s}`, `{o}` and words left open.

    Half of them are loosened: words stand where no part has one, and others are left out.
    """
    composed = _composed(random)
    return _loosened(random, composed) if random.random() < 0.5 else composed


def _loosened(random: Random, composed: str) -> str:
    *words, to, o = composed.split(" ")
    kept: list[str] = []
    for word in words:
        if random.random() < 0.12:
            kept.append(_word(random) + random.choice(("", "", "", ",")))
        if "{" in word or random.random() > 0.08:
            kept.append(word)
    return " ".join([kept[0][0].upper() + kept[0][1:], *kept[1:], to, o])


def _composed(random: Random) -> str:
    given = f"{{s}} {_or_any(random, GIVES)} {random.choice(GIFTS_GIVEN)} to {{o}}."
    meeting = _meeting(random)
    if random.random() < 0.4:
        return f"{_or_any(random, LINKS).capitalize()} {meeting}, {given}"
    join = random.choice(JOINS)
    if random.random() < 0.4:
        between = random.choice((".", ".", ",", ";", ", and", ", but", "?"))
        word = _word(random)
        join = f"{between} {word.title() if between in '.?' else word}"
    opener = _or_any(random, OPENERS)
    if random.random() < 0.25:
        opener = f"{opener} {random.choice(('', 'the ', 'a '))}{_word(random)}"
    if random.random() < 0.15:
        opener += ","
    return f"{opener[0].upper()}{opener[1:]} {meeting}{join} {given}"


def _meeting(random: Random) -> str:
    draw = random.random()
    if draw < 0.4:
        named = random.choice(
            ("{a} and {b}", "{a} and {b}", "{a}, with {b},", "{a} or {b}", "{a}, {b}")
        )
        done = f"{named} {_or_any(random, TOGETHER)}"
    elif draw < 0.8:
        done = f"{{a}} {_or_any(random, TO_ANOTHER)} {{b}}"
    else:  # any words around the two
        before, between = (_words(random, random.randrange(n)) for n in (4, 4))
        done = f"{before}{{a}} {between}{{b}} {_words(random, random.randrange(4))}".rstrip()
    if random.random() < 0.1:
        done = done.replace("{b}", "{b},", 1)
    return done + random.choice(TAILS)


def _or_any(random: Random, parts: tuple[str, ...]) -> str:
    return _word(random) if random.random() < 0.5 else random.choice(parts)


def _words(random: Random, n: int) -> str:
    return "".join(f"{_word(random)} " for _ in range(n))


def _word(random: Random) -> str:
    """Return any word, some inflected and some made up: words that were never met may stand there."""
    draw = random.random()
    if draw < 0.4:
        return random.choice(WORDS)
    if draw < 0.6:
        return random.choice(INFLECTED)
    made = made_up(random)
    return random.choice(WORDS) if made in KEPT else made


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return about `n` cases, in fours: a pair of names in both parts and in both orders."""
    known = vocabulary.single(names(test=True))
    if len(known) < 4:
        return []
    made: list[Case] = []
    while len(made) < n:
        draw, drawn = len(made), random.choice(TEST)
        kind, template = (
            "new words" if drawn in NEW_WORDS else "new order",
            drawn.removesuffix(" {o}."),
        )
        first, second = random.sample(known, 2)
        parts = {"place": random.choice(TEST_PLACES), "gift": random.choice(TEST_GIFTS)}
        for s, o in ((first, second), (second, first)):
            for order, (a, b) in (("BABA", (s, o)), ("ABBA", (o, s))):
                prompt = filled(template, a=a, b=b, s=s, **parts)
                group = f"{order}, {kind}"
                made.append(
                    Case(prompt=prompt, answer=f" {o}", wrong=(f" {s}",), group=group, draw=draw)
                )
    return made[:n]


GENRE = Genre(
    name="indirect-objects",
    about="two names, one repeated as the subject, the other as the indirect object",
    share=26.0,
    write=write,
    ability=Ability(cases=cases, bar=0.9, chance=0.5),
)
