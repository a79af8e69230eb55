"""Kinds of text, by proxy, and the latent nearest to each: searched once, for all figures that ask."""

import string
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from monosem.metrics.proxies import Proxy, characters, regex, script, unigram
from monosem.metrics.sample import Sample
from monosem.metrics.specificity import BestUnit, best_unit
from monosem.text.tokens import TokenStore

RUNS = "base64 in long runs"
BASE64 = string.ascii_letters + string.digits + "+/"
LONG = 8
"""Tokens of one run that names and words do not have, and base64 has."""
COUNTED = 200
"""Training contexts over which the shares of tokens are counted."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """A kind: what its proxy says of each token, and the latent that follows it most closely."""

    values: Float[np.ndarray, "n context"]
    best: BestUnit


def nearest(sample: Sample, store: TokenStore, seed: int) -> dict[str, Nearest]:
    """Return every kind that is looked for, by name, with the latent of `sample` nearest to it."""
    found: dict[str, Nearest] = {}
    for name, proxy in known(store, seed):
        values = proxy(sample.text)
        found[name] = Nearest(values, best_unit(sample, values, seed=seed))
    return found


def known(store: TokenStore, seed: int) -> Iterator[tuple[str, Proxy]]:
    """Yield the proxies that are looked for, by name."""
    contexts = store.contexts("train")
    some = np.random.default_rng(seed).permutation(len(contexts))[:COUNTED]
    tokens = store.tokens(np.sort(some) + contexts.start)
    log_p = unigram(np.bincount(tokens.ravel(), minlength=store.vocab_size))
    yield "Arabic", script("arabic")
    yield "Hebrew", script("hebrew")
    yield "DNA", characters("ACGT", log_p, fewest_tokens=2)
    yield "base64", characters(BASE64, log_p)
    yield RUNS, characters(BASE64, log_p, fewest_tokens=LONG)
    yield "hexadecimal", regex(r"(?<![0-9a-zA-Z])[0-9a-f]{6,}(?![0-9a-zA-Z])")
    yield "numbers", regex(r"[0-9]+")
    yield "ALL_CAPS names", regex(r"\b[A-Z][A-Z_]{3,}\b")
    yield "addresses", regex(r"https?://\S+")
    yield "names in snake_case", regex(r"\b[a-z]+(?:_[a-z]+)+\b")
