"""Abilities: who has them passes, who has a shortcut fails, and what cannot be worded is not judged."""

import json
import re
from functools import partial
from random import Random

import pytest
import torch
from scipy.stats import binomtest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from monosem.cli import main
from monosem.constructions.planted import induction
from monosem.core.errors import ConfigError, UnknownNameError
from monosem.metrics.abilities import LACKS, abilities, ability, last_logits, measure
from monosem.models.language_model import LanguageModel
from monosem.text.genres import words
from monosem.text.genres.corpus import GENRES, genres_of
from monosem.text.genres.genre import Ability, Case, Genre
from monosem.text.genres.vocabulary import Vocabulary

ABLE = [genre for genre in GENRES if genre.ability is not None]
PLAIN = ("he", "she", "is", "are", "was", "were", "and", "to", "goes", "=", ">", "-", ",", ";", ".")
KNOWN = list(dict.fromkeys(("<bos>", "<unk>", *words.POOL, *PLAIN, *sum(words.THINGS, ()))))
IDS = {word: i for i, word in enumerate(KNOWN)}
KIND = {word: kind for kind, members in words.CATEGORIES.items() for word in members}


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(WordLevel(dict(IDS), unk_token="<unk>"))
    core.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")


@pytest.fixture
def planted(tokenizer, monkeypatch):
    """A model whose logits are a function of the words before, by whatever rule is planted."""
    config = GPT2Config(
        vocab_size=len(KNOWN), n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0
    )
    model = LanguageModel(GPT2LMHeadModel(config), tokenizer, name="planted")

    def plant(rule):
        def logits(tokens):
            out = torch.zeros(*tokens.shape, len(KNOWN))
            for row, ids in zip(out, tokens.tolist(), strict=True):
                n = max(i for i, token in enumerate(ids) if token) + 1  # padding is 0
                for word, value in rule([KNOWN[token] for token in ids[:n]]).items():
                    row[n - 1, IDS[word]] = value
            return out

        monkeypatch.setattr(model, "logits", logits)
        return model

    return plant


def indirect_object(said):
    names = [word for word in said if word in words.NAMES]
    return {name: float(names.count(name) == 1) for name in names}


def pronoun(said):
    name = [word for word in said if word in words.NAMES][-1]
    return {"she" if name in words.WOMEN else "he": 1.0}


def verb(said):
    subject = next(word for word in said if any(word in pair for pair in words.THINGS))
    plural = subject in {many for _, many in words.THINGS}
    return {word: 1.0 for word in (("are", "were") if plural else ("is", "was"))}


def copying(said):
    for n in range(len(said) - 1, 0, -1):
        for i in range(len(said) - n - 1, -1, -1):
            if said[i : i + n] == said[-n:]:
                return {said[i + n]: 1.0}
    return {}


def in_context(said):
    shown = [word for word in said if word in KIND or word in words.LABELS]
    pairs = zip(shown[:-1:2], shown[1::2], strict=True)
    return {label: 1.0 for word, label in pairs if KIND[word] == KIND[shown[-1]]}


HAS = {
    "indirect-objects": indirect_object,
    "pronouns": pronoun,
    "agreement": verb,
    "key-value": copying,
    "few-shot": in_context,
}


@pytest.mark.parametrize("genre", ABLE, ids=lambda g: g.name)
def test_a_model_with_the_ability_passes(genre, planted):
    found = ability(planted(HAS.get(genre.name, copying)), genre.name, n=80)
    assert found.share == 1.0 and found.n == 80 and found.holds and found.verdict == "yes"
    if genre.name == "few-shot":
        assert found.control is not None and found.control < 0.5


def first_said(said):
    return {word: -float(said.index(word)) + 100 for word in said}


def last_said(said):
    return {word: float(i) for i, word in enumerate(said, 1)}


def often_said(said):
    return {word: float(said.count(word)) for word in said}


def favourites(said):
    return {word: Random(word).random() for word in KNOWN}


def noise(said):
    random = Random(" ".join(said))
    return {word: random.random() for word in KNOWN}


def nearest_noun(said):
    nouns = [word for word in said if any(word in pair for pair in words.THINGS)]
    return verb([nouns[-1]]) if nouns else {}


