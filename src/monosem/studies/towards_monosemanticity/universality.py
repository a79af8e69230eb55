"""Universality and splitting: the same feature in another dictionary, in neurons, in a wider one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.latents import RaggedLatents
from monosem.metrics.stream import Place, activations, blocks, first, visit
from monosem.metrics.universality import Similarity, Sparse, Stream, similarity
from monosem.models.language_model import LanguageModel
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

AT_ONCE = 4096
FEATURES, NEURONS = "latents in the second dictionary", "neurons in those of the second model"
MEDIANS = {FEATURES: 0.72, NEURONS: 0.46}
"""The paper's, of two models."""
DOTS = 300
"""Dots of a curve, at most."""
LEAST = 30
"""Tokens on which a latent must fire to be joined to one; a wide dictionary has few that fire often."""
LEAST_EDGE, CHANCE = 0.4, 0.99
"""Two latents of neighbouring widths are joined from the paper's masked cosine on, but above what so many
find by chance: frequent latents have large ones, whatever they are."""


def universality(setting: Setting) -> Figure:
    """Return how alike units fire elsewhere: latents in latents and in neurons, neurons in neurons."""
    found = _found(setting)
    what = (
        f"The second dictionary is of `{setting.second.name}`, and so are the neurons in which those of "
        f"`{setting.model.name}` are looked for."
        if setting.second
        else "There is no second model: the second dictionary is another seed's, of the same model, which "
        "is easier than what the paper did, and neurons are not looked for in others. `--second MODEL` "
        "takes one."
    )
    return Figure(
        name="universality",
        title="The most alike elsewhere",
        text=(
            "For each latent, or neuron, the unit elsewhere that fires most like it: the largest correlation "
            f"over the same held-out tokens. {what} Chance: the same search where one side stands beside "
            "the tokens of other contexts."
        ),
        drawings=tuple(_sorted(similar, "correlation") for similar in found.values()),
        captions=tuple(found),
        items=tuple(
            Item(
                item=f"median correlation with the most alike: {where}",
                here=str(s.correlation),
                paper=MEDIANS.get(where) if setting.second else None,
                paper_certainty="read in the paper" if setting.second and where in MEDIANS else "—",
                how="monosem.metrics.universality.similarity; monosem study towards-monosemanticity",
            )
            for where, s in found.items()
        ),
        notes={"tokens": f"{next(iter(found.values())).n_tokens:,}"},
    )


def _found(setting: Setting) -> dict[str, Similarity]:
    width = setting.model.width(setting.site)
    second, basis = setting.second or setting.model, Neurons.of_width(width)
    sides = {
        FEATURES: (setting.main, second, setting.other),
        "latents in single neurons": (setting.main, setting.model, basis),
    }
    if setting.second:
        theirs = Neurons.of_width(setting.second.width(setting.site))
        sides[NEURONS] = (basis, setting.second, theirs)
    return {
        where: similarity(
            pairs(setting, a, setting.model, b, of_b), a.n_latents, b.n_latents, seed=setting.seed
        )
        for where, (a, of_b, b) in sides.items()
    }


def splitting(setting: Setting) -> Figure:
    """Return how latents of each width are joined to those of the next."""
    ratios = list(setting.widths)
    found: dict[str, Similarity] = {}
    items: list[Item] = []
    for small, large in zip(ratios, ratios[1:], strict=False):
        a, b = setting.widths[large], setting.widths[small]
        name = f"{large} × to {small} ×"
        stream = often(pairs(setting, a, setting.model, b, setting.model))
        found[name] = similarity(stream, a.n_latents, b.n_latents, seed=setting.seed)
        items += _edges(name, found[name], _alive(stream))
    return Figure(
        name="splitting",
        title="Splitting",
        text=(
            "Each latent of a wider dictionary and the one of the next narrower that fires most like it, by "
            f"masked cosine. They are joined above {LEAST_EDGE}, the paper's, and above what "
            f"{CHANCE:.0%} of latents find by chance, where the tokens of the narrower stand in another "
            "order. A latent with several joined to it has split. Latents that fire on fewer than "
            f"{LEAST} of the tokens are left out: one that fires once is like whatever fires there."
        ),
        drawings=tuple(_sorted(similar, "masked cosine") for similar in found.values()),
        captions=tuple(found),
        items=tuple(items),
    )


