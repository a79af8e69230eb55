"""The joint map: directions of two dictionaries of one model, in two dimensions and in groups."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.dictionaries.base import Dictionary
from monosem.metrics.by_token import activation_by_token
from monosem.metrics.maps import FEWEST, N_NEIGHBOURS, Map, best_method, groups_of, map_of, mixed
from monosem.metrics.sample import Sample, draw
from monosem.rendering.map import svg
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

N_DEALT = 50
"""How often directions are dealt out anew between the two, for chance."""
N_LISTED = 8
"""Groups whose tokens are listed."""
N_TOKENS = 3
"""Tokens that stand for a latent, or a group."""
_HOW = "monosem.metrics.maps; monosem study towards-monosemanticity"


def joint_map(setting: Setting) -> Figure:
    """Return the map of the narrowest dictionary and of the main one, and who is grouped with whom."""
    main = setting.scale.main
    tokenizer, vocab = setting.store.tokenizer, setting.store.vocab_size
    narrow = min(r for r in setting.scale.ratios if r != main)
    samples = [_sample(setting, narrow), setting.sample]
    alive = [np.flatnonzero(sample.n_fired()) for sample in samples]
    directions = torch.cat(
        [_rows(setting.widths[ratio], alive[i]) for i, ratio in enumerate((narrow, main))]
    )
    second = torch.cat([torch.full((len(kept),), bool(i)) for i, kept in enumerate(alive)])
    tokens = [
        words
        for sample, kept in zip(samples, alive, strict=True)
        for words in first_tokens(sample, kept, vocab, lambda t: str(tokenizer.decode([t])))
    ]
    names = [f"{r} × ({len(kept):,})" for r, kept in zip((narrow, main), alive, strict=True)]
    said = [
        f"{names[int(s)]}, latent {latent}: {' '.join(repr(t) for t in words)}"
        for latent, s, words in zip(np.concatenate(alive), second, tokens, strict=True)
    ]
    method = best_method()
    made = map_of(directions, method=method, seed=setting.seed)
    groups = groups_of(directions, method=method, seed=setting.seed)
    return Figure(
        name="joint-map",
        title="A map of two dictionaries",
        text=(
            f"Decoder rows of the dictionaries of {narrow} × and {main} × as many latents as neurons, those "
            f"that fire on the sample, by angle: {_words(method)} Groups are HDBSCAN's, of {FEWEST} "
            "directions or more, in ten dimensions. A dot says its latent and the tokens that hold most of "
            "its activation. What the picture is worth stands below: how many of the "
            f"{N_NEIGHBOURS} nearest by angle are still nearest on it."
        ),
        drawings=(_drawn(made, names, second, said),),
        captions=(_caption(made),),
        items=(
            *_judged(made),
            *grouped(groups, second, setting.seed),
            *listed(groups, second, tokens),
        ),
        notes={"method": method, "directions": f"{len(directions):,}"},
    )


def _sample(setting: Setting, ratio: int) -> Sample:
    n_tokens, seed = setting.scale.n_eval, setting.seed
    return draw(setting.widths[ratio], setting.place, n_tokens=n_tokens, seed=seed)


def _rows(dictionary: Dictionary[Any], latents: Int64[np.ndarray, " n"]) -> Float[Tensor, "n d"]:
    return dictionary.W_dec.detach().cpu()[torch.from_numpy(latents)]


def first_tokens(
    sample: Sample, latents: Int64[np.ndarray, " n"], vocab: int, text_of: Callable[[int], str]
) -> list[list[str]]:
    """Return the few tokens that hold most of the activation of each of `latents`, the first first."""
    tokens = sample.text.tokens[sample.text.ordinary]
    table = activation_by_token(sample, tokens, vocab)
    found: list[list[str]] = []
    for latent in latents:
        row = slice(table.indptr[latent], table.indptr[latent + 1])
        best = np.argsort(np.asarray(table.data[row]), kind="stable")[::-1][:N_TOKENS]
        found.append([text_of(int(t)) for t in table.indices[row][best]])
    return found


def _caption(made: Map) -> str:
    n = made.neighbours_kept * N_NEIGHBOURS
    return f"Directions of both; of the {N_NEIGHBOURS} nearest by angle, {n:.1f} are nearest here"


def _words(method: str) -> str:
    if method == "umap":
        return "a UMAP (15 neighbours, cosine, as in the paper)."
    return (
        "the two first principal components, which show far more than near; the paper's UMAP takes "
        "the extra `maps`."
    )


def _drawn(made: Map, names: list[str], second: Bool[Tensor, " n"], said: list[str]) -> str:
    dots = [(x, y, words) for (x, y), words in zip(made.places.tolist(), said, strict=True)]
    # The wider below, so that the few of the narrower are seen.
    sorts = {names[int(s)]: (second == s).nonzero()[:, 0].tolist() for s in (True, False)}
    return str(
        svg(
            {name: [dots[i] for i in kept] for name, kept in sorts.items()},
            title="directions of two dictionaries",
        )
    )


def _judged(made: Map) -> list[Item]:
    return [
        Item(
            item=f"of the {N_NEIGHBOURS} nearest by angle, nearest on the map too",
            here=str(made.kept),
            unit="share",
            how="monosem.metrics.maps.distortion",
        ),
        Item(
            item="trustworthiness (1: nobody near on the map is far in truth; chance 0.5)",
            here=str(made.trust),
            how="monosem.metrics.maps.distortion",
        ),
    ]


def grouped(groups: Int64[Tensor, " n"], second: Bool[Tensor, " n"], seed: int) -> list[Item]:
    """Return how many groups there are, and how many hold both sorts, beside sorts dealt out anew."""
    n = int(groups.max()) + 1
    in_one = float((groups >= 0).double().mean())
    of_both = "groups that hold directions of both dictionaries"
    if n == 0:
        return [Item(item=of_both, here="not applicable: there are no groups", how=_HOW)]
    generator = torch.Generator().manual_seed(seed)
    dealt = [
        mixed(groups, second[torch.randperm(len(second), generator=generator)])
        for _ in range(N_DEALT)
    ]
    return [
        Item(item="groups", here=n, how=_HOW),
        Item(item="directions in one", here=in_one, unit="share", how=_HOW),
        Item(
            item=of_both,
            here=f"{mixed(groups, second):.3g} (chance {min(dealt):.2g} to {max(dealt):.2g})",
            unit="share",
            how=_HOW,
        ),
    ]


def listed(
    groups: Int64[Tensor, " n"], second: Bool[Tensor, " n"], tokens: list[list[str]]
) -> list[Item]:
    """Return the largest groups that hold both, with the tokens that most of their latents have first."""
    n = int(groups.max()) + 1
    sizes = torch.bincount(groups[groups >= 0], minlength=n)
    both = [
        g
        for g in sizes.argsort(descending=True, stable=True).tolist()
        if len(second[groups == g].unique()) == 2
    ]
    return [_group(g, groups, second, tokens) for g in both[:N_LISTED]]


def _group(
    group: int, groups: Int64[Tensor, " n"], second: Bool[Tensor, " n"], tokens: list[list[str]]
) -> Item:
    members = (groups == group).nonzero()[:, 0].tolist()
    counts: dict[str, int] = {}
    for member in members:
        for token in tokens[member][:1]:
            counts[token] = counts.get(token, 0) + 1
    first = sorted(counts, key=lambda token: -counts[token])[:6]
    n_second = int(second[members].sum())
    return Item(
        item=f"a group of {len(members) - n_second} and {n_second}: first tokens of its latents",
        here=" ".join(f"{token!r} {counts[token]}" for token in first),
        how=_HOW,
    )
