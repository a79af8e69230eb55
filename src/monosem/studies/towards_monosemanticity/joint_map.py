"""The joint map: directions of two dictionaries of one model, in two dimensions and in groups."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.dictionaries.base import Dictionary
from monosem.metrics.maps import FEWEST, N_NEIGHBOURS, Map, best_method, groups_of, map_of, mixed
from monosem.metrics.sample import Sample, draw
from monosem.rendering.map import svg
from monosem.studies.by_token import activation_by_token
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
    narrow = min(r for r in setting.scale.ratios if r != setting.scale.main)
    samples = {narrow: _sample(setting, narrow), setting.scale.main: setting.sample}
    directions, latents, second = _directions(setting, samples)
    method = best_method()
    made = map_of(directions, method=method, seed=setting.seed)
    groups = groups_of(directions, method=method, seed=setting.seed)
    names = [f"{ratio} × ({n:,})" for ratio, n in zip(samples, _counts(second), strict=True)]
    tokens = _tokens(setting, samples, latents, second)
    return Figure(
        name="joint-map",
        title="A map of two dictionaries",
        text=(
            f"Decoder rows of the dictionaries of {narrow} × and {setting.scale.main} × as many latents as "
            f"neurons, those that fire on the sample, by angle: {_words(method)} Groups are HDBSCAN's, of "
            f"{FEWEST} directions or more, in ten dimensions. A dot says its latent and the tokens that "
            "hold most of its activation. What the picture is worth stands below: how many of the "
            f"{N_NEIGHBOURS} nearest by angle are still nearest on it."
        ),
        drawings=(_drawn(made, names, latents, second, tokens),),
        captions=("Directions of both; near on the map, mostly near by angle",),
        items=(
            *_judged(made),
            *_grouped(groups, second, setting.seed),
            *_listed(groups, second, tokens),
        ),
        notes={"method": method, "directions": f"{len(directions):,}"},
    )


def _sample(setting: Setting, ratio: int) -> Sample:
    n_tokens, seed = setting.scale.n_eval, setting.seed
    return draw(setting.widths[ratio], setting.place, n_tokens=n_tokens, seed=seed)


def _directions(
    setting: Setting, samples: dict[int, Sample]
) -> tuple[Float[Tensor, "n d"], Int64[np.ndarray, " n"], Bool[Tensor, " n"]]:
    """Return the decoder rows of latents that fire, which latents they are, and who is of the second."""
    rows: list[Tensor] = []
    latents: list[np.ndarray] = []
    for ratio, sample in samples.items():
        dictionary: Dictionary[Any] = setting.widths[ratio]
        alive = np.flatnonzero(sample.n_fired())
        rows.append(dictionary.W_dec.detach()[torch.from_numpy(alive)].cpu())
        latents.append(alive)
    second = torch.cat([torch.full((len(row),), bool(i)) for i, row in enumerate(rows)])
    return torch.cat(rows), np.concatenate(latents), second


def _counts(second: Bool[Tensor, " n"]) -> list[int]:
    return [int((~second).sum()), int(second.sum())]


def _tokens(
    setting: Setting,
    samples: dict[int, Sample],
    latents: Int64[np.ndarray, " n"],
    second: Bool[Tensor, " n"],
) -> list[list[str]]:
    """Return the tokens that hold most of each direction's activation, the first first."""
    found: list[list[str]] = []
    decode = setting.store.tokenizer.decode
    for is_second, sample in zip((False, True), samples.values(), strict=True):
        tokens = sample.text.tokens[sample.text.ordinary]
        table = activation_by_token(sample, tokens, setting.store.vocab_size)
        for latent in latents[(second == is_second).numpy()]:
            row = slice(table.indptr[latent], table.indptr[latent + 1])
            best = np.argsort(np.asarray(table.data[row]), kind="stable")[::-1][:N_TOKENS]
            found.append([str(decode([int(t)])) for t in table.indices[row][best]])
    return found


def _words(method: str) -> str:
    if method == "umap":
        return "a UMAP (15 neighbours, cosine, as in the paper)."
    return (
        "the two first principal components, which show far more than near; the paper's UMAP takes "
        "the extra `maps`."
    )


def _drawn(
    made: Map,
    names: list[str],
    latents: Int64[np.ndarray, " n"],
    second: Bool[Tensor, " n"],
    tokens: list[list[str]],
) -> str:
    sorts: dict[str, list[tuple[float, float, str]]] = {}
    # The wider below, so that the few of the narrower are seen.
    for is_second in (True, False):
        name = names[is_second]
        sorts[name] = [
            (x, y, f"{name}, latent {latents[i]}: {_quoted(tokens[i])}")
            for i, (x, y) in enumerate(made.places.tolist())
            if bool(second[i]) == is_second
        ]
    return str(svg(sorts, title="directions of two dictionaries"))


def _quoted(tokens: list[str]) -> str:
    return " ".join(repr(token) for token in tokens)


def _judged(made: Map) -> list[Item]:
    return [
        Item(
            item=f"of the {N_NEIGHBOURS} nearest by angle, nearest on the map too",
            here=f"{made.neighbours_kept:.3g} (chance {made.neighbours_by_chance:.2g})",
            unit="share",
            how="monosem.metrics.maps.distortion",
        ),
        Item(
            item="trustworthiness (1: nobody near on the map is far in truth; chance 0.5)",
            here=made.trustworthiness,
            how="monosem.metrics.maps.distortion",
        ),
    ]


def _grouped(groups: Int64[Tensor, " n"], second: Bool[Tensor, " n"], seed: int) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    dealt = [
        mixed(groups, second[torch.randperm(len(second), generator=generator)])
        for _ in range(N_DEALT)
    ]
    by_chance = sum(dealt) / N_DEALT
    return [
        Item(item="groups", here=int(groups.max()) + 1, how=_HOW),
        Item(
            item="directions in one",
            here=float((groups >= 0).double().mean()),
            unit="share",
            how=_HOW,
        ),
        Item(
            item="groups that hold directions of both dictionaries",
            here=f"{mixed(groups, second):.3g} (chance {by_chance:.2g})",
            unit="share",
            how=_HOW,
        ),
    ]


def _listed(
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
