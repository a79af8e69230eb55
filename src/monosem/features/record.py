"""What a feature database says of itself: its inputs, whether they are the same, and its sizes."""

from pathlib import Path
from typing import Any

import torch

from monosem.core import artifact
from monosem.core.config import Json, to_json
from monosem.core.errors import ConfigError
from monosem.core.whereabouts import whereabouts
from monosem.dictionaries.base import Dictionary
from monosem.features.schema import SQLITE_NAME
from monosem.features.sparse import FOLDER
from monosem.features.streaming import Streamed
from monosem.features.tables import Statistics
from monosem.metrics.record import weights_hash
from monosem.metrics.stream import Place
from monosem.text.tokens import TokenStore


def check_widths(dictionary: Dictionary[Any], place: Place) -> None:
    """Raise `ShapeMismatchError` unless the dictionary fits the sites it reads and writes."""
    dictionary.check_width(torch.empty(0, place.width), place.site)


def recorded(dictionary: Dictionary[Any], place: Place, config: object) -> Json:
    """Return the configuration of the artifact: the settings, and what the inputs are."""
    model = place.model
    return {
        "features": to_json(config),
        "dictionary": {"hash": weights_hash(dictionary), "config": to_json(dictionary.config)},
        "model": {"name": model.name, "hash": model.hash},
        "tokens": {"hash": place.store.hash},
        "dictionary_name": dictionary.architecture,
        "site": place.site,
        "target": dictionary.origin.target or place.site,
        "n_latents": dictionary.n_latents,
    }


def check_same(found: artifact.Artifact, wanted: Json) -> None:
    """Raise `ConfigError` unless the database `found` was built from the inputs and settings wanted."""
    differ = [
        name
        for name in ("features", "dictionary", "model", "tokens", "site")
        if _identity(found.config.get(name)) != _identity(wanted[name])
    ]
    if differ:
        raise ConfigError(
            f"`{found.path}` holds a finished feature database of another {' and '.join(differ)}. "
            "Choose another folder, or build it anew with `--fresh` (`fresh=True`)."
        )


def summary(
    folder: Path,
    streamed: Streamed,
    statistics: Statistics,
    store: TokenStore,
    *,
    matmul: str,
    seconds: float,
) -> Json:
    """Return counts, sizes (SQLite a latent; token store and sparse activations a token), and a hint.

    The hint is where the token store lies, seen from `folder`: that is renamed where it stands.
    """
    statuses = statistics.statuses()
    n_places = len(streamed.contexts) * store.context
    n_stored = store.n_tokens("train") + store.n_tokens("heldout")
    activations, tokens = _bytes_in(folder / FOLDER), _bytes_in(store.path)
    return {
        "n_tokens": streamed.n_tokens,
        "n_contexts": len(streamed.contexts),
        "n_alive": statuses.count("alive"),
        "n_ultralow": statuses.count("ultralow"),
        "n_dead": statuses.count("dead"),
        "l0": streamed.n_entries / streamed.n_tokens,
        "sqlite_bytes_a_latent": (folder / SQLITE_NAME).stat().st_size / len(statuses),
        "activation_bytes_a_token": activations / n_places,
        "token_store_bytes_a_token": tokens / n_stored,
        "matmul": matmul,
        "seconds": round(seconds, 2),
        "tokens_at": whereabouts(store.path, folder),
    }


def _identity(value: object) -> object:
    """Return the hash of an input, wherever it lies; settings as they are."""
    if isinstance(value, dict) and "hash" in value:
        return value["hash"]
    return value


def _bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
