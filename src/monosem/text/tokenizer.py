"""Tokenizers: train one, load one, hash one; and which of its tokens are not ordinary.

A trained one is a byte-level BPE (Sennrich et al. 2016; byte alphabet of Radford et al. 2019), so
that every text has tokens and comes back from them unchanged.
"""

import hashlib
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from monosem.core.errors import ConfigError, CorpusError, UnknownNameError
from monosem.core.hub import only_cached
from monosem.text.document import Document
from monosem.text.sentencepiece import CONVERT, MODEL, load_sentencepiece

BOS = "<|bos|>"
N_BYTES = 256
HUGGING_FACE = ("tokenizer.json", "tokenizer_config.json")
"""Files that say more of a tokenizer than its SentencePiece model does."""


@dataclass(frozen=True, kw_only=True)
class TokenPolicy:
    """Which tokens are put in, and which are not ordinary. Recorded with every token store."""

    bos: int | None
    """Begins every context; None where the tokenizer has none."""
    separator: int | None
    """Stands after every document: the end-of-text token, else BOS, else nothing."""
    special: tuple[int, ...]
    """Every token that is not text: never encoded from text, never counted as ordinary."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "TokenPolicy":
        """Return the policy for `tokenizer`."""
        bos = cast(int | None, tokenizer.bos_token_id)
        eos = cast(int | None, tokenizer.eos_token_id)
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | set(
            tokenizer.all_special_ids
        )
        return cls(bos=bos, separator=bos if eos is None else eos, special=tuple(sorted(special)))


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, *, context: int
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of at most `vocab_size` tokens with the special token `<|bos|>` at 0.

    Raises `ConfigError` for a vocabulary that cannot hold the 256 bytes, `CorpusError` for no text.
    """
    if vocab_size <= N_BYTES + 1:
        raise ConfigError(
            f"A vocabulary of {vocab_size} tokens cannot hold the {N_BYTES} bytes and `{BOS}`. "
            f"Ask for {N_BYTES + 2} or more, such as `train:4096`."
        )
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    n_read = 0

    def texts() -> Iterable[str]:
        nonlocal n_read
        for document in documents:
            n_read += 1
            yield document.text

    core.train_from_iterator(texts(), trainer)
    if n_read == 0:
        raise CorpusError("There is no document to train a tokenizer on. Name a corpus with text.")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of an embedded model, a folder, or a hub name, in that order."""
    place = _place(str(name_or_folder))
    model = Path(place) / MODEL
    if model.is_file() and not any((Path(place) / name).is_file() for name in HUGGING_FACE):
        return load_sentencepiece(model)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, local_files_only=only_cached(place)
        )
    except (OSError, ValueError) as error:
        if model.is_file():
            raise ConfigError(
                f"`{name_or_folder}` holds a SentencePiece `{MODEL}` with settings of transformers, and "
                f"no `tokenizer.json`. {CONVERT}"
            ) from error
        raise UnknownNameError(
            f"No tokenizer could be loaded from `{name_or_folder}`: {str(error).splitlines()[0]} "
            "Pass a folder with `tokenizer.json`, the name of an embedded model, a name on the Hugging "
            "Face hub, or `train:4096` to train one."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"The tokenizer `{name_or_folder}` is a `{type(tokenizer).__name__}` without character "
            "offsets, so its tokens cannot be shown in their text. Use one that has a `tokenizer.json`."
        )
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a hash of what the tokenizer does: its rules and special tokens, not its path."""
    core = _plain(tokenizer).to_str()
    text = f"{core}\n{sorted(tokenizer.special_tokens_map.items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def text_encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """Return its core, which encodes whole texts: none cut, none padded, no special token from text."""
    core = _plain(tokenizer)
    core.encode_special_tokens = True
    return core


def _plain(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    return core


def _place(name: str) -> str:
    embedded = importlib.resources.files("monosem") / "models" / "embedded" / name
    if "/" not in name and embedded.joinpath("tokenizer.json").is_file():
        return str(embedded)
    return name
