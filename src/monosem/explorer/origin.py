"""Where a page's figures come from: model, text, tokens, dictionary, and what it was all made with.

A report is sent to others, so folders of this machine are shown by their last name alone.
"""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from monosem.core.config import Json
from monosem.features.database import FeatureDatabase
from monosem.rendering import table


def origin(database: FeatureDatabase) -> dict[str, str]:
    """Return what a database was made from and with, in words, by what it is."""
    config, made, store = database.config, database.provenance, database.store
    read: Json = config["features"]
    n_train, n_heldout = store.n_tokens("train"), store.n_tokens("heldout")
    return {
        "language model": f"{_name(config['model']['name'])} ({config['model']['hash']})",
        "text": ", ".join(_name(corpus) for corpus in store.config.corpora),
        "licences of the text": ", ".join(store.summary["licences"]),
        "tokens": f"{n_train:,} to train on and {n_heldout:,} held out, in contexts of "
        f"{store.context} ({store.hash})",
        "tokenizer": f"{_name(store.config.tokenizer)} ({store.tokenizer_hash})",
        "site": database.sites,
        "dictionary": f"{database.dictionary_name} ({config['dictionary']['hash']})",
        "evidence": f"{database.metrics['n_tokens']:,} ordinary tokens of the {read['split']} split, "
        f"seed {read['seed']}, products in {database.metrics['matmul']}",
        "made with": f"monosem {made['monosem']}, torch {made['torch']}, "
        f"transformers {made['transformers']}, Python {made['python']}",
        "commit": str(made["git_commit"] or "—"),
        "made": str(made["created"]),
    }


def origin_table(origins: Mapping[str, Mapping[str, str]]) -> Markup:
    """Return the origins of several databases by name, a column each."""
    rows = [
        [what, *(found[what] for found in origins.values())]
        for what in next(iter(origins.values()))
    ]
    return table.html(["", *origins], rows)


def _name(place: str) -> str:
    path = Path(place)
    return path.name if path.is_absolute() or place.startswith("~") else place
