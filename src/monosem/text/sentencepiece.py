"""Reads a SentencePiece `tokenizer.model` of Llama's kind: BPE over untouched text.

The file is one protocol buffer; only what follows is read of it:

    ModelProto      1 pieces, 2 trainer_spec, 3 normalizer_spec
    SentencePiece   1 piece, 2 score, 3 type
    TrainerSpec     3 model_type, 24 whitespace as suffix, 35 byte_fallback, 40-42 ids of unk, bos, eos
    NormalizerSpec  2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces

SentencePiece joins the two neighbours whose union has the best score, the leftmost of equal ones;
so the merges are all ways to put a piece together, the pieces with the best scores first.
Kudo & Richardson 2018, arXiv:1808.06226; field numbers: its `sentencepiece_model.proto`.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from monosem.core.errors import ConfigError

MODEL = "tokenizer.model"
CONVERT = (
    "Convert it once: `pip install sentencepiece protobuf`, load it with the tokenizer class of its "
    "model in transformers, `save_pretrained` into a folder, and pass that: it has a `tokenizer.json`."
)
MARK = "▁"
NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
"""Types of pieces; 6 are single bytes."""
BPE_MODEL = 2
NONE = 2**64 - 1
"""-1 as it is written: the model has no such token."""


def load_sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in the file `path`, which splits texts as SentencePiece does.

    Raises `ConfigError` for a kind that changes texts or is no BPE, and for what is no such file.
    """
    try:
        pieces, trainer, normalizer = _read(path.read_bytes())
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise ConfigError(
            f"`{path}` is not a SentencePiece model, or is damaged ({error}). Fetch it again, or pass a "
            "folder with `tokenizer.json`."
        ) from error
    _check(path, trainer, normalizer)
    vocab = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    unknown, bos, eos = (
        pieces[index][0] if (index := int(trainer.get(field, default))) != NONE else None
        for field, default in ((40, 0), (41, 1), (42, 2))
    )
    merges = _merges({piece: score for piece, kind, score in pieces if kind == NORMAL})
    fallback = bool(trainer.get(35, 0))
    core = Tokenizer(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    prefix = bool(normalizer.get(3, 1))
    core.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend(MARK)] if prefix else []), normalizers.Replace(" ", MARK)]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    core.add_special_tokens([piece for piece, kind, _ in pieces if kind in (UNKNOWN, CONTROL)])
    user = [AddedToken(piece, normalized=False) for piece, kind, _ in pieces if kind == USER]
    core.add_tokens(user)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=unknown,
        bos_token=bos,
        eos_token=eos,
        clean_up_tokenization_spaces=False,
    )


Fields = dict[int, int | bytes]
"""The last value of each field of a message."""


def _read(data: bytes) -> tuple[list[tuple[str, int, float]], Fields, Fields]:
    """Return the pieces with types and scores, and the fields of trainer and normalizer."""
    pieces: list[tuple[str, int, float]] = []
    specs: dict[int, Fields] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(cast(bytes, value)))
            (score,) = struct.unpack("<f", cast(bytes, piece.get(2, bytes(4))))
            pieces.append((cast(bytes, piece[1]).decode(), int(piece.get(3, NORMAL)), score))
        elif field in (2, 3):
            specs[field] = dict(_fields(cast(bytes, value)))
    if not pieces:
        raise ValueError("no pieces")
    return pieces, specs.get(2, {}), specs.get(3, {})


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protocol buffer: an integer, or bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of type {kind}")
        size, position = _varint(data, position) if kind == 2 else (8 if kind == 1 else 4, position)
        if position + size > len(data):
            raise ValueError("it ends too early")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the integer at `position`, seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _check(path: Path, trainer: Fields, normalizer: Fields) -> None:
    faults = {
        "no BPE": trainer.get(3, 1) != BPE_MODEL,
        "word marks at the end": bool(trainer.get(24, 0)),
        "a normalization that changes texts": bool(normalizer.get(2, b"")),
        "spaces that are dropped": bool(normalizer.get(4, 1)),
    }
    found = [name for name, there in faults.items() if there]
    if found:
        raise ConfigError(
            f"`{path}` is a SentencePiece model with {' and '.join(found)}; only Llama's kind is read. "
            f"{CONVERT}"
        )


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return every way to join two pieces to a third, by the score of the third."""
    rank = {piece: index for index, piece in enumerate(sorted(scores, key=lambda p: -scores[p]))}
    merges: list[tuple[str, str]] = []
    for piece in rank:
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        ways = [(left, right) for left, right in cuts if left in rank and right in rank]
        merges += sorted(ways, key=lambda way: (rank[way[0]], rank[way[1]]))
    return merges