SHORTCUTS = (first_said, last_said, often_said, favourites, noise, nearest_noun)


@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=lambda f: f.__name__)
def test_no_shortcut_passes_any_bar(shortcut, planted):
    for name, found in abilities(planted(shortcut), n=60).items():
        assert not found.holds and found.verdict == LACKS, (name, found.share)


def test_one_matching_token_is_not_enough_for_longer_prefixes(planted):
    def one_token(said):
        before = [i for i in range(len(said) - 1) if said[i] == said[-1]]
        return {said[i + 1]: 1.0 + 0.1 * (n % 2) for n, i in enumerate(before)}

    found = abilities(planted(one_token), n=120)
    assert found["induction"].share == found["induction-prefix-1"].share == 1.0
    for prefix in (2, 3):
        assert found[f"induction-prefix-{prefix}"].share == pytest.approx(0.5, abs=0.12)


def test_a_planted_induction_circuit_has_induction_by_one_token_and_nothing_longer():
    model = LanguageModel(induction(vocab_size=64, context=40).model, name="induction")
    found = abilities(model, n=100)
    assert found["induction"].holds and found["induction-prefix-1"].holds
    assert not found["induction-prefix-2"].holds and not found["induction-prefix-3"].holds
    assert found["pronouns"].share is None
    assert found["pronouns"].verdict.startswith("not applicable: the tokenizer words 0 cases")


def test_an_ability_must_beat_its_controls_by_the_factor(planted, tokenizer):
    def cases(random, n, vocabulary):
        made = Case(prompt="cat and", answer=" red", wrong=(" blue",))
        spoilt = Case(prompt="dog and", answer=" red", wrong=(" blue",), control=True)
        return [made, spoilt] * n

    tested = Ability(cases=cases, bar=0.9, chance=0.5, factor=2.0)
    genre = Genre(name="x", about="x", share=1.0, write=lambda r: "", ability=tested)
    vocabulary = Vocabulary(len(KNOWN), tokenizer)
    always = measure(planted(lambda said: {"red": 1.0}), genre, vocabulary, n=30)
    assert always.share == always.control == 1.0 and not always.holds
    reading = planted(lambda said: {"red": float("cat" in said), "blue": 0.5})
    found = measure(reading, genre, vocabulary, n=30)
    assert (found.share, found.control, found.holds) == (1.0, 0.0, True)


