"""SentencePiece files of Llama's kind: the ids of the library itself, and what is refused."""

import pytest

from monosem.core.errors import ConfigError
from monosem.text.sentencepiece import load_sentencepiece
from monosem.text.tokenizer import TokenPolicy, load_tokenizer, text_encoder, tokenizer_hash

# What sentencepiece 0.2.3 encodes these as with the same file.
OF_THE_LIBRARY = {
    "Hello  world": [22557, 28705, 1526],
    "    def f(x):\n        return x": [260, 801, 285, 28732, 28744, 1329, 13, 5390, 604, 1318],
    " é漢🦊<s>": [28705, 1233, 233, 191, 165, 243, 162, 169, 141, 28789, 28713, 28767],
    "aaaa_____": [264, 4474, 28708, 3990, 28730],
}


@pytest.fixture(scope="module")
def mistral(data):
    return load_tokenizer(data / "tokenizers" / "mistral-v1")


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer, numbers and lengths below 128."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def written(path, *, kind: int = 2, spaces: int = 0, charsmap: bytes = b"", suffix: int = 0):
    """A model of a few pieces; scores are left out, so that all are equal."""
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<user>", 4)]
    pieces += [(piece, 1) for piece in ("▁a", "▁", "a", "b")]
    model = b"".join(field(1, field(1, p.encode()) + field(3, t)) for p, t in pieces)
    model += field(2, field(3, kind) + field(24, suffix) + field(42, 2**64 - 1))
    model += field(3, field(2, charsmap) + field(4, spaces))
    path.write_bytes(model)
    return path


@pytest.mark.parametrize("text", OF_THE_LIBRARY)
def test_texts_get_the_ids_that_the_library_gives_them(mistral, text) -> None:
    core = text_encoder(mistral)
    assert core.encode(text, add_special_tokens=False).ids == OF_THE_LIBRARY[text]
    if text[0] != " ":
        assert mistral.decode(OF_THE_LIBRARY[text]) == text


def test_its_special_tokens_are_those_of_the_file_and_it_is_kept_as_json(mistral, tmp_path) -> None:
    assert TokenPolicy.of(mistral) == TokenPolicy(bos=1, separator=2, special=(0, 1, 2))
    mistral.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert tokenizer_hash(again) == tokenizer_hash(mistral)
    assert TokenPolicy.of(again) == TokenPolicy.of(mistral)


def test_a_token_that_the_model_has_not_is_none_and_a_user_s_one_is_whole(tmp_path) -> None:
    made = load_sentencepiece(written(tmp_path / "tokenizer.model"))
    assert (made.bos_token, made.eos_token) == ("<s>", None)
    assert made.convert_ids_to_tokens(made("a<user>b")["input_ids"])[:2] == ["▁a", "<user>"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": 1}, "no BPE"),
        ({"spaces": 1, "suffix": 1}, "word marks at the end and spaces that are dropped"),
        ({"charsmap": b"nfkc"}, "a normalization that changes texts"),
    ],
)
def test_another_kind_is_told_how_to_be_converted(tmp_path, changes, words) -> None:
    written(tmp_path / "tokenizer.model", **changes)
    with pytest.raises(ConfigError, match=rf"{words}; .*pip install sentencepiece protobuf"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", ["other", "truncated", "empty"])
def test_a_file_that_is_no_model_is_refused(tmp_path, damage) -> None:
    path = written(tmp_path / "tokenizer.model")
    content = {"other": b"not a model", "truncated": path.read_bytes()[:-3], "empty": b""}
    path.write_bytes(content[damage])
    with pytest.raises(ConfigError, match="is not a SentencePiece model, or is damaged"):
        load_tokenizer(tmp_path)


def test_a_model_with_settings_of_transformers_is_told_how_to_be_converted(tmp_path) -> None:
    written(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(ConfigError, match=r"no `tokenizer\.json`.*save_pretrained"):
        load_tokenizer(tmp_path)
