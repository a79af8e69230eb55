"""Universality: the same feature in another dictionary, and in neurons."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.latents import RaggedLatents
from monosem.metrics.stream import Place, activations, blocks, first, on_device, visit
from monosem.metrics.universality import Similarity, Stream, similarity
from monosem.models.language_model import LanguageModel
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

AT_ONCE = 4096
DENSE_AT_ONCE = 2**27
"""Values of latents, zeros too, that are in memory at once while tokens are encoded: half a gigabyte."""
FEATURES, NEURONS = "latents in the second dictionary", "neurons in those of the second model"
MEDIANS = {FEATURES: 0.72, NEURONS: 0.46}
"""The paper's, of two models."""
DOTS = 300
"""Dots of a curve, at most."""


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
        drawings=tuple(drawn(similar, "correlation") for similar in found.values()),
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
    second, device = setting.second or setting.model, setting.model.device
    basis = on_device(Neurons.of_width(width), device)
    sides = {
        FEATURES: (setting.main, second, setting.other),
        "latents in single neurons": (setting.main, setting.model, basis),
    }
    if setting.second:
        theirs = on_device(Neurons.of_width(setting.second.width(setting.site)), device)
        sides[NEURONS] = (basis, setting.second, theirs)
    return {
        where: similarity(
            pairs(setting, a, setting.model, b, of_b), a.n_latents, b.n_latents, seed=setting.seed
        )
        for where, (a, of_b, b) in sides.items()
    }


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
            yield encoded(a, x), encoded(b, y)

    return stream


def encoded(dictionary: Dictionary[Any], x: Float[Tensor, "tokens d"]) -> RaggedLatents:
    """Return the latents of `x`, of so few tokens at once that their zeros fit into memory."""
    rows = max(1, DENSE_AT_ONCE // dictionary.n_latents)
    parts = [dictionary.encode_sparse(part).ragged() for part in x.split(rows)]
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.offsets.diff() for part in parts])
    return RaggedLatents(
        values=torch.cat([part.values for part in parts]),
        indices=torch.cat([part.indices for part in parts]),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        n_latents=dictionary.n_latents,
    )


def drawn(similar: Similarity, kind: str) -> str:
    """Return the curve of all units' best, by `correlation` or by `masked cosine`, beside chance."""
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
