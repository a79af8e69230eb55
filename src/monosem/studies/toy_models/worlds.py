"""How far real features are from a toy world: which of its assumptions hold at which site.

The firings of a dictionary on held-out text are measured, the nearest world is fitted to them
(toy/fitting.py), drawn from, and measured alike. At MLP neurons what fails is that directions are random:
they lie along the neurons, and close to one another. At residual streams they do not.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosem.dictionaries.base import Dictionary
from monosem.metrics.stream import Place, activations, blocks, site_of, visit
from monosem.models.language_model import LanguageModel
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.text.tokens import TokenStore
from monosem.toy.fitting import Assumption, Firings, Statistics, compare, failing, fit, measure
from monosem.toy.sparse_features import SparseFeatures

AT_ONCE = 4096
WORDS = {
    "frequencies": "frequencies, distance from the fitted world's",
    "magnitudes": "magnitudes, distance from the fitted world's",
    "burstiness": "burstiness of l0, 1 if independent",
    "basis": "largest coordinate of a direction, × a random one's",
    "crowding": "largest cosine with another direction, × a random one's",
    "hierarchy": "share of features that fire only where another does",
}


@torch.no_grad()
def firings(
    dictionary: Dictionary[Any],
    model: LanguageModel,
    store: TokenStore,
    site: str,
    n_tokens: int,
    seed: int = 0,
) -> Firings:
    """Return which latents fire on `n_tokens` ordinary held-out tokens, or as many as there are."""
    place = Place(model, store, site)
    place.check()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    n = 0
    for block in blocks(store, visit(store, "heldout", seed), AT_ONCE):
        x = activations(place, block)[block.ordinary][: n_tokens - n]
        latents = dictionary.encode_sparse(x).ragged()
        on = latents.values > 0
        rows, columns = latents.rows()[on], latents.indices[on].long()
        parts.append((rows + n, columns, latents.values[on].float()))
        n += len(x)
        if n >= n_tokens:
            break
    rows, columns, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return Firings(rows, columns, values, n, dictionary.config.n_latents)


def beside_a_world(real: Statistics, n_rows: int, seed: int = 0) -> list[Assumption]:
    """Return the assumptions of the world fitted to `real`, each with whether it holds."""
    world = SparseFeatures(fit(real, seed))
    drawn = Firings.drawn(world, n_rows, seed + 1)
    return compare(real, measure(drawn, world.directions, seed))


def worlds(
    dictionaries: Mapping[str, Dictionary[Any]],
    model: LanguageModel,
    store: TokenStore,
    n_tokens: int,
    seed: int = 0,
) -> Figure:
    """Return the assumptions that hold, for each of `dictionaries`, on the same tokens."""
    items: list[Item] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    failed: list[str] = []
    read: dict[str, int] = {}
    for name, dictionary in dictionaries.items():
        site = site_of({name: dictionary}, None)
        seen = firings(dictionary, model, store, site, n_tokens, seed)
        found = measure(seen, dictionary.W_dec.detach(), seed)
        assumptions = beside_a_world(found, seen.n_rows, seed)
        items += [item for a in assumptions for item in _items(f"{name}: {WORDS[a.name]}", a)]
        read[name] = seen.n_rows
        curves[name] = [(i + 1.0, float(f)) for i, f in enumerate(found.frequencies)]
        names = failing(assumptions)
        failed.append(f"{name} ({site}): {', '.join(names) if names else 'none fails'}")
    return Figure(
        name="worlds",
        title="How far real features are from a toy world",
        text=(
            "Each dictionary's firings, beside the world that was fitted to them: sparse features with a law "
            "of frequencies and magnitudes, bursts and a hierarchy, along random directions. Assumptions "
            f"that fail: {'; '.join(failed)}."
        ),
        drawings=(
            str(
                svg(
                    curves,
                    title="frequencies",
                    x=Axis(label="rank", log=True),
                    y=Axis(label="share of tokens", log=True),
                    dots=True,
                )
            ),
        ),
        captions=("How often each latent fires",),
        items=tuple(items),
        notes={f"tokens, {name}": f"{n:,}" for name, n in read.items()},
    )


def _items(words: str, assumption: Assumption) -> list[Item]:
    verdict = {True: "holds", False: "fails", None: "not applicable"}[assumption.holds]
    how = "toy/fitting.py; monosem toy worlds --dictionary …"
    first = Item(
        item=f"{words}: {verdict}",
        here=assumption.real if assumption.holds is not None else "not applicable",
        how=how,
    )
    if assumption.holds is None:
        return [first]
    what = (
        "passes up to" if assumption.name in ("frequencies", "magnitudes") else "the fitted world's"
    )
    return [first, Item(item=f"{words}: {what}", here=assumption.world, how=how)]