def pairs(
    setting: Setting,
    a: Dictionary[Any],
    of_a: LanguageModel,
    b: Dictionary[Any],
    of_b: LanguageModel,
) -> Stream:
    """Return the stream of both dictionaries' latents on the same held-out tokens."""
    contexts = first(
        visit(setting.store, "heldout", setting.seed), setting.store, setting.scale.n_eval
    )

    @torch.no_grad()
    def stream() -> Iterator[tuple[RaggedLatents, RaggedLatents]]:
        for block in blocks(setting.store, contexts, AT_ONCE):
            x = activations(Place(of_a, setting.store, setting.site), block)[block.ordinary]
            y = x
            if of_b is not of_a:
                y = activations(Place(of_b, setting.store, setting.site), block)[block.ordinary]
            yield a.encode_sparse(x).ragged(), b.encode_sparse(y).ragged()

    return stream


def often(stream: Stream) -> Stream:
    """Return a stream of the latents that fire on at least `LEAST` tokens.

    It encodes once and keeps what it found: latents are few, and are asked for once for each part of A.
    """
    found: list[tuple[Sparse, Sparse]] = []

    def again() -> Iterable[tuple[Sparse, Sparse]]:
        if not found:
            both = [(a.ragged(), b.ragged()) for a, b in stream()]
            frequent = [_frequent([pair[side] for pair in both]) for side in (0, 1)]
            found.extend((_only(a, frequent[0]), _only(b, frequent[1])) for a, b in both)
        return found

    return again


def _frequent(blocks_of: list[RaggedLatents]) -> Bool[Tensor, " n_latents"]:
    n = blocks_of[0].n_latents
    counts = sum(torch.bincount(b.indices[b.values != 0].long(), minlength=n) for b in blocks_of)
    return torch.as_tensor(counts) >= LEAST


def _only(latents: RaggedLatents, chosen: Bool[Tensor, " n_latents"]) -> RaggedLatents:
    """Return the entries of the chosen latents."""
    inside = chosen[latents.indices.long()]
    ends = torch.cat([inside.new_zeros(1, dtype=torch.int64), inside.long().cumsum(0)])
    offsets = ends[latents.offsets]
    return RaggedLatents(
        latents.values[inside], latents.indices[inside], offsets, latents.n_latents
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


def _alive(stream: Stream) -> Bool[Tensor, " n_small"]:
    """Return which latents of the narrower fire at all in a stream."""
    both = [b.ragged() for _, b in stream()]
    counts = torch.bincount(
        torch.cat([b.indices[b.values != 0].long() for b in both]), minlength=both[0].n_latents
    )
    return (counts > 0).cpu()


def _edges(name: str, found: Similarity, narrow: Bool[Tensor, " n_small"]) -> list[Item]:
    how = "monosem.metrics.universality.similarity; monosem study towards-monosemanticity"
    least = edge(found)
    counts = children(found.masked, found.nearest_masked, least, len(narrow))
    chance = children(found.masked_by_chance, found.nearest_masked_by_chance, least, len(narrow))
    alive = ~found.masked.isnan()
    joined = float((found.masked[alive] >= least).double().mean())
    return [
        Item(
            item=f"{name}: latents that are joined to one, from {least:.2f} on (1 % by chance)",
            here=f"{joined:.3g} of {int(alive.sum()):,}",
            unit="share",
            how=how,
        ),
        Item(
            item=f"{name}: latents of the narrower that have split in two or more",
            here=f"{_split(counts[narrow]):.3g} (chance {_split(chance[narrow]):.2g}) "
            f"of {int(narrow.sum()):,}",
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


def _sorted(similar: Similarity, kind: str) -> str:
    real, chance = (
        (similar.correlations, similar.by_chance)
        if kind == "correlation"
        else (similar.masked, similar.masked_by_chance)
    )
    series: dict[str, list[tuple[float, float]]] = {}
    for words, values in (("the most alike", real), ("by chance", chance)):
        known = values[~values.isnan()].sort(descending=True).values.tolist()
        ranked = [((i + 0.5) / len(known), float(v)) for i, v in enumerate(known)]
        series[words] = ranked[:: len(ranked) // DOTS + 1]
    return str(
        svg(
            series,
            title=kind,
            x=Axis(label="units, in order", low=0.0, high=1.0),
            y=Axis(label=f"largest {kind}", low=0.0, high=1.0),
            dots=True,
        )
    )
