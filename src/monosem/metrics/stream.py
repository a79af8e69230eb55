"""Streams of activations for measurements: which contexts, in what order, and their mean.

Contexts of a split are visited in one seeded permutation, so that a part of the split is a sample of
the whole of it: stores hold corpora one after the other.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from monosem.activations.capture import check_fit
from monosem.activations.pair import of_two_models
from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.models.language_model import LanguageModel
from monosem.models.site import Site
from monosem.text.tokens import Split, TokenStore

AnyDictionary = Dictionary[Any]


@dataclass(frozen=True, eq=False)
class Place:
    """Where activations come from: a site of a model, reading a token store.

    Several sites are joined by a comma and a space; their vectors stand side by side.
    """

    model: LanguageModel
    store: TokenStore
    site: str
    target: str = ""
    """What is made of them, if those are other sites."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The sites that are read."""
        return tuple(self.site.split(", "))

    @property
    def writes(self) -> tuple[str, ...]:
        """The sites that are made: those that are read, as a rule."""
        return tuple((self.target or self.site).split(", "))

    @property
    def sites(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(self.reads + self.writes))

    @property
    def width(self) -> int:
        """Width of the vector of a token that is read; heads count flattened."""
        return sum(self.model.width(site) for site in self.reads)

    @property
    def written_widths(self) -> list[int]:
        """Width of each site that is made."""
        return [self.model.width(site) for site in self.writes]

    def check(self) -> None:
        """Raise unless the sites have vectors and the model can read the store's tokens."""
        for site in self.sites:
            self.model.check_site(site)
            self.model.width(site)
        check_fit(self.model, self.store)


@dataclass(frozen=True, eq=False)
class Block:
    """A few contexts: their tokens, and which of these are ordinary."""

    tokens: Int[Tensor, "batch pos"]
    ordinary: Bool[Tensor, "batch pos"]


def site_of(dictionaries: Mapping[str, AnyDictionary], site: str | None) -> str:
    """Return the canonical name of the one site that `dictionaries` read: their own, or else `site`.

    Names of several sites that are read together are joined by a comma and a space.
    """
    if not dictionaries:
        raise ConfigError("There is no dictionary to read with. Pass at least one.")
    sites = {name: _canonical(d.site) for name, d in dictionaries.items() if d.site}
    wanted = _canonical(site) if site else next(iter(sites.values()), "")
    if not wanted:
        raise ConfigError(
            f"The dictionary `{next(iter(dictionaries))}` does not record its site. "
            "Name it: `site='blocks.0.mlp.hook_post'`."
        )
    for name, own in sites.items():
        if own != wanted:
            raise ConfigError(
                f"The dictionary `{name}` was trained at `{own}`, not at `{wanted}`. Read each at its "
                "own site; only dictionaries of one site go together."
            )
    return wanted


def target_of(dictionaries: Mapping[str, AnyDictionary]) -> str:
    """Return the sites that all `dictionaries` make, "" where they make what they read."""
    targets = {name: _canonical(d.origin.target) for name, d in dictionaries.items()}
    own_sites = {name: _canonical(d.site) for name, d in dictionaries.items()}
    targets = {name: "" if own == own_sites[name] else own for name, own in targets.items()}
    wanted = next(iter(targets.values()), "")
    for name, own in targets.items():
        if own != wanted:
            raise ConfigError(
                f"The dictionary `{name}` makes `{own or 'what it reads'}`, another `"
                f"{wanted or 'what it reads'}`. Only dictionaries of the same sites go together."
            )
    return wanted


def _canonical(sites: str) -> str:
    if of_two_models(sites):
        raise ConfigError(
            f"`{sites}` are sites of two models, and measures are of one. Look at `site_shares()` and "
            "`rows_by_site()` of such a dictionary instead."
        )
    return ", ".join(Site.parse(site.strip()).name for site in sites.split(",") if site.strip())


def visit(store: TokenStore, split: Split, seed: int) -> Int64[np.ndarray, " n_contexts"]:
    """Return the contexts of `split` in the order of its seeded permutation."""
    contexts = store.contexts(split)
    if not len(contexts):
        raise ConfigError(
            f"The {split} split of `{store.path}` is empty. Use more documents, or another "
            "`heldout_share`, when making the tokens."
        )
    return contexts.start + np.random.default_rng(seed).permutation(len(contexts))


def blocks(
    store: TokenStore, contexts: Sequence[int] | np.ndarray, n_tokens: int
) -> Iterator[Block]:
    """Yield `contexts` in blocks of about `n_tokens` tokens, at least one context each."""
    step = max(1, n_tokens // store.context)
    for start in range(0, len(contexts), step):
        tokens = store.tokens(contexts[start : start + step])
        yield Block(torch.from_numpy(tokens), torch.from_numpy(store.ordinary(tokens)))


def activations(place: Place, block: Block) -> Float[Tensor, "batch pos d"]:
    """Return what the tokens of `block` are where they are read, in float32, heads flattened."""
    return side_by_side(place.model.capture(block.tokens, list(place.reads)), place.reads)


def side_by_side(seen: Mapping[str, Tensor], sites: Sequence[str]) -> Float[Tensor, "batch pos d"]:
    """Return the float32 vectors of several sites, one after the other."""
    parts = [vectors(seen[site]) for site in sites]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def vectors(x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos d"]:
    """Return one float32 vector a token, heads flattened."""
    return x.flatten(2).float()


def ordinary_mean(place: Place, n_tokens: int, seed: int, batch: int) -> Float[Tensor, " d"]:
    """Return the mean of what is made, over about `n_tokens` ordinary tokens of the training split."""
    contexts = first(visit(place.store, "train", seed), place.store, n_tokens)
    device = place.model.device
    wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no doubles
    total = torch.zeros(sum(place.written_widths), dtype=torch.float64)
    seen = 0
    with progress("mean of the site (contexts)", len(contexts)) as bar:
        for block in blocks(place.store, contexts, batch):
            seen_here = place.model.capture(block.tokens, list(place.writes))
            x = side_by_side(seen_here, place.writes)[block.ordinary.to(device)]
            total += x.sum(0, dtype=wide).cpu()
            seen += len(x)
            bar.advance(len(block.tokens))
    mean = total / seen
    return mean.to(device, wide)


def first(
    contexts: Int64[np.ndarray, " n_contexts"], store: TokenStore, n_tokens: int
) -> Int64[np.ndarray, " n_kept"]:
    """Return the first of `contexts`, enough for `n_tokens` ordinary tokens where all but one are."""
    return contexts[: -(-n_tokens // max(1, store.context - 1))]


def enough(
    contexts: Int64[np.ndarray, " n_contexts"], store: TokenStore, n_tokens: int
) -> Int64[np.ndarray, " n_kept"]:
    """Return the first of `contexts`, no more than hold `n_tokens` ordinary tokens; all if too few."""
    kept, held = 0, 0
    while held < n_tokens and kept < len(contexts):
        some = contexts[kept:][: max(1, (n_tokens - held) // store.context)]
        held += int(store.ordinary(store.tokens(some)).sum())
        kept += len(some)
    return contexts[:kept]


def on_device(dictionary: AnyDictionary, device: torch.device) -> AnyDictionary:
    """Return `dictionary` on `device`; the caller's own stays where it is."""
    if dictionary.W_dec.device == device:
        return dictionary
    return copy.deepcopy(dictionary).to(device)
