import math

import numpy as np
import pytest

from monosem.core.errors import ConfigError, UnknownNameError
from monosem.metrics.proxies import (
    ALPHABETS,
    FLOOR,
    best_spans,
    characters,
    followed_by,
    in_script,
    regex,
    script,
    token_set,
    unigram,
)
from monosem.metrics.rules import DEFAULTS, check_rules, proxies_of, proxy_of
from monosem.metrics.sample import Text


def text(*rows):
    """Contexts of pieces; a piece is a token of its own, `None` a special token."""
    names = sorted({piece for row in rows for piece in row if piece is not None})
    number = {piece: i + 1 for i, piece in enumerate(names)}
    tokens = np.array([[number.get(piece, 0) for piece in row] for row in rows])
    pieces = [["" if piece is None else piece for piece in row] for row in rows]
    return Text(np.arange(len(rows)), tokens, tokens > 0, pieces), number


def shares(number):
    counts = np.arange(len(number) + 1) ** 2
    return unigram(counts)


def best_by_hand(ratios, end, fewest):
    """The largest sum over all spans that end at a place, by trying each."""
    sums = [sum(ratios[start : end + 1]) for start in range(0, end - fewest + 2)]
    return max(sums, default=-math.inf)


@pytest.mark.parametrize("fewest", [1, 2, 3])
def test_spans_are_the_best_of_all_that_end_there(fewest):
    random = np.random.default_rng(fewest)
    ratio = random.normal(0.3, 2.0, (6, 12))
    breaks = random.random((6, 12)) < 0.2
    found = best_spans(ratio, breaks, fewest)
    for row in range(6):
        for place in range(12):
            start = max([i + 1 for i in range(place + 1) if breaks[row, i]], default=0)
            inside = ratio[row, start : place + 1]
            expected = best_by_hand(inside, len(inside) - 1, fewest) if len(inside) else -math.inf
            assert found[row, place] == pytest.approx(expected)


def test_an_alphabet_is_a_likelihood_ratio_of_spans():
    made, number = text([None, "AC", "GT", "A", " the", None, "TT", "x"])
    log_p = shares(number)

    def ratio(piece):
        each = [0.25 if c in "ACGT" else FLOOR for c in piece]
        return sum(map(math.log, each)) - log_p[number[piece]]

    (one,) = characters("ACGT", log_p)(made)
    own = [ratio(p) for p in ("AC", "GT", "A", " the")]
    assert one[1:5] == pytest.approx([best_by_hand(own, end, 1) for end in range(4)])
    assert one[4] < -50 and one[0] == one[5] == -math.inf
    assert one[6] == pytest.approx(ratio("TT"))  # nothing of before the special token
    (two,) = characters("ACGT", log_p, fewest_tokens=2)(made)
    assert two[1] == two[6] == -math.inf
    assert two[2] == pytest.approx(ratio("AC") + ratio("GT"))


def test_the_rest_of_a_character_goes_with_it():
    made, number = text([None, "é", "", "a", "ж", ""])
    log_p = np.zeros(len(number) + 1)
    (found,) = characters("éa", log_p)(made)
    each = math.log(0.5)
    assert found[1:4] == pytest.approx([each, 0.0, each])
    assert found[4] == found[5] == pytest.approx(math.log(FLOOR))


def test_a_script_is_the_share_of_a_tokens_occurrences_in_it():
    made, number = text(
        [None, " سل", "ام", "a", "ж", ""],
        [None, "é", "", "b", "ж", ""],
        [None, "a", "b", " ", "b", "b"],
    )
    found = script("arabic")(made)
    overall = 2 / 15  # of the ordinary tokens
    assert found[0, 1:4] == pytest.approx([-math.log(overall)] * 2 + [math.log(FLOOR / overall)])
    assert in_script(made, ((0x400, 0x52F),)).sum() == 4
    # rests of characters share a token: half of its occurrences are of the script
    tokens = np.array([[0, 5, 9], [0, 6, 9]])
    halves = Text(np.arange(2), tokens, tokens > 0, [["", "ж", ""], ["", "é", ""]])
    assert in_script(halves, ((0x400, 0x52F),)).tolist() == [[False, True, True], [False] * 3]
    given = script("mine", blocks=((0x400, 0x52F),))(halves)
    assert given[0, 1:] == pytest.approx([math.log(1 / 0.5), math.log(0.5 / 0.5)])