def test_scores_are_given_by_group_and_padding_changes_none(planted):
    found = ability(planted(lambda said: {word: 1.0 for word in ("she",)}), "pronouns", n=60)
    assert found.groups == {"he": 0.0, "she": 1.0} and found.share == 0.5
    model = LanguageModel(
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    )
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    together = last_logits(model, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        alone = model.logits(torch.tensor([prompt]))[0, -1].detach()
        torch.testing.assert_close(found, alone)


def test_what_is_asked_wrongly_is_said(planted):
    model = planted(noise)
    with pytest.raises(UnknownNameError, match="pronouns"):
        ability(model, "pronoun")
    with pytest.raises(ConfigError, match="tests no ability"):
        ability(model, "rolls")


def test_the_command_line_shows_one_model_and_several(capsys, tmp_path):
    induction(vocab_size=64, context=40).model.save_pretrained(tmp_path / "planted")
    induction(vocab_size=64, context=40, seed=3).model.save_pretrained(tmp_path / "other")
    common = ["evaluate", "--abilities", "--genres", "induction", "pronouns", "--n", "40"]
    folder, other = str(tmp_path / "planted"), str(tmp_path / "other")
    assert main([*common, "--device", "cpu", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[folder]
    assert found["induction"]["holds"] and not found["pronouns"]["holds"]
    assert main([*common, "--device", "cpu", folder]) == 0
    assert "not applicable" in capsys.readouterr().out
    assert main([*common, "--device", "cpu", folder, other]) == 0
    assert "other" in capsys.readouterr().out.splitlines()[0]


def test_the_interval_of_cases_that_were_drawn_together_is_of_their_draws(planted, tokenizer):
    def cases(draw, random, n, vocabulary):
        nouns = [word for pair in words.THINGS[: n // 4] for word in pair]
        texts = [f"{noun} {verb}" for noun in nouns for verb in ("is", "was")]
        known = {"answer": " red", "wrong": (" blue",)}
        return [Case(prompt=text, draw=draw(i), **known) for i, text in enumerate(texts)]

    def found(draw, rule):
        tested = Ability(cases=partial(cases, draw), bar=0.6, chance=0.5)
        genre = Genre(name="x", about="x", share=1.0, write=lambda r: "", ability=tested)
        return measure(planted(rule), genre, Vocabulary(len(KNOWN), tokenizer), n=32)

    lost = {word for pair in words.THINGS[:2] for word in pair}

    def by_noun(said):
        return {"blue" if said[-2] in lost else "red": 1.0}

    alone, together = found(lambda i: None, by_noun), found(lambda i: i // 4, by_noun)
    theirs = binomtest(24, 32).proportion_ci(0.95, method="wilson")
    assert alone.share == together.share == 0.75 and alone.n == together.n == 32
    assert (alone.low, alone.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    # Eight draws of which two are lost whole: in no more than eight cases would there be so much.
    eight = binomtest(6, 8).proportion_ci(0.95, method="wilson")
    assert together.low < eight.low and together.high > eight.high


SAME = {word: one for one, many in words.THINGS for word in (one, many)} | dict.fromkeys(
    words.NAMES, "somebody"
)


@pytest.mark.parametrize(
    ("name", "size"), [("indirect-objects", 4), ("pronouns", 2), ("agreement", 2)]
)
def test_cases_of_one_draw_share_their_words_and_others_do_not(name, size, tokenizer):
    (genre,) = genres_of([name])
    cases = genre.ability.cases(Random(0), 200, Vocabulary(len(KNOWN), tokenizer))
    draws: dict[int, list[frozenset[str]]] = {}
    for case in cases:
        spoken = re.findall(r"\w+", case.prompt)
        draws.setdefault(case.draw, []).append(frozenset(SAME.get(w, w) for w in spoken))
    assert {len(said) for said in draws.values()} == {size}
    assert all(len(set(said)) == 1 for said in draws.values())
    assert len({said[0] for said in draws.values()}) > len(draws) / 4


def test_cases_of_other_abilities_are_drawn_one_by_one(tokenizer):
    for genre in ABLE:
        if genre.name not in ("indirect-objects", "pronouns", "agreement"):
            cases = genre.ability.cases(Random(0), 40, Vocabulary(len(KNOWN), tokenizer))
            plain = [case for case in cases if not case.control]
            assert all(case.draw is None for case in plain)
            assert len({case.prompt for case in plain}) == len(plain)


def test_four_ways_of_saying_one_thing_are_not_four_tests(planted, tokenizer):
    """A model that follows some pairs of names and no others: Wilson's interval would be half as wide."""

    def by_pair(said):
        names = indirect_object(said)
        followed = Random(" ".join(sorted(names))).random() < 0.7
        return names if followed else {name: -value for name, value in names.items()}

    found = ability(planted(by_pair), "indirect-objects", n=200)
    plainly = binomtest(round(found.share * 200), 200).proportion_ci(0.95, method="wilson")
    assert 0.5 < found.share < 0.9
    assert (found.high - found.low) / (plainly.high - plainly.low) == pytest.approx(2, rel=0.1)


def test_the_interval_of_an_ability_is_of_its_cases_without_the_controls(planted, tokenizer):
    def cases(random, n, vocabulary):
        wrong = (" blue",)
        made = [Case(prompt=f"{w} and", answer=" red", wrong=wrong) for w in ("cat", "dog")]
        spoilt = Case(prompt="dog and", answer=" red", wrong=wrong, control=True)
        return (made + [made[0], spoilt, spoilt]) * n

    tested = Ability(cases=cases, bar=0.6, chance=0.5, factor=2.0)
    genre = Genre(name="x", about="x", share=1.0, write=lambda r: "", ability=tested)
    reading = planted(lambda said: {"red": float("cat" in said), "blue": 0.5})
    found = measure(reading, genre, Vocabulary(len(KNOWN), tokenizer), n=20)
    theirs = binomtest(40, 60).proportion_ci(0.95, method="wilson")
    assert (found.share, found.n, found.control) == (pytest.approx(40 / 60), 60, 0.0)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
