"""What a step of pretraining reads: contexts whole or in pieces, drills in their place, names renamed.

Each is a way to have an ability learnt sooner, or of more tokens than text holds it for:

    short    in short pieces heads that match tokens form sooner
    drill    random tokens that repeat are what induction is learned from soonest
    whole    later positions are learnt beside short pieces, not after them
    rename   what a model learns of names it then has to learn of places in a sentence

A step's tokens are a function of the contexts, the seed and the step: a resumed run reads the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.text.genres.indirect_objects import names
from monosem.text.genres.pronouns import SEXED
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.genres.words import NAMES
from monosem.text.store import TokenStore
from monosem.training.renaming import Renaming
from monosem.training.schedule import drills, n_drilled, pieces

FEWEST_NAMES = 8
"""Single tokens that are names, without which renaming them says nothing."""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How text is read."""

    drill: float = 0.0
    """Share of each step's contexts that are random tokens, stretches of which come again
    (`schedule.drills`), in place of text: what induction is learned from soonest."""
    short: float = 0.0
    """Share of the run, its first part, in which contexts are read in pieces. In short pieces heads that
    match tokens form sooner."""
    pieces: tuple[int, int] = (32, 64)
    """Tokens of those pieces, and of those in the last third of that part."""
    whole: float = 0.0
    """Share of the steps of that part in which contexts are read whole all the same: without one, and with
    `short` 1, positions after the longest piece are never learnt."""
    rename: float = 0.0
    """Share of the documents in which each name, and a tenth of the other words, is another word of the
    vocabulary, the same wherever it stands (`renaming.Renaming`); names kept for tests are neither renamed
    nor new names, and documents that say whether a name is a woman's or a man's stay as they are."""
    named: float = 0.0
    """Share of the run, its first part, in which names stay as they are all the same."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("drill", "short", "whole", "rename", "named"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        if min(self.pieces) < 2:
            raise ConfigError(
                f"`pieces` must be of at least 2 tokens, got {self.pieces}. Try 32 64."
            )

    @property
    def plain(self) -> bool:
        """Whether contexts are read as they are."""
        return not (self.drill or self.short or self.rename)

    def piece_at(self, step: int, n_steps: int) -> int | None:
        """Tokens of a piece at `step` (from 0); None: contexts are read whole."""
        if step >= self.short * n_steps or n_drilled(self.whole, step):
            return None
        return self.pieces[0] if step < self.short * n_steps * 2 / 3 else self.pieces[1]


class Reader:
    """Reads a store's contexts, as a config says."""

    def __init__(self, config: ReadingConfig, store: TokenStore, seed: int, n_steps: int) -> None:
        """Read `store` over `n_steps` steps; `rename` without names to rename is refused."""
        self._config, self._store, self._seed, self._n_steps = config, store, seed, n_steps
        special = set(store.policy.special)
        self._ordinary = np.array([i for i in range(store.vocab_size) if i not in special])
        vocabulary = Vocabulary(store.vocab_size, store.tokenizer)
        kept = _tokens(vocabulary, names(test=True))
        self._rename = Renaming(
            share=config.rename,
            names=_tokens(vocabulary, names(test=False)),
            others=np.setdiff1d(vocabulary.plain, _tokens(vocabulary, (*NAMES, *SEXED))),
            spared=np.array([*special, *kept], int),
            telling=_tokens(vocabulary, SEXED),
            bos=store.policy.bos,
        )
        n_names, n_others = len(self._rename.names), len(self._rename.others)
        if config.rename and (n_names < FEWEST_NAMES or n_others < store.context):
            raise ConfigError(
                f"`rename` is {config.rename}, but {n_names} of the generator's names are single "
                f"tokens of this store, and {n_others} other words; at least {FEWEST_NAMES} "
                f"names, and {store.context} words, are needed. Pass `--rename 0`, or make the tokens with a "
                "tokenizer that has read names (`--corpora generated --tokenizer train:2560`)."
            )

    def __call__(self, contexts: Sequence[int], step: int) -> Int[Tensor, "row pos"]:
        """Return the tokens of `step` (from 0): of these contexts, or pieces of them, and its drills."""
        tokens = torch.from_numpy(self._store.tokens(np.asarray(contexts)))
        length, bos = self._config.piece_at(step, self._n_steps), self._store.policy.bos
        if length is not None and length < tokens.shape[1]:
            # Room for one piece at least.
            offset = step % min(length, tokens.shape[1] - length + 1)
            tokens = pieces(tokens, length, offset, bos=bos)
        if self._config.rename and step >= self._config.named * self._n_steps:
            tokens = self._rename(np.random.default_rng([self._seed, step, 1]), tokens)
        n = n_drilled(self._config.drill * len(tokens), step)
        if n:
            random = np.random.default_rng([self._seed, step])
            drawn = drills(random, n, tokens.shape[1], self._ordinary, bos=bos)
            tokens = torch.cat([tokens[n:], torch.from_numpy(drawn)])
        return tokens


def _tokens(vocabulary: Vocabulary, words: tuple[str, ...]) -> Int[np.ndarray, " token"]:
    """Return the tokens of those of `words` that are one each, with the space before."""
    return np.array([vocabulary.encode(f"and {w}")[-1] for w in vocabulary.single(words)], int)
