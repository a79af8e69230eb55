"""Builds the token store: documents of the corpora, in turn, to packed contexts of two splits."""

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from monosem.core import artifact
from monosem.core.config import Json, to_json
from monosem.core.errors import ConfigError, CorpusError
from monosem.core.progress import progress
from monosem.text.corpus import open_corpus
from monosem.text.document import SPLITS, Corpus, Document, Split, split_of
from monosem.text.encoding import Encoded, encode, utf8
from monosem.text.packing import Packer, write_store
from monosem.text.store import (
    KIND,
    TOKENIZER,
    TRAIN_PREFIX,
    DocumentRef,
    TokensConfig,
    TokenStore,
)
from monosem.text.tokenizer import (
    TokenPolicy,
    load_tokenizer,
    text_encoder,
    tokenizer_hash,
    train_tokenizer,
)

__all__ = ["DocumentRef", "Split", "TokenStore", "TokensConfig", "build_token_store"]

TRAINING_CHARACTERS = 50_000_000


def build_token_store(
    config: TokensConfig,
    out: Path | str,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    fresh: bool = False,
) -> TokenStore:
    """Return the token store of `config` at `out`, written unless it is there already.

    `tokenizer` is one that is loaded already (a model's own); None loads or trains the one that
    `config` names. A finished store of the same configuration and inputs is used again; one of
    another is refused (`ConfigError`) unless `fresh`, which writes it anew.
    """
    out = Path(out)
    artifact.check_target(out, KIND)
    corpora = [open_corpus(c, text_field=config.text_field) for c in config.corpora]
    inputs = {c: corpus.fingerprint() for c, corpus in zip(config.corpora, corpora, strict=True)}
    if tokenizer is None and not config.tokenizer.startswith(TRAIN_PREFIX):
        tokenizer = load_tokenizer(config.tokenizer)
    if tokenizer is not None:
        inputs["tokenizer"] = tokenizer_hash(tokenizer)
    if not fresh and (found := _finished(config, inputs, out)) is not None:
        sys.stderr.write(f"`{out}` is already there; used again.\n")
        return found
    if tokenizer is None:
        tokenizer = _trained(config, corpora)
    policy = TokenPolicy.of(tokenizer)
    summary: Json = {}
    with artifact.writing(out, kind=KIND, config=config, inputs=inputs, summary=summary) as folder:
        packers = _pack(folder, config, corpora, tokenizer, policy)
        tokenizer.save_pretrained(folder / TOKENIZER)
        summary |= _summary(config, packers, tokenizer, policy)
    return TokenStore.open(out)


def _finished(config: TokensConfig, inputs: dict[str, str], out: Path) -> TokenStore | None:
    if not (out / artifact.CONFIG_NAME).is_file():
        return None
    found = artifact.read(out, KIND)  # once: it hashes every file
    wanted: Json = to_json(config)
    changed = [f"`{k}`" for k, v in wanted.items() if found.config.get(k) != v]
    before: Json = found.provenance["inputs"]
    changed += [f"what `{k}` holds" for k, v in inputs.items() if before.get(k) != v]
    if changed:
        raise ConfigError(
            f"`{out}` already holds a token store that differs in {', '.join(changed)}. Choose another "
            "folder, or pass `--fresh` (`fresh=True`) to write it anew."
        )
    return TokenStore(found)


