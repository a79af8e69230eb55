"""Texts that break tokenizers, and tokenizers to break."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from monosem.text.document import Document
from monosem.text.tokenizer import load_tokenizer, train_tokenizer

HARD = [
    "Grüße, naïve café — “quotes” … ½ €",
    "\r\nCRLF\r\n\r\n\ttabs\t\x0b\x0c\x1b[0m controls \x01\x02\x7f\x85",
    "family: 👨\u200d👩\u200d👧\u200d👦 flags: 🇩🇪🏴\U000e0067\U000e0062 joiner a\u200db\u200c",
    "漢字かな交じり文。한국어 العربية עברית ไทย ᏣᎳᎩ ܣܘܪܝܝܐ",
    "e\u0301 vs é; ﬁ ligature; Å Å; \ufeffBOM inside; \u2028 line sep",
    "<s> </s> <|endoftext|> <|bos|> <unk> ▁▁ metaspace <0x0A>",
    "    def f(x):\n        return x  # comment\n\n\n",
    "   leading and trailing   ",
    "a" * 300 + " " * 300 + "\U0010ffff\U00010348",
]


@pytest.fixture(scope="session")
def hard() -> list[str]:
    return HARD


@pytest.fixture(scope="session")
def trained() -> PreTrainedTokenizerFast:
    documents = [
        Document(name=f"d{i}", text=text * 3, source="test", licence="none")
        for i, text in enumerate(HARD)
    ]
    return train_tokenizer(documents, 320, context=16)


@pytest.fixture(
    scope="session",
    params=[
        "trained",
        "models/stories260k",
        "models/babyllama-361",
        "tokenizers/gpt2",
        "tokenizers/mistral-v1",
    ],
)
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param == "trained":
        return request.getfixturevalue("trained")
    return load_tokenizer(request.getfixturevalue("data") / request.param)


@pytest.fixture
def folder(tmp_path: Path, hard: list[str]) -> Path:
    """A folder of sixteen records made of hard text."""
    path = tmp_path / "texts"
    path.mkdir()
    records = [{"text": "\n".join(hard[i % 9 :] + hard[: i % 5]) + str(i)} for i in range(16)]
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (path / "hard.jsonl").write_text(lines, encoding="utf-8")
    return path
