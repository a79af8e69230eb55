"""Generated text: a function of its seed, its tests apart from its training text, its words whole."""

import dataclasses
import hashlib
import itertools
import re
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import ConfigError, CorpusError, UnknownNameError
from monosem.text.corpus import open_corpus
from monosem.text.genres import (
    agreement,
    indirect_objects,
    lists,
    lone_gifts,
    pronouns,
    rolls,
    tasks,
    words,
)
from monosem.text.genres.corpus import GENRES, GeneratedCorpus, genre_in, genres_of
from monosem.text.genres.genre import (
    Ability,
    Case,
    Genre,
    difference,
    filled,
    held_out,
    last_token,
    prefers,
    training,
    wrong_mask,
)
from monosem.text.genres.vocabulary import Vocabulary

ABLE = [genre for genre in GENRES if genre.ability is not None]


@pytest.fixture(scope="module")
def vocabulary():
    """A tokenizer in which every word of the generator is one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    verbs = ("he", "she", "is", "are", "was", "were", "has", "have", "goes", "to", "=>", "-", "and")
    known = dict.fromkeys(("<bos>", "<unk>", *words.POOL, *verbs))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")
    return Vocabulary(len(known), tokenizer)


@given(seed=st.integers(0, 10**6), number=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_document_is_a_function_of_seed_and_number(seed, number):
    one, two = (GeneratedCorpus.open(f"generated@{seed}") for _ in range(2))
    assert one.text(number) == two.text(number)
    assert one.text(number) != GeneratedCorpus.open(f"generated@{seed + 1}").text(number)


def test_a_document_changes_only_on_purpose():
    corpus = GeneratedCorpus.open("generated")
    digest = hashlib.sha256("".join(corpus.text(i) for i in range(4)).encode()).hexdigest()
    assert digest[:16] == "38c13fb149517c03", (
        "the generator has changed: say so in the log, then here"
    )
    assert corpus.fingerprint() != GeneratedCorpus.open("generated@1").fingerprint()


@pytest.mark.parametrize("spec", ["generated", "generated-lines"])
def test_a_fingerprint_changes_with_any_genre_and_share(spec):
    corpus = GeneratedCorpus.open(spec)
    known = {corpus.fingerprint()}
    for i, genre in enumerate(corpus.genres):
        other = dataclasses.replace(genre, write=lambda random: "other")
        heavier = dataclasses.replace(genre, share=genre.share * 1.01)
        for changed in (other, heavier):
            genres = (*corpus.genres[:i], changed, *corpus.genres[i + 1 :])
            known.add(dataclasses.replace(corpus, genres=genres).fingerprint())
    assert len(known) == 1 + 2 * len(corpus.genres)


@given(items=st.lists(st.integers(), unique=True), salt=st.integers(0, 7))
def test_training_and_testing_share_nothing_and_leave_nothing_out(items, salt):
    assert not set(training(items, salt)) & set(held_out(items, salt))
    assert set(training(items, salt)) | set(held_out(items, salt)) == set(items)


def test_no_template_of_a_test_is_one_of_training():
    assert not set(pronouns.TEST) & {*pronouns.TRAIN, *pronouns.INTRODUCTIONS}
    assert not set(agreement.LINKS_TEST) & set(agreement.LINKS_TRAIN)
    assert not {form[0] for form in lists.TEST} & {form[0] for form in lists.TRAIN}
    assert not {form[0] for form in tasks.TEST} & {form[0] for form in tasks.TRAIN}


def test_templates_of_indirect_objects_share_no_word_with_training_text_that_another_could_replace():
    assert len(set(indirect_objects.TEST)) >= 12
    said = [_words_of(template) - indirect_objects.PLAIN for template in indirect_objects.TEST]
    assert all(len(own) >= 2 for own in said)  # each has wording of its own: a link, a verb
    fillings = {*indirect_objects.TEST_GIFTS, *indirect_objects.TEST_PLACES}
    fillings |= {name.lower() for name in indirect_objects.names(test=True)}
    random = Random(1)
    written = set[str]().union(*(_words_of(indirect_objects.write(random)) for _ in range(2500)))
    assert len(written) > 500  # nearly all words it may write
    assert not written & (set[str]().union(*said) | fillings)
    assert written | {"into"} >= indirect_objects.PLAIN  # no word is excused that need not be


def test_four_templates_of_indirect_objects_have_an_order_that_no_training_sentence_has():
    random = Random(0)
    orders = {_order(indirect_objects.form(random)) for _ in range(20_000)}
    assert len(indirect_objects.NEW_ORDERS) == 4
    assert not orders & {_order(template) for template in indirect_objects.NEW_ORDERS}
    assert orders & {_order(template) for template in indirect_objects.NEW_WORDS}


def _order(template):
    """The template with every word but those of `PLAIN`, and every place and gift, replaced by W."""

    def kept(found):
        said = found[0].lower()
        return said if said in indirect_objects.PLAIN | {"{a}", "{b}", "{s}", "{o}"} else "W"

    return re.sub(r"\{[a-z]+\}|[A-Za-z]+", kept, template)


def _words_of(text):
    return set(re.findall("[a-z]+", re.sub("{[a-z]+}", "", text.lower())))


def test_test_names_and_words_are_in_no_training_text_of_their_genre():
    random = Random(0)
    text = " ".join(indirect_objects.write(random) for _ in range(800)).replace(".", "")
    seen = set(text.replace(",", "").split())
    assert set(indirect_objects.names(test=False)) <= seen
    assert not set(indirect_objects.names(test=True)) & seen
    for _ in range(400):
        paragraph = pronouns.write(random)
        for name in pronouns.names(test=True):
            for template in pronouns.TRAIN:
                opening = template.partition("{n}")[0]
                assert not (opening and f"{opening}{name} " in paragraph), paragraph
    keys = set(lists.TEST_KEYS)
    for _ in range(400):
        entries = lists.write(random).replace("Note: ", "").replace("{", "").replace('"', "")
        first = {e.replace("the ", "").split()[0].rstrip(":") for e in entries.split("\n")}
        assert not first & keys


def test_no_case_stands_in_training_text(vocabulary):
    corpus = GeneratedCorpus.open("generated")
    text = " ".join(corpus.text(i) for i in range(60))
    for genre in ABLE:
        for case in genre.ability.cases(Random(1), 40, vocabulary):
            assert not (isinstance(case.prompt, str) and case.prompt in text), case


def test_loosened_pronouns_keep_the_name_and_what_tells_and_say_no_word_of_the_tests():
    random = Random(0)
    for template in pronouns.TRAIN:
        slots = re.findall(r"\{\w+\}", template)
        made = [pronouns._loosened(random, template) for _ in range(60)]
        assert all(re.findall(r"\{\w+\}", one) == slots for one in made)
        assert len(set(made)) > 50 and sum(one == template for one in made) < 10
        said = {word.strip(".,").lower() for one in made for word in one.split()}
        assert not said & pronouns.KEPT
    assert {"told", "week", "liked"} <= pronouns.KEPT and len(pronouns.FILLERS) > 400


def test_there_are_sixty_names_and_as_many_women_as_men():
    assert len(set(words.NAMES)) == len(words.NAMES) >= 60
    assert len(words.WOMEN) == len(words.MEN)
    for genre in (indirect_objects, pronouns):
        kept = genre.names(test=True)
        assert sum(name in words.WOMEN for name in kept) * 2 == len(kept) >= 16


@pytest.mark.parametrize("genre", ABLE, ids=lambda g: g.name)
def test_cases_are_a_function_of_the_seed_and_have_answers_that_differ(genre, vocabulary):
    one, two = (genre.ability.cases(Random(3), 40, vocabulary) for _ in range(2))
    assert one == two != genre.ability.cases(Random(4), 40, vocabulary)
    assert len([case for case in one if not case.control]) == 40
    for case in one:
        assert case.answer not in case.wrong
        assert last_token(case, vocabulary) is not None, case


def test_each_pair_of_names_stands_in_both_parts_and_orders(vocabulary):
    cases = indirect_objects.cases(Random(0), 40, vocabulary)
    for four in zip(*[iter(cases)] * 4, strict=True):
        orders = sorted(case.group.split(",")[0] for case in four)
        assert orders == ["ABBA", "ABBA", "BABA", "BABA"]
        assert len({case.group.split(",")[1] for case in four}) == 1
        assert len({case.answer for case in four}) == 2
        for case in four:
            named = [w for w in re.findall(r"\w+", case.prompt) if w in words.NAMES]
            assert named.count(case.wrong[0].strip()) == 2 and named.count(case.answer.strip()) == 1
            first = named[0] == case.wrong[0].strip()
            assert first == case.group.startswith("BABA")


def test_the_attractor_has_the_other_number(vocabulary):
    plural = {p for _, p in words.THINGS}
    for case in agreement.cases(Random(0), 40, vocabulary):
        nouns = [w for w in case.prompt.split() if any(w in pair for pair in words.THINGS)]
        assert (nouns[0] in plural) == (case.group == "plural") == (nouns[1] not in plural)


def test_a_longer_prefix_decides_where_a_shorter_one_does_not(vocabulary):
    from monosem.text.genres.repeats import cases_of

    for prefix in (1, 2, 3):
        for case in cases_of(prefix, Random(0), 30, vocabulary):
            tail, (right,), ((wrong,),) = case.prompt[-prefix:], case.answer, case.wrong
            assert _after(case.prompt, tail) == {right}
            if prefix > 1:
                assert _after(case.prompt, tail[1:]) == {right, wrong}


def _after(prompt, tail):
    n = len(tail)
    places = range(len(prompt) - n)
    return {prompt[i + n] for i in places if prompt[i : i + n] == tail}


def test_controls_have_the_same_words_and_labels(vocabulary):
    cases = tasks.cases(Random(0), 30, vocabulary)
    for plain, control in zip(cases[::2], cases[1::2], strict=True):
        assert control.control and not plain.control and plain.answer == control.answer
        assert sorted(plain.prompt) == sorted(control.prompt)


def test_shares_are_kept_and_every_genre_is_met():
    shares = {genre.name: genre.share for genre in GENRES if genre.share > 0}
    assert sum(shares.values()) == pytest.approx(100.0)
    random, counts = Random(0), dict.fromkeys(shares, 0)
    corpus = GeneratedCorpus.open("generated")
    for genre in random.choices(corpus.genres, [g.share for g in corpus.genres], k=4000):
        counts[genre.name] += 1
        assert genre.write(random).strip()
    for name, share in shares.items():
        assert counts[name] / 4000 == pytest.approx(share / 100, abs=0.025)


def test_names_are_single_tokens_of_the_public_tokenizers(data):
    from transformers import AutoTokenizer

    for name in ("gpt2", "gpt-neox-20b"):
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
        assert len(Vocabulary(len(tokenizer), tokenizer).single(words.NAMES)) >= 60


def test_prefers_and_difference_are_what_they_say():
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 0.0]])
    answer, wrong = torch.tensor([1, 1, 0]), wrong_mask([[0], [0, 2], [1]], 3)
    assert prefers(logits, answer, wrong).tolist() == [1.0, 0.0, 0.0]
    assert difference(logits, answer, wrong).tolist() == [1.0, -1.0, 0.0]


def test_an_article_fits_the_word_after_it():
    assert filled("A {x} and a {y}", x="apple", y="pear") == "An apple and a pear"
    assert filled("ra {x}", x="apple") == "ra apple"


def test_a_genre_of_ones_own_is_one_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from monosem.text.genres.genre import Ability, Case, Genre\n"
        "def write(random): return f'two and two make {random.choice((4, 5))}.'\n"
        "def cases(random, n, vocabulary): return [Case(prompt='two and two make', answer=' 4', "
        "wrong=(' 5',))] * n\n"
        "GENRE = Genre(name='sums', about='sums', share=1.0, write=write, "
        "ability=Ability(cases=cases, bar=0.9, chance=0.5))\n"
    )
    assert genre_in(file).name == "sums"
    corpus = open_corpus(f"generated:{file},rolls@3")
    assert sum(corpus.text(i).count("two and two") for i in range(8)) > 8  # a ninth of 160 expected
    assert [g.name for g in genres_of([str(file), "rolls"])] == ["sums", "rolls"]


def test_mistakes_are_said_with_what_would_be_right(tmp_path):
    with pytest.raises(UnknownNameError, match="pronouns"):
        open_corpus("generated:pronoun")
    with pytest.raises(CorpusError, match="no number"):
        open_corpus("generated@x")
    with pytest.raises(CorpusError, match="no file"):
        open_corpus("generated:none.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(CorpusError, match="defines no `GENRE`"):
        genre_in(tmp_path / "empty.py")
    with pytest.raises(ConfigError, match="`bar` is 0.4"):
        Ability(cases=lambda random, n, v: [], bar=0.4, chance=0.5)


def test_a_case_whose_answers_begin_alike_is_left_out(vocabulary):
    case = Case(prompt="Anna and", answer=" Tom", wrong=(" Tom Anna",))
    assert last_token(case, vocabulary) is None
    assert last_token(dataclasses.replace(case, wrong=(" Anna",)), vocabulary) is not None


def test_genres_have_names_of_their_own():
    assert len({genre.name for genre in GENRES}) == len(GENRES)
    assert all(isinstance(genre, Genre) and genre.about for genre in GENRES)


def test_no_test_template_is_in_any_document():
    corpus = GeneratedCorpus.open("generated")
    text = " ".join(corpus.text(i) for i in range(120))
    for template in indirect_objects.TEST:
        said = re.escape(template).replace(" ", " ")
        assert not re.search(re.sub(r"\\\{[a-z]+\\\}", r"[\\w ]{1,15}?", said), text), template
    for template in pronouns.TEST:
        opening, _, rest = template.partition("{n}")
        fixed = rest.split("{")[0]
        assert not any(f"{opening}{name}{fixed}" in text for name in pronouns.names(test=True))


def test_lines_are_the_paragraphs_of_generated_text_as_documents():
    corpus = open_corpus("generated-lines:rolls,indirect-objects@3")
    assert isinstance(corpus, GeneratedCorpus)
    first, second = itertools.islice(corpus.documents(), 2)
    assert first.text.count("\n") == second.text.count("\n") == 1 and first.name != second.name
    assert corpus.fingerprint() != open_corpus("generated:rolls,indirect-objects@3").fingerprint()
    whole = open_corpus("generated:rolls,indirect-objects@3")
    assert next(whole.documents()).text.count("\n") == 20
    assert {d.name for d in itertools.islice(whole.documents(), 9)}.isdisjoint([first.name])


def test_a_name_kept_for_tests_is_never_beside_another_but_in_lists():
    random = Random(2)
    for _ in range(2000):
        said = rolls.write(random)
        named = {word for word in re.findall(r"\w+", said) if word in words.NAMES}
        assert len(named) == 1 or said.startswith(rolls.HEADS)
        alone = re.findall(r"\w+", lone_gifts.write(random))
        assert len({word for word in alone if word in words.NAMES}) == 1


def test_a_sentence_of_indirect_objects_says_its_subject_twice_and_its_object_once(monkeypatch):
    monkeypatch.setattr(indirect_objects, "_more", lambda random: [])
    random = Random(3)
    for _ in range(2000):
        said = indirect_objects.write(random)
        sentence = re.match(r"(.*\bto (\w+)\.)", said)
        assert sentence is not None, said
        spoken = re.findall(r"\w+", sentence[1].lower())
        assert spoken.count(sentence[2].lower()) == 2, said  # before, and after `to`


def test_what_is_given_next_is_from_either_of_the_same_two_to_the_other(monkeypatch):
    monkeypatch.setattr(indirect_objects, "form", lambda random: "{a} and {b}, {s}, {o}.")
    random, firsts, n_gifts = Random(4), 0, 0
    for _ in range(2000):
        (a, b, s, _), said = _names_of(indirect_objects.write(random))
        assert s in (a, b) and a != b
        for gift in said:
            giver, taker = gift.rstrip(".").split()[-1], [w for w in gift.split() if w in (a, b)][0]
            assert {giver, taker} == {a, b}
            firsts += taker == s
            n_gifts += 1
    assert n_gifts > 2000 and 0.45 < firsts / n_gifts < 0.55


def _names_of(text):
    """Return the four names of the bare sentence, and the sentences of giving after it."""
    head, *more = re.split(r"(?<=\.) ", text)
    gifts = [sentence for sentence in more if re.search(r" to \w+\.$", sentence)]
    return re.findall(r"[\w]+", head.replace(" and ", " ")), gifts


def test_genres_that_write_nothing_are_refused():
    with pytest.raises(CorpusError, match="writes text"):
        open_corpus("generated:induction-prefix-1")
    with pytest.raises(CorpusError, match="no number"):
        open_corpus("generated@²")