def _trained(config: TokensConfig, corpora: Sequence[Corpus]) -> PreTrainedTokenizerFast:
    size = config.tokenizer.removeprefix(TRAIN_PREFIX)
    documents = itertools.chain.from_iterable(
        _some_train(corpus, config.heldout_share, TRAINING_CHARACTERS // len(corpora))
        for corpus in corpora
    )
    return train_tokenizer(documents, int(size), context=config.context)


def _some_train(corpus: Corpus, heldout_share: float, characters: int) -> Iterator[Document]:
    for document in corpus.documents():
        if split_of(document.name, heldout_share) == "train":
            utf8(document)  # the trainer's own error would not name the document
            yield document
            characters -= len(document.text)
            if characters <= 0:
                return


def _pack(
    folder: Path,
    config: TokensConfig,
    corpora: Sequence[Corpus],
    tokenizer: PreTrainedTokenizerFast,
    policy: TokenPolicy,
) -> dict[Split, Packer]:
    dtype = _dtype(_vocab_size(tokenizer))
    with contextlib.ExitStack() as stack:
        packers: dict[Split, Packer] = {
            split: stack.enter_context(
                contextlib.closing(Packer(folder, split, config.context, policy, dtype))
            )
            for split in SPLITS
        }
        last = _fill(packers, config, corpora, tokenizer)
    n_contexts = sum(packer.n_contexts for packer in packers.values())
    limit = config.max_tokens // config.context or n_contexts
    for split, packer in packers.items():
        n_over = max(0, n_contexts - limit) if split == last else 0
        packer.finish(packer.n_contexts - n_over)
    _check_enough(config, packers)
    write_store(folder, packers, config.context, dtype)
    return packers


def _fill(
    packers: dict[Split, Packer],
    config: TokensConfig,
    corpora: Sequence[Corpus],
    tokenizer: PreTrainedTokenizerFast,
) -> Split:
    """Add documents until there are enough, or no more; return the split of the last one."""
    last: Split = "train"
    with progress("tokens (bytes of text)", total=sum(c.size() for c in corpora)) as bar:
        for encoded in _documents(config, corpora, tokenizer):
            last = split_of(encoded.document.name, config.heldout_share)
            packers[last].add(encoded)
            bar.advance(len(encoded.text))
            n_contexts = sum(packer.n_contexts for packer in packers.values())
            if config.max_tokens and n_contexts >= config.max_tokens // config.context:
                break
    return last


def _documents(
    config: TokensConfig, corpora: Sequence[Corpus], tokenizer: PreTrainedTokenizerFast
) -> Iterator[Encoded]:
    core = text_encoder(tokenizer)
    streams = [encode(core, corpus.documents(), number) for number, corpus in enumerate(corpora)]
    return _mixed(streams, config.weights) if config.weights else itertools.chain(*streams)


def _mixed(streams: Sequence[Iterator[Encoded]], weights: Sequence[float]) -> Iterator[Encoded]:
    served = np.zeros(len(streams))
    while True:
        chosen = int(np.argmin(served / np.asarray(weights)))
        encoded = next(streams[chosen], None)
        if encoded is None:
            return
        served[chosen] += len(encoded.ids)
        yield encoded


def _check_enough(config: TokensConfig, packers: dict[Split, Packer]) -> None:
    if packers["train"].n_contexts:
        return
    if packers["heldout"].n_contexts:
        raise CorpusError(
            f"All documents of {_listed(config)} with enough text fell into the held-out split, which "
            "hashes their names. Give more documents, or `heldout_share` 0."
        )
    raise CorpusError(
        f"{_listed(config)} holds fewer tokens than one context of {config.context}. "
        "Give more text, or a smaller `context`."
    )


def _summary(
    config: TokensConfig,
    packers: dict[Split, Packer],
    tokenizer: PreTrainedTokenizerFast,
    policy: TokenPolicy,
) -> Json:
    tables = {split: _counts(config, packers[split]) for split in SPLITS}
    return {
        "vocab_size": _vocab_size(tokenizer),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "policy": to_json(policy),
        "splits": {
            split: {
                "documents": len(packer.documents),
                "contexts": packer.n_contexts,
                "tokens": packer.n_tokens,
                "bytes": sum(d["n_bytes"] for d in packer.documents),
            }
            for split, packer in packers.items()
        },
        "corpora": {
            name: {split: tables[split][number] for split in SPLITS}
            for number, name in enumerate(config.corpora)
        },
        "licences": sorted({d["licence"] for p in packers.values() for d in p.documents}),
    }


def _counts(config: TokensConfig, packer: Packer) -> list[Json]:
    firsts = [d["first_row"] for d in packer.documents]
    base = firsts[0] if firsts else 0
    lengths = np.diff([*firsts, base + packer.n_tokens])
    counts: list[Json] = [{"documents": 0, "tokens": 0} for _ in config.corpora]
    for document, length in zip(packer.documents, lengths, strict=True):
        counts[document["corpus"]]["documents"] += 1
        counts[document["corpus"]]["tokens"] += int(length)
    return counts


def _vocab_size(tokenizer: PreTrainedTokenizerFast) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def _listed(config: TokensConfig) -> str:
    return ", ".join(f"`{c}`" for c in config.corpora)
