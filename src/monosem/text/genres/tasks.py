"""Few-shot tasks: examples of a kind of word with a label that means nothing, then a new word.

    cat: north
    red: seven
    dog: north
    blue:            → " seven"

Which label stands for which kind is drawn anew for every task, so it can only be learnt from the
examples (Brown et al. 2020). Test words are in no training task; only their kind is said of them.
The controls are the same prompts with the examples' labels shuffled: a model that learns in context
must do twice as well without the shuffling (Min et al. 2022 on why).
"""

from random import Random

from monosem.text.genres.genre import Ability, Case, Genre, filled, held_out, training
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import CATEGORIES, LABELS

TRAIN = (("{w}: {l}", "\n"), ("{w} = {l}", "; "), ("{w} -> {l}", "\n"), ("{w} is {l}", ". "))
TEST = (("{w} => {l}", "\n"), ("{w} - {l}", "; "))
KINDS = (
    "One kind of {kind} is {word}.",
    "The word {word} means a {kind}.",
    "Think of a {kind}, such as {word}.",
)
"""Said of every word, the tests' too."""
N_KINDS = 3
N_EACH = 2
"""Examples of each kind in a test."""


def write(random: Random) -> str:
    """Return a task of two to four kinds with six to ten examples, or a few words with their kinds."""
    if random.random() < 0.3:
        return " ".join(_said(random) for _ in range(random.randint(2, 6)))
    entry, between = random.choice(TRAIN)
    kinds = random.sample(sorted(CATEGORIES), random.randint(2, 4))
    labels = dict(zip(kinds, random.sample(LABELS, len(kinds)), strict=True))
    words = [(word, kind) for kind in kinds for word in _some(random, kind)]
    random.shuffle(words)
    return between.join(entry.format(w=word, l=labels[kind]) for word, kind in words[:10])


def _some(random: Random, kind: str) -> list[str]:
    return random.sample(training(CATEGORIES[kind]), random.randint(3, 4))


def _said(random: Random) -> str:
    kind = random.choice(sorted(CATEGORIES))
    word = random.choice(CATEGORIES[kind])
    return filled(random.choice(KINDS), word=word, kind=kind)


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return `n` cases and as many controls."""
    single = vocabulary.single(LABELS)
    if len(single) < N_KINDS:
        return []
    made: list[Case] = []
    while len(made) < 2 * n:
        kinds, labels = random.sample(sorted(CATEGORIES), N_KINDS), random.sample(single, N_KINDS)
        shown = [
            (word, label)
            for kind, label in zip(kinds, labels, strict=True)
            for word in random.sample(training(CATEGORIES[kind]), N_EACH)
        ]
        random.shuffle(shown)
        asked = random.randrange(N_KINDS)
        word = random.choice(held_out(CATEGORIES[kinds[asked]]))
        form = random.choice(TEST)
        wrong = tuple(f" {x}" for i, x in enumerate(labels) if i != asked)
        for control in (False, True):
            given = _shuffled(random, shown) if control else shown
            prompt = _prompt(form, given, word)
            made.append(
                Case(prompt=prompt, answer=f" {labels[asked]}", wrong=wrong, control=control)
            )
    return made


def _shuffled(random: Random, shown: list[tuple[str, str]]) -> list[tuple[str, str]]:
    labels = [label for _, label in shown]
    random.shuffle(labels)
    return [(word, label) for (word, _), label in zip(shown, labels, strict=True)]


def _prompt(form: tuple[str, str], shown: list[tuple[str, str]], word: str) -> str:
    entry, between = form
    lines = [entry.format(w=w, l=label) for w, label in shown]
    return between.join([*lines, entry.format(w=word, l="").rstrip()])


GENRE = Genre(
    name="few-shot",
    about="kinds of words with labels drawn anew each time",
    share=6.0,
    write=write,
    ability=Ability(cases=cases, bar=0.6, chance=1 / 3, factor=2.0),
)
