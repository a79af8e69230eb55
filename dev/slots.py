"""How a model follows indirect objects, by what stands for the two: `python dev/slots.py MODEL …`.

Rows: names of training text, names kept for tests, words that stand there in some training sentences,
and other tokens of the model's vocabulary that are words. Columns: forms of training text, drawn anew,
and the tests' templates. A cell is a share of cases won, with half the width of its 95 % interval, which
counts draws of two with a template and not each of their four cases.
"""

import argparse
from collections.abc import Sequence
from random import Random

from monosem.metrics.abilities import interval, scored
from monosem.models.language_model import LanguageModel
from monosem.text.genres import indirect_objects
from monosem.text.genres.genre import Ability, Case, filled
from monosem.text.genres.vocabulary import Vocabulary

TESTED = Ability(cases=indirect_objects.cases, bar=0.9, chance=0.5)


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names or folders of language models")
    parser.add_argument("--cases", type=int, default=200, help="cases of a cell")
    given = parser.parse_args()
    for name in given.models:
        model = LanguageModel.load(name, device="cpu")
        vocabulary = Vocabulary(model.vocab_size, model.tokenizer)
        print(
            f"\n| {name}, {given.cases} cases a cell | training forms | test templates |\n|---|---|---|"
        )
        for row, pool in fillings(vocabulary).items():
            cells: list[str] = []
            for test in (False, True):
                cases = drawn(pool, given.cases, test=test)
                kept, scores = scored(model, TESTED, cases, vocabulary)
                low, high = interval(kept, scores)
                cells.append(f"{sum(scores) / len(scores):.2f} ± {(high - low) / 2:.2f}")
            print(f"| {row} | {' | '.join(cells)} |")


def fillings(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """Return what may stand for the two, of single tokens."""
    said = {word.lower() for word in (*indirect_objects.WORDS, *indirect_objects.KEPT)}
    other = [vocabulary.piece(token).strip() for token in vocabulary.plain]
    pools = {
        "training names": indirect_objects.names(test=False),
        "test names": indirect_objects.names(test=True),
        "words that training sentences have there": indirect_objects.WORDS,
        "other tokens of the vocabulary": tuple(w for w in other if w.lower() not in said),
    }
    return {row: vocabulary.single(pool) for row, pool in pools.items()}


def drawn(pool: Sequence[str], n: int, *, test: bool) -> list[Case]:
    """Return cases in fours: a pair in both parts and both orders."""
    random, made = Random(0), []
    while len(made) < n:
        draw = len(made)
        template = random.choice(indirect_objects.TEST) if test else trained(random)
        prompt = template[: template.rindex("{o}")].rstrip()
        first, second = random.sample(pool, 2)
        gifts, places = (
            (indirect_objects.TEST_GIFTS, indirect_objects.TEST_PLACES)
            if test
            else (indirect_objects.TRAIN_GIFTS, indirect_objects.TRAIN_PLACES)
        )
        parts = {"gift": random.choice(gifts), "place": random.choice(places)}
        for s, o in ((first, second), (second, first)):
            for a, b in ((s, o), (o, s)):
                text = filled(prompt, a=a, b=b, s=s, **parts)
                made.append(Case(prompt=text, answer=f" {o}", wrong=(f" {s}",), draw=draw))
    return made[:n]


def trained(random: Random) -> str:
    """Return a form of training text with its words, the two's places left open."""
    template = indirect_objects.form(random)
    for slot in ("{w}", "{v}"):
        template = template.replace(slot, random.choice(indirect_objects.WORDS))
    return template


if __name__ == "__main__":
    main()
