"""Other words in the place of names, so that places are learnt rather than names.

In a share of the documents every name, and a tenth of the other words, is another word of the
vocabulary, wherever it stands in the document. New words differ from one another; that one of them
already stands in the document is not excluded. A document is what a row holds of it: of a piece
that no longer shows what is said of a name, the name is a name like others.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

RENAMED = 0.1
"""Share of the words renamed beside the names: what stands around names is not to be relied on."""


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """Which tokens are renamed, to which, and in what share of the documents."""

    share: float
    names: Int[np.ndarray, " name"]
    """Tokens that are renamed in every document of the share."""
    others: Int[np.ndarray, " other"]
    """Tokens that they become; no document may have more tokens than these are."""
    spared: Int[np.ndarray, " spared"]
    """Tokens that are never renamed."""
    telling: Int[np.ndarray, " telling"]
    """Tokens whose documents stay as they are: they say something of a name."""
    bos: int | None
    """Token that begins a document; without one a row is a document."""

    def __call__(
        self, random: np.random.Generator, tokens: Int[Tensor, "row pos"]
    ) -> Int[Tensor, "row pos"]:
        """Return the rows with names renamed.

        >>> none = np.array([], int)
        >>> renaming = Renaming(
        ...     share=1.0,
        ...     names=np.array([7, 8]),
        ...     others=np.arange(20, 60),
        ...     spared=none,
        ...     telling=np.array([3]),
        ...     bos=0,
        ... )
        >>> read = renaming(np.random.default_rng(0), torch.tensor([[0, 7, 2, 7, 8, 0, 3, 7]]))
        >>> bool(read[0, 1] == read[0, 3] != read[0, 4]), read[0, 5:].tolist()
        (True, [0, 3, 7])
        """
        rows = tokens.numpy()
        document = documents(rows, self.bos)
        n = int(document.max()) + 1
        drawn = random.random(n) < self.share
        drawn[document[np.isin(rows, self.telling)]] = False
        # One entry for each token of each document, by document.
        n_ids = int(rows.max()) + 1
        entries, places = np.unique(document * n_ids + rows, return_inverse=True)
        of, token = np.divmod(entries, n_ids)
        changes = (random.random(len(entries)) < RENAMED) & ~np.isin(token, self.spared)
        changes |= np.isin(token, self.names)
        changes &= drawn[of]
        # Neighbours in one permutation from a place drawn for each document: no two of its new words are one.
        rank = _rank(of[changes])
        start = random.integers(len(self.others), size=n)[of[changes]]
        token[changes] = random.permutation(self.others)[(start + rank) % len(self.others)]
        return torch.from_numpy(token[places].reshape(rows.shape))


def documents(rows: Int[np.ndarray, "row pos"], bos: int | None) -> Int[np.ndarray, "row pos"]:
    """Return each token's document, counted over all rows; a row begins one, and so does `bos`.

    >>> documents(np.array([[0, 5, 0, 6], [7, 7, 0, 8]]), 0).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    begins: Bool[np.ndarray, "row pos"] = np.zeros(rows.shape, bool)
    if bos is not None:
        begins = rows == bos
    begins[:, 0] = True
    return begins.ravel().cumsum().reshape(rows.shape) - 1


def _rank(groups: Int[np.ndarray, " entry"]) -> Int[np.ndarray, " entry"]:
    """Return the place of each entry in its group; equal groups lie side by side."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.arange(len(groups)) - first[inverse]
