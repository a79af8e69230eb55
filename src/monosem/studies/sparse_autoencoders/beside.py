"""A site measured: dictionaries of several l0, and beside each of them every baseline at its l0.

Baselines are fitted once to a sample of the training split; all are spliced into the same held-out text,
and their numbers taken at the l0 that the dictionary has there (`matched.py`). A baseline that cannot be
there is kept with the reason (`opponents.py`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.metrics.baselines import Fitted, sample
from monosem.metrics.firing import count_firing
from monosem.metrics.heldout import held_out
from monosem.metrics.stream import AnyDictionary, Place, first, ordinary_mean, visit
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.studies.sparse_autoencoders.matched import Point, Row, at, beside, point
from monosem.studies.sparse_autoencoders.opponents import IDENTITY, NEURONS, Opponents, Site, l0_of
from monosem.studies.sparse_autoencoders.setting import BATCH, Setting

OURS, RESIDUAL = "dictionary", "residual"
WORDS = {
    OURS: "dictionary",
    NEURONS: "coordinates",
    IDENTITY: "identity and ReLU",
    "random": "random directions",
    "pca": "PCA",
    "pca-first": "PCA, first k axes",
    "pca-one": "PCA, one sign",
    "ica": "ICA",
    "ica-one": "ICA, one sign",
    "nmf": "NMF",
    "classical": "classical, OMP",
    "lasso": "classical, LASSO",
}
NEURON_SITE = "mlp.hook_post"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """All that was measured at a site."""

    rows: dict[str, list[Row]]
    """By name, the dictionary first; one for each l0."""
    plain: float
    """Perplexity of the model as it is."""
    missing: dict[str, str]
    """Baselines that are not there, and why."""
    learned: dict[str, str] = field(default_factory=dict[str, str])
    """Atoms and factors of those whose codes are solved for, and what they were learned from."""
    overstated: dict[str, float] = field(default_factory=dict[str, float])
    """How much the straight line between whole numbers can add to what is left, by name."""
    points: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    """Rows with sums of each context, where a row stands beside each dictionary."""


def words(name: str, site: str) -> str:
    """Return the name of a row for readers; the coordinates of an MLP are its neurons."""
    return "neurons" if name == NEURONS and site.endswith(NEURON_SITE) else WORDS[name]


def of_residual(setting: Setting, names: Sequence[str] | None = None) -> Beside:
    """Return the residual site measured: once, for all figures that need no more than `names` of it."""
    wanted = set(setting.scale.baselines if names is None else names)
    kept = setting.kept.get(RESIDUAL)
    if isinstance(kept, Beside) and wanted <= {*kept.rows, *kept.missing}:
        return kept
    found = measured(list(setting.curve.values()), setting, setting.residual, names=names)
    setting.kept[RESIDUAL] = found
    return found


@torch.no_grad()
def measured(
    dictionaries: Sequence[Dictionary[Any]],
    setting: Setting,
    site: str,
    *,
    model: LanguageModel | None = None,
    names: Sequence[str] | None = None,
) -> Beside:
    """Return what `dictionaries` of `site` leave, and baselines beside each of them: the scale's, or `names`.

    `model` is another than the setting's: a shuffled one.
    """
    place = Place(model or setting.model, setting.store, site)
    scale, seed = setting.scale, setting.seed
    place.check()
    contexts = first(visit(place.store, "heldout", seed), place.store, scale.n_eval)
    # all tokens of these contexts, so that an l0 is the same number here as in what is measured
    n_own = len(contexts) * max(1, place.store.context - 1)
    own = sample(place, n_own, seed, BATCH, split="heldout")
    made = _material(dictionaries, setting, place, own, len(contexts) * place.store.context)
    names = scale.baselines if names is None else names
    stand = Opponents(names, made, [l0_of(d, own) for d in dictionaries])
    device = dictionaries[0].W_dec.device
    every: dict[str, AnyDictionary] = {f"{OURS} {i}": d for i, d in enumerate(dictionaries)}
    every |= {key: d.to(device) for key, d in stand.every.items()}
    mean = ordinary_mean(place, scale.n_eval, seed, BATCH)
    held = held_out(every, place, mean, contexts, BATCH)
    dead = _dead({n: d for n, d in every.items() if n.startswith(f"{OURS} ")}, place, setting)
    n_tokens = place.store.ordinary(place.store.tokens(contexts)).sum(1)
    found = {key: point(key, held, n_tokens, dead.get(key, -1)) for key in every}
    ours = [found[f"{OURS} {i}"] for i in range(len(dictionaries))]
    points = {OURS: ours}
    rows = {OURS: [each.row for each in ours]}
    for name in stand.names:
        if name == IDENTITY:
            rows[name] = [found[name].row]
            continue
        points[name] = [
            at([found[key] for key in stand.keys(name, i)], each.row.l0)
            for i, each in enumerate(ours)
        ]
        rows[name] = [beside(p, each, seed) for p, each in zip(points[name], ours, strict=True)]
    return Beside(
        rows=rows,
        plain=math.exp(float(held.unspliced["original"].mean())),
        missing=stand.missing,
        learned=stand.learned,
        overstated=stand.overstated(),
        points=points,
    )


def _material(
    dictionaries: Sequence[Dictionary[Any]],
    setting: Setting,
    place: Place,
    own: torch.Tensor,
    n_text: int,
) -> Site:
    """Return what baselines of a place are made of; those of the setting's own residual site are kept."""
    n_latents, scale = max(d.n_latents for d in dictionaries), setting.scale
    kept = place.model is setting.model and str(place.site) == setting.residual
    x = setting.vectors if kept else sample(place, scale.n_fit, setting.seed, BATCH)
    try:
        fitted = (
            setting.fitted(n_latents)
            if kept
            else Fitted(x, n_latents=n_latents, seed=setting.seed, most_atoms=scale.most_atoms)
        )
    except ConfigError as error:
        fitted = error
    positive = place.site.endswith(NEURON_SITE)
    return Site(
        x=x,
        own=own,
        fitted=fitted,
        positive=positive,
        n_text=n_text,
        most_lasso=scale.most_lasso,
    )


def _dead(
    dictionaries: Mapping[str, AnyDictionary], place: Place, setting: Setting
) -> dict[str, int]:
    counted = count_firing(
        dictionaries,
        place,
        n_tokens=setting.scale.n_density,
        seed=setting.seed,
        batch=BATCH,
        policy=matmul.check("fp32"),
    )
    return {name: int((firing.n_fired == 0).sum()) for name, firing in counted.items()}
