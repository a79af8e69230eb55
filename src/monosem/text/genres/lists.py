"""Lists of keys and values, then one of the keys again: "red = 7; blue = 4; red =" → " 7".

Test lists have a form, and keys, that training lists do not have. All values of the list but the
right one count as wrong, so a model that only knows that some value comes is at chance.
"""

from random import Random

from monosem.text.genres.genre import Ability, Case, Genre, held_out, training
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import ANIMALS, COLOURS, GIFTS, LABELS, NAMES, TOOLS

TRAIN = (
    ("{k} = {v}", "; ", ""),
    ("{k}: {v}", "\n", ""),
    ("{k} is {v}", ", ", "Note: "),
    ("the {k} has {v}", ". ", ""),
    ("{k} -> {v}", "\n", ""),
    ('"{k}": {v}', ", ", "{"),
)
"""How an entry looks, what stands between entries, what stands before them."""
TEST = (("{k} goes to {v}", ", ", "List: "), ("{k} => {v}", "; ", ""))
KEYS = (*ANIMALS, *COLOURS, *TOOLS, *GIFTS[:12], *NAMES[:24])
TRAIN_KEYS, TEST_KEYS = training(KEYS), held_out(KEYS)
N_ENTRIES = 4


def write(random: Random) -> str:
    """Return a list of three to six entries and one to three of them again."""
    entry, between, before = random.choice(TRAIN)
    n = random.randint(3, 6)
    keys, values = random.sample(TRAIN_KEYS, n), _values(random, n)
    written = [entry.format(k=k, v=v) for k, v in zip(keys, values, strict=True)]
    again = random.sample(written, random.randint(1, 3))
    return before + between.join([*written, *again])


def _values(random: Random, n: int) -> list[str]:
    if random.random() < 0.6:
        return random.sample(LABELS, n)
    return random.sample([str(i) for i in range(10)], n)


def cases(random: Random, n: int, vocabulary: Vocabulary) -> list[Case]:
    """Return `n` cases: a list of four entries, then the key of one that is not the last."""
    values = vocabulary.single(LABELS)
    if len(values) < N_ENTRIES:
        return []
    made: list[Case] = []
    while len(made) < n:
        entry, between, before = random.choice(TEST)
        keys, chosen = random.sample(TEST_KEYS, N_ENTRIES), random.sample(values, N_ENTRIES)
        asked = random.randrange(N_ENTRIES - 1)
        lines = [entry.format(k=k, v=v) for k, v in zip(keys, chosen, strict=True)]
        question = entry.format(k=keys[asked], v="").rstrip()
        wrong = tuple(f" {v}" for i, v in enumerate(chosen) if i != asked)
        prompt = before + between.join([*lines, question])
        made.append(Case(prompt=prompt, answer=f" {chosen[asked]}", wrong=wrong))
    return made


GENRE = Genre(
    name="key-value",
    about="a list of keys and values, then some of the keys again",
    share=6.0,
    write=write,
    ability=Ability(cases=cases, bar=0.8, chance=0.25),
)
