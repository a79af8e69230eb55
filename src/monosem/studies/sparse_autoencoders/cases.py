"""Case studies: on which tokens a latent is active, of latents drawn at random and of the narrowest.

A latent's activation is summed by token; the share of its largest token says how narrow it is. Narrow
ones are chosen for it, and say so: the random ones are what a reader may expect.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from markupsafe import Markup
from scipy.sparse import csr_array
from transformers import PreTrainedTokenizerFast

from monosem.dictionaries.base import Dictionary
from monosem.metrics.by_token import latents_by_token, sums
from monosem.metrics.sample import as_matrix, encoded, vertical
from monosem.metrics.stream import Place, enough, visit
from monosem.rendering import table
from monosem.rendering.tokens import token as shown
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.setting import Setting

LEAST = 30
"""Tokens that a latent must fire on, to be shown."""
N_TOKENS = 6


@dataclass(frozen=True)
class Case:
    """One latent and the tokens that have most of its activation."""

    latent: int
    n: int
    """Tokens it fires on."""
    tokens: tuple[tuple[str, float], ...]
    """Token and share of the activation, the largest first."""


def cases(setting: Setting) -> Figure:
    """Return the tokens of the narrowest and of random latents."""
    dictionary = setting.sizes[setting.scale.ratios[-1]]
    mass, counts = by_token(dictionary, setting)
    alive = np.flatnonzero(counts >= LEAST)
    share = mass.max(1).toarray().ravel() / np.maximum(sums(mass, 1), 1e-30)
    narrow = alive[np.argsort(-share[alive], kind="stable")][: setting.scale.n_cases]
    random = np.random.default_rng(setting.seed)
    drawn = random.permutation(alive)[: setting.scale.n_cases]
    vocabulary = setting.store.tokenizer
    made = {
        words: [_case(int(i), mass, counts, vocabulary) for i in chosen]
        for words, chosen in (("narrowest", narrow), ("drawn at random", drawn))
    }
    how = "studies/sparse_autoencoders/cases.py; monosem study sparse-autoencoders-find-features"
    return Figure(
        name="cases",
        title="What latents are active on",
        text=(
            f"Of {len(alive):,} latents that fire on {LEAST} tokens or more: those with most of their "
            "activation on one token, chosen for that, and as many drawn at random. Shares are of a "
            "latent's activation."
        ),
        drawings=tuple(_drawn(found) for found in made.values()),
        captions=tuple(words.capitalize() for words in made),
        items=(
            Item(
                item="share of a latent's activation on its largest token, median",
                here=float(np.median(share[alive])) if len(alive) else None,
                unit="share",
                how=how,
            ),
            Item(
                item="latents with more than nine tenths of it on one token",
                here=float((share[alive] > 0.9).mean()) if len(alive) else None,
                unit="share",
                how=how,
            ),
        ),
        notes={"site": setting.residual, "latents": f"{dictionary.n_latents:,}"},
    )


def by_token(
    dictionary: Dictionary[Any], setting: Setting
) -> tuple[csr_array, Int64[np.ndarray, " n_latents"]]:
    """Return the activation of each latent on each token of the vocabulary, and how often it fires."""
    store = setting.store
    place = Place(setting.model, store, setting.residual)
    contexts = enough(visit(store, "heldout", setting.seed), store, setting.scale.n_eval)
    # activations are not kept: at the paper's scale they alone would be gigabytes
    latents = vertical([as_matrix(some) for _, some in encoded(dictionary, place, contexts)])
    read = store.tokens(contexts)
    tokens = read[store.ordinary(read)].astype(np.int64)
    counts = np.bincount(latents.indices, minlength=dictionary.n_latents).astype(np.int64)
    return latents_by_token(latents, tokens, store.vocab_size), counts


def _case(
    latent: int,
    mass: csr_array,
    counts: Int64[np.ndarray, " n_latents"],
    tokenizer: PreTrainedTokenizerFast,
) -> Case:
    row = mass[[latent]].toarray()[0]
    largest = np.argsort(-row, kind="stable")[:N_TOKENS]
    total = float(row.sum())
    tokens = tuple(
        (str(tokenizer.decode([int(t)])), float(row[t]) / total) for t in largest if row[t] > 0
    )
    return Case(latent, int(counts[latent]), tokens)


def _drawn(found: list[Case]) -> str:
    rows = [[str(case.latent), f"{case.n:,}", _listed(case)] for case in found]
    return str(table.html(["latent", "fires on", "tokens, share of its activation"], rows))


def _listed(case: Case) -> Markup:
    return Markup(", ").join(
        Markup("{} {}").format(shown(text), f"{100 * share:.0f} %") for text, share in case.tokens
    )
