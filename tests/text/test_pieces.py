"""Every token's piece, joined, is the source: whatever the text and the tokenizer."""

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from monosem.core.errors import CorpusError
from monosem.text.document import Document
from monosem.text.encoding import encode
from monosem.text.tokenizer import TokenPolicy, load_tokenizer, text_encoder

AWKWARD = st.sampled_from(
    [
        "\r\n",
        "\u200d",
        "👨\u200d👩",
        "€",
        "é",
        "e\u0301",
        "\t",
        " ",
        "  ",
        "\n",
        "▁",
        "<s>",
        "\x1b",
        "漢",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(AWKWARD, max_size=25).map("".join))


@functools.lru_cache(maxsize=8)
def core_of(tokenizer: PreTrainedTokenizerFast):
    return text_encoder(tokenizer)


def encoded(tokenizer: PreTrainedTokenizerFast, *texts: str):
    documents = [
        Document(name=str(i), text=text, source="test", licence="none")
        for i, text in enumerate(texts)
    ]
    return list(encode(core_of(tokenizer), iter(documents), 0))


def pieces(found) -> list[str]:
    ends = [*found.starts[1:].tolist(), len(found.text)]
    return [
        found.text[start:end].decode("utf-8")
        for start, end in zip(found.starts.tolist(), ends, strict=True)
    ]


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_join_to_the_source_for_any_text(any_tokenizer, texts) -> None:
    special = TokenPolicy.of(any_tokenizer).special
    for text, found in zip(texts, encoded(any_tokenizer, *texts), strict=True):
        if len(found.ids):
            assert "".join(pieces(found)) == text
        assert not set(found.ids.tolist()) & (set(special) - {any_tokenizer.unk_token_id})


def test_hard_texts_come_back_from_every_tokenizer(any_tokenizer, hard) -> None:
    for text, found in zip(hard, encoded(any_tokenizer, *hard), strict=True):
        assert "".join(pieces(found)) == text
        assert found.ids.dtype.kind == "i"


def test_a_character_split_over_tokens_is_whole_at_the_first_and_empty_after(data) -> None:
    (found,) = encoded(load_tokenizer(data / "tokenizers" / "gpt2"), "a\u200d😀b")
    assert pieces(found) == ["a", "\u200d", "", "😀", "", "b"]
    (found,) = encoded(load_tokenizer(data / "models" / "stories260k"), "a😀b")
    assert pieces(found) == ["a", "😀", "", "", "", "b"]


def test_a_word_mark_put_in_by_the_tokenizer_shows_nothing(data) -> None:
    (found,) = encoded(load_tokenizer(data / "models" / "babyllama-361"), "ab c")
    assert pieces(found) == ["", "a", "b", " ", "c"]


def test_ascii_pieces_of_a_byte_level_tokenizer_are_its_decoded_tokens(trained) -> None:
    (found,) = encoded(trained, "def f(x): return   x\n\n  # naive cafe")
    assert pieces(found) == [trained.decode([i]) for i in found.ids.tolist()]


def test_names_of_special_tokens_in_a_text_are_text(trained) -> None:
    (found,) = encoded(trained, "a <|bos|> b")
    assert trained.bos_token_id not in found.ids.tolist()
    assert "".join(pieces(found)) == "a <|bos|> b"


def test_half_a_surrogate_pair_is_refused_with_its_place(trained) -> None:
    with pytest.raises(CorpusError, match="half a surrogate pair at character 2"):
        encoded(trained, "ab\ud800c")
