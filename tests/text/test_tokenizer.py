"""Tokenizers: trained on the spot, loaded, told apart by what they do."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from monosem.core.errors import ConfigError, CorpusError, UnknownNameError
from monosem.text.document import Document
from monosem.text.tokenizer import (
    TokenPolicy,
    load_tokenizer,
    text_encoder,
    tokenizer_hash,
    train_tokenizer,
)


def documents(*texts: str):
    return [Document(name=t[:3], text=t, source="test", licence="none") for t in texts]


def test_any_text_comes_back_from_a_trained_tokenizer(trained, hard) -> None:
    for text in hard:
        ids = text_encoder(trained).encode(text, add_special_tokens=False).ids
        assert trained.decode(ids, clean_up_tokenization_spaces=False) == text


def test_training_twice_gives_the_same_tokenizer(hard) -> None:
    a, b = (train_tokenizer(documents(*hard), 300, context=16) for _ in range(2))
    assert tokenizer_hash(a) == tokenizer_hash(b)
    assert len(a) <= 300
    assert a.bos_token_id == 0
    assert a.model_max_length == 16


def test_the_hash_is_of_what_it_does_and_not_of_where_it_lies(trained, tmp_path) -> None:
    trained.save_pretrained(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert tokenizer_hash(loaded) == tokenizer_hash(trained)
    assert loaded.bos_token_id == 0
    other = train_tokenizer(documents("some other text " * 9), 270, context=16)
    assert tokenizer_hash(other) != tokenizer_hash(trained)


def test_the_hash_ignores_truncation_and_padding(trained) -> None:
    copy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained.backend_tokenizer.to_str()), bos_token="<|bos|>"
    )
    copy.backend_tokenizer.enable_truncation(4)
    copy.backend_tokenizer.enable_padding(length=9)
    assert tokenizer_hash(copy) == tokenizer_hash(trained)
    assert len(text_encoder(copy).encode("a long text of many tokens").ids) > 9


def test_the_policy_takes_ids_of_zero_and_falls_back_on_bos(data) -> None:
    neox = TokenPolicy.of(load_tokenizer(data / "tokenizers" / "gpt-neox-20b"))
    assert (neox.bos, neox.separator) == (0, 0)
    llama = TokenPolicy.of(load_tokenizer(data / "models" / "stories260k"))
    assert (llama.bos, llama.separator) == (1, 2)
    assert {1, 2} <= set(llama.special)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1})))
    assert TokenPolicy.of(bare) == TokenPolicy(bos=None, separator=None, special=())


def test_what_cannot_work_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot hold the 256 bytes"):
        train_tokenizer(documents("text"), 200, context=16)
    with pytest.raises(CorpusError, match="no document to train"):
        train_tokenizer([], 300, context=16)
    with pytest.raises(UnknownNameError, match="No tokenizer could be loaded"):
        load_tokenizer(tmp_path)
