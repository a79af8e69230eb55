import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from monosem.rendering.card import card
from monosem.rendering.table import html as table_html
from monosem.rendering.tokens import highlight, token
from monosem.rendering.visible import LIMIT, printable, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=120)
MARKED = st.sampled_from(["<", ">", '"', "'", "&", "</bdi>", "<script>", "{{", "\u202e", "\x00"])
PIECES = st.lists(st.one_of(ANY_TEXT, st.lists(MARKED, max_size=8).map("".join)), max_size=8)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)

TABLE_TAGS = {"div", "table", "thead", "tbody", "tr", "th", "td", "abbr", "dl", "dt", "dd"}

ALLOWED = {
    ("span", "class"),
    ("span", "data-row"),
    ("span", "data-doc"),
    ("bdi", "class"),
    ("bdi", "data-a"),
}


@given(pieces=PIECES, data=st.data())
def test_html_of_any_tokens_has_their_visible_form_as_its_text_and_no_new_tags(
    read, pieces, data
) -> None:
    activations = data.draw(st.lists(NUMBERS, min_size=len(pieces), max_size=len(pieces)))
    focus = data.draw(st.one_of(st.none(), st.integers(0, max(len(pieces) - 1, 0))))
    found = highlight(
        pieces, activations, maximum=data.draw(NUMBERS), focus=focus, document=data.draw(ANY_TEXT)
    )
    seen = read(found)
    assert seen.text == "".join(visible(p) for p in pieces)
    assert set(seen.tags) <= {"span", "bdi", "i"}
    assert seen.tags.count("bdi") == len(pieces)
    assert {(tag, name) for tag, name, _ in seen.attributes} <= ALLOWED
    assert not seen.others


@given(piece=ANY_TEXT)
def test_a_visible_form_is_printable_and_can_be_written_as_utf8(piece) -> None:
    for form in (visible(piece), visible(piece, edges=True), printable(piece)):
        form.encode("utf-8")
        kinds = {unicodedata.category(c) for c in form if c not in "\u200c\u200d"}
        assert not kinds & {"Cc", "Cs", "Cf", "Zl", "Zp"}


@given(cells=st.lists(ANY_TEXT, min_size=3, max_size=3))
def test_cards_and_tables_show_any_text_as_text(read, cells) -> None:
    seen = read(card(cells[0], [(cells[1], cells[2])]))
    assert set(seen.tags) <= {"div", "style", "dl", "dt", "dd"}
    assert seen.text.endswith(printable(cells[0]) + printable(cells[1]) + printable(cells[2]))
    seen = read(table_html(cells[:2], [cells[1:]], notes={cells[0]: cells[2]}))
    assert set(seen.tags) <= TABLE_TAGS
    assert not {name for _, name, _ in seen.attributes} - {"class", "scope", "title"}


def test_hostile_tokens_become_harmless_text(read, hostile) -> None:
    found = highlight(hostile, [1.0] * len(hostile), maximum=1.0, focus=3, document=hostile[0])
    seen = read(found)
    assert seen.text == "".join(visible(p) for p in hostile)
    assert set(seen.tags) == {"span", "bdi", "i"}
    assert "{{7*7}}" in seen.text
    for character in ("\x00", "\u202e", "\u2066", "\u2028", "\ud800", "\x1b"):
        assert character not in found
    for piece in hostile:
        assert set(read(token(piece)).tags) <= {"bdi", "i"}


def test_every_token_is_isolated_so_that_direction_cannot_leak() -> None:
    found = highlight(["abc", "שלום", "def"], [0.0, 1.0, 0.0], maximum=1.0)
    assert found.count("<bdi") == 3


def test_a_space_is_made_visible_only_where_it_matters() -> None:
    assert visible(" the cat") == " the cat"
    assert visible(" ") == "␣"
    assert visible("a  b") == "a␣␣b"
    assert visible("\n" + " " * 12) == "↵␣×12"
    assert visible(" the ", edges=True) == "␣the␣"
    assert visible("\t\r\n") == "⇥␍↵"


def test_hidden_and_reordering_characters_are_named() -> None:
    assert visible("a\u202eb") == "a⟨U+202E⟩b"
    assert visible("\ud800") == "⟨U+D800⟩"
    assert visible("\x00\x7f") == "␀␡"
    assert visible("\u0301x") == "◌\u0301x"
    assert visible("👩‍👩‍👧") == "👩‍👩‍👧"


def test_a_token_of_ten_thousand_letters_is_cut_and_says_so() -> None:
    form = visible("x" * 10_000)
    assert form.startswith("x" * LIMIT + "…")
    assert f"{10_000 - LIMIT:,} more characters" in form
    assert len(form) < LIMIT + 40


def test_strength_is_a_class_of_sixteen_steps_and_the_value_stands_beside_it(read) -> None:
    seen = read(highlight(["a", "b", "c"], [0.0, 0.01, 8.0], maximum=8.0, row_start=70))
    attributes = [(n, v) for t, n, v in seen.attributes if t == "bdi"]
    assert attributes == [("class", "h1"), ("data-a", "0.01"), ("class", "h16"), ("data-a", "8")]
    assert ("span", "data-row", "70") in seen.attributes


def test_a_token_without_text_that_fires_can_still_be_seen() -> None:
    assert 'class="h16 e"' in highlight([""], [1.0], maximum=1.0)
    assert "class" not in highlight([""], [0.0], maximum=1.0).removeprefix('<span class="ctx">')


def test_tokens_and_activations_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 activations"):
        highlight(["a", "b"], [1.0], maximum=1.0)


def test_a_card_keeps_markup_and_escapes_text() -> None:
    found = card("<b>", [("x", Markup("<i>kept</i>")), ("y", "<i>escaped</i>")])
    assert "<i>kept</i>" in found
    assert "&lt;i&gt;escaped" in found
    assert "&lt;b&gt;" in found
