"""Rows of tokens from a text file, for verbs that measure a model on text of the user's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.core.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.models.language_model import LanguageModel

LONGEST = 256
"""Tokens of a row, at most."""


def rows_of_text(model: "LanguageModel", path: Path, n_contexts: int) -> "Tensor":
    """Return the first rows of the text at `path`, each as long as the context, 256 at most, BOS in front."""
    # Imported here for start-up time.
    import torch

    if model.tokenizer is None:
        raise ConfigError(f"`{model.name}` has no tokenizer to read `--text` with; leave it out.")
    try:
        words = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"`{path}` cannot be read as text ({error}). Pass a file of UTF-8 text."
        ) from error
    tokenizer: Any = model.tokenizer
    length, bos = min(model.context, LONGEST), tokenizer.bos_token_id
    n_first = 0 if bos is None else 1
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    n = min(n_contexts, len(ids) // (length - n_first))
    if n == 0:
        raise CorpusError(
            f"`{path}` holds {len(ids)} tokens, less than one context of {length}. Pass a longer text."
        )
    rows = torch.tensor(ids[: n * (length - n_first)]).reshape(n, -1)
    return torch.cat([rows.new_full((n, n_first), bos or 0), rows], dim=1)
