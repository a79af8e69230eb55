"""`monosem tokens`: corpora to a token store."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from monosem.core.config import Json
from monosem.rendering.table import text as text_table
from monosem.text.document import SPLITS
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Read corpora into a token store: packed contexts in which every token knows its document."""

    tokens: tyro.conf.OmitArgPrefixes[TokensConfig] = field(default_factory=TokensConfig)
    out: Path = Path("runs/tokens")
    """The folder to write."""
    fresh: bool = False
    """Write the store anew where one lies already."""
    json: bool = False
    """Print the counts as JSON."""


def main(arguments: list[str]) -> int:
    """Build or reuse the store that `arguments` describe, and print its counts."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem tokens")
    store = build_token_store(given.tokens, given.out, fresh=given.fresh)
    print(json.dumps(counts(store)) if given.json else shown(store))
    return 0


_ANOTHER = (
    "A document's side follows from its name: give more documents, or another `--heldout-share`."
)
_NEEDED = {
    "train": f"No document is left to train on. {_ANOTHER}",
    "heldout": f"No document is held out, so that `monosem evaluate` has no text. {_ANOTHER}",
}


def counts(store: TokenStore) -> Json:
    """Return what `--json` prints: the store's place and identity, and its counts."""
    return {
        "path": str(store.path),
        "hash": store.hash,
        "context": store.context,
        "vocab_size": store.vocab_size,
        **{name: store.summary[name] for name in ("policy", "splits", "corpora", "licences")},
    }


def shown(store: TokenStore) -> str:
    """Return the table of documents and tokens, a line a corpus and their sum."""
    headers = [
        "corpus",
        *(f"{split} {what}" for split in SPLITS for what in ("documents", "tokens")),
    ]
    corpora: dict[str, Json] = store.summary["corpora"]
    rows = [[name, *_cells(splits)] for name, splits in corpora.items()]
    if len(rows) > 1:
        rows.append(["all", *_cells(store.summary["splits"])])
    empty = [split for split in SPLITS if not store.summary["splits"][split]["tokens"]]
    return (
        f"{text_table(headers, rows)}\n\n"
        f"Contexts of {store.context}, vocabulary of {store.vocab_size:,}: {store.path}"
        + "".join(f"\n{_NEEDED[split]}" for split in empty)
    )


def _cells(splits: Json) -> list[str]:
    return [f"{splits[split][what]:,}" for split in SPLITS for what in ("documents", "tokens")]