def test_a_pattern_marks_the_tokens_that_its_matches_overlap():
    made, _ = text(
        [None, "ab", "12", "3x", None, "4", " é", "y"], [None, "a", "b", "1", "2", "3", "é", "z"]
    )
    found = regex(r"\d+")(made)
    assert found.tolist() == [[0, 0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0]]
    assert regex(r"3x?4")(made).sum() == 0  # not over a special token
    assert regex(r"3[^q]+4")(made).sum() == 0
    assert regex("b1").__call__(made).tolist()[0] == [0, 1, 1, 0, 0, 0, 0, 0]
    assert regex("q*")(made).sum() == 0  # empty matches are no matches
    split = Text(
        np.arange(1),
        np.array([[0, 1, 2, 3]]),
        np.array([[False, True, True, True]]),
        [["", "é", "", "x"]],
    )
    assert regex("é")(split).tolist() == [[0, 1, 1, 0]]


def test_tokens_and_what_followed_them_before():
    made, number = text([None, "a", "b", "a", "c", "a", "b"], [None, "a", "c", "a", "b", "a", "d"])
    a, b = number["a"], number["b"]
    assert token_set([a])(made).tolist() == [[0, 1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1, 0]]
    assert followed_by(b)(made).tolist() == [[0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]]


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownNameError, match="script `arabik`. Did you mean `arabic`"):
        script("arabik")
    with pytest.raises(ConfigError, match="no regular expression"):
        regex("(")
    with pytest.raises(ConfigError, match="0 characters"):
        characters("", np.zeros(2))
    assert len(ALPHABETS["base64"]) == 64


def test_rules_are_spelt_as_on_a_command_line():
    made, number = text([None, "ab", "12", "жж", " x"])
    log_p = shares(number)
    found = proxies_of(
        ["digits", "word=regex:[a-z]+", f"tokens:{number['12']}", "script:cyrillic"], log_p, made
    )
    assert list(found) == ["digits", "word", f"tokens:{number['12']}", "script:cyrillic"]
    marked = {name: (proxy(made) > 0).tolist() for name, proxy in found.items()}
    assert (
        marked["digits"] == marked[f"tokens:{number['12']}"] == [[False, False, True, False, False]]
    )
    assert marked["word"] == [[False, True, False, False, True]]
    assert marked["script:cyrillic"] == [[False, False, False, True, False]]
    assert set(proxies_of([], log_p, made)) == set(DEFAULTS)  # too little of any script
    many, _ = text(*[[None, *["ж"] * 20]] * 3)
    assert "script cyrillic" in proxies_of([], np.zeros(2), many)
    np.testing.assert_array_equal(
        proxy_of("characters:dna", log_p)(made), characters("ACGT", log_p, fewest_tokens=2)(made)
    )


def test_rules_that_cannot_be_read_are_refused():
    with pytest.raises(UnknownNameError, match="rule `digit`. Did you mean `digits`"):
        check_rules(["digit"])
    with pytest.raises(ConfigError, match="`tokens:a` must name tokens by number"):
        check_rules(["tokens:a"])
    with pytest.raises(ConfigError, match="must name one token"):
        check_rules(["followed-by:1,2"])
    with pytest.raises(ConfigError, match="Two rules are called `n`"):
        check_rules(["n=regex:a", "n=regex:b"])
    made, number = text([None, "a"])
    with pytest.raises(ConfigError, match="names token 9; there are 0 to 1"):
        proxies_of(["tokens:9"], np.zeros(2), made)
    check_rules([*DEFAULTS, "equal=regex:a=b", "followed-by:3"])
