"""Splitting: latents of a wider dictionary, and the one of the next narrower that each comes from.

Only latents that fire often enough to be judged are looked at, under numbers of their own: of the 131,072
of the widest dictionary most fire on a handful of tokens, and all pairs of two such dictionaries are
billions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.dictionaries.latents import RaggedLatents
from monosem.metrics.universality import Similarity, similarity
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting
from monosem.studies.towards_monosemanticity.universality import drawn, pairs

LEAST, MORE = 30, 50
"""Tokens on which a latent must fire to be joined to one. Of a wide dictionary few fire on `MORE`, and fewer
tokens make cosines by accident: so what is said of `LEAST` is said of `MORE` too, and the choice can be
seen to matter or not."""
LEAST_EDGE, CHANCE = 0.4, 0.99
"""Two latents of neighbouring widths are joined from the paper's masked cosine on, but above what so many
find by chance: frequent latents have large ones, whatever they are."""


def splitting(setting: Setting) -> Figure:
    """Return how latents of each width are joined to those of the next."""
    ratios = list(setting.widths)
    found: dict[str, Similarity] = {}
    items: list[Item] = []
    for small, large in zip(ratios, ratios[1:], strict=False):
        a, b = setting.widths[large], setting.widths[small]
        name = f"{large} × to {small} ×"
        stream = pairs(setting, a, setting.model, b, setting.model)
        both = [(x.ragged(), y.ragged()) for x, y in stream()]
        for least in (LEAST, MORE):
            kept = Often.of(both, least)
            alike = kept.similarity(setting.seed)
            items += _edges(name, alike, len(kept.b), least)
            if alike is not None and least == LEAST:
                found[name] = alike
    return Figure(
        name="splitting",
        title="Splitting",
        text=(
            "Each latent of a wider dictionary and the one of the next narrower that fires most like it, by "
            f"masked cosine. They are joined above {LEAST_EDGE}, the paper's, and above what "
            f"{CHANCE:.0%} of latents find by chance, where the tokens of the narrower stand in another "
            "order. A latent with several joined to it has split. Latents that fire on fewer than "
            f"{LEAST} of the tokens are left out: one that fires once is like whatever fires there. The same "
            f"is said of those that fire on {MORE}, to show how far it hangs on that limit."
        ),
        drawings=tuple(drawn(similar, "masked cosine") for similar in found.values()),
        captions=tuple(found),
        items=tuple(items),
    )


Pair = tuple[RaggedLatents, RaggedLatents]


@dataclass(frozen=True, eq=False)
class Often:
    """Latents of two dictionaries that fire often enough, on the same tokens, numbered from 0 on."""

    blocks: list[Pair]
    a: Int64[Tensor, " n_a"]
    """Which latents of A they are."""
    b: Int64[Tensor, " n_b"]

    @classmethod
    def of(cls, both: Sequence[Pair], least: int) -> "Often":
        """Return those that fire on `least` tokens or more."""
        a, b = (_frequent([pair[side] for pair in both], least) for side in (0, 1))
        return cls([(_only(x, a), _only(y, b)) for x, y in both], *(_places(c) for c in (a, b)))

    def similarity(self, seed: int) -> Similarity | None:
        """Return how alike they fire, under these numbers; None where a dictionary has none of them."""
        n_a, n_b = len(self.a), len(self.b)
        return similarity(lambda: self.blocks, n_a, n_b, seed=seed) if n_a and n_b else None


def _frequent(blocks_of: list[RaggedLatents], least: int) -> Bool[Tensor, " n_latents"]:
    n = blocks_of[0].n_latents
    counts = sum(torch.bincount(b.indices[b.values != 0].long(), minlength=n) for b in blocks_of)
    return torch.as_tensor(counts) >= least


def _places(chosen: Bool[Tensor, " n_latents"]) -> Int64[Tensor, " n"]:
    return chosen.nonzero()[:, 0].cpu()


def _only(latents: RaggedLatents, chosen: Bool[Tensor, " n_latents"]) -> RaggedLatents:
    """Return the entries of the chosen latents, under their numbers among the chosen."""
    old = latents.indices.long()
    inside = chosen[old]
    ends = torch.cat([inside.new_zeros(1, dtype=torch.int64), inside.long().cumsum(0)])
    numbers = chosen.long().cumsum(0) - 1
    return RaggedLatents(
        values=latents.values[inside],
        indices=numbers[old[inside]].int(),
        offsets=ends[latents.offsets],
        n_latents=int(chosen.sum()),
    )


def edge(found: Similarity) -> float:
    """Return the masked cosine from which latents are joined."""
    by_chance = found.masked_by_chance[~found.masked_by_chance.isnan()]
    if not len(by_chance):
        return LEAST_EDGE
    return max(LEAST_EDGE, float(by_chance.double().quantile(CHANCE)))


def children(
    masked: Float[Tensor, " n_large"],
    nearest: Int64[Tensor, " n_large"],
    least: float,
    n_small: int,
) -> Float[Tensor, " n_small"]:
    """Return how many latents of the wider dictionary are joined to each of the narrower."""
    return torch.bincount(nearest[masked >= least], minlength=n_small).float()


def _edges(name: str, found: Similarity | None, n_small: int, tokens: int) -> list[Item]:
    how = "monosem.metrics.universality.similarity; monosem study towards-monosemanticity"
    name = f"{name}, on {tokens} tokens or more"
    if found is None:
        return [Item(item=name, here="not applicable: no latent fires on so many", how=how)]
    least = edge(found)
    counts = children(found.masked, found.nearest_masked, least, n_small)
    chance = children(found.masked_by_chance, found.nearest_masked_by_chance, least, n_small)
    joined, by_chance = (
        float((masked >= least).double().mean())
        for masked in (found.masked, found.masked_by_chance)
    )
    return [
        Item(
            item=f"{name}: latents that are joined to one, from {least:.2f} on",
            here=f"{joined:.3g} (chance {by_chance:.2g}) of {len(found.masked):,}",
            unit="share",
            how=how,
        ),
        Item(
            item=f"{name}: latents of the narrower that have split in two or more",
            here=f"{_split(counts):.3g} (chance {_split(chance):.2g}) of {n_small:,}",
            unit="share",
            how=how,
        ),
        Item(
            item=f"{name}: most children of one",
            here=f"{int(counts.max())} (chance {int(chance.max())})",
            how=how,
        ),
    ]


def _split(counts: Float[Tensor, " n"]) -> float:
    return float((counts >= 2).double().mean())
