"""A site measured: dictionaries of several l0, and beside each of them every baseline at its l0.

Baselines are fitted once to a sample of the training split; all are spliced into the same held-out text,
and their numbers taken at the l0 that the dictionary has there (`matched.py`). A baseline that cannot be
there is kept with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.linear import Linear
from monosem.metrics.baselines import Fitted, sample
from monosem.metrics.firing import count_firing
from monosem.metrics.heldout import held_out
from monosem.metrics.stream import AnyDictionary, Place, first, ordinary_mean, visit
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.studies.sparse_autoencoders.matched import Row, beside, point
from monosem.studies.sparse_autoencoders.setting import Setting

OURS, NEURONS, IDENTITY = "dictionary", "neurons", "identity-relu"
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
BATCH = 4096
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
    """What those that have fewer atoms than the dictionary, or saw less, were learned from."""

    def fvu(self, name: str, i: int) -> float:
        """Return what is left of the variance by `name` beside the i-th dictionary."""
        return self.rows[name][i].fvu


def words(name: str, site: str) -> str:
    """Return the name of a row for readers; the coordinates of an MLP are its neurons."""
    return "neurons" if name == NEURONS and site.endswith(NEURON_SITE) else WORDS[name]


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

    `model` is another than the setting's: the shuffled one.
    """
    place = Place(model or setting.model, setting.store, site)
    scale, seed = setting.scale, setting.seed
    place.check()
    x = sample(place, scale.n_fit, seed, BATCH)
    own = sample(place, scale.n_eval, seed, BATCH, split="heldout")
    ks = [_around(l0_of(d, own)) for d in dictionaries]
    names = scale.baselines if names is None else names
    missing = _left_out(names, x.shape[1], setting)
    some = [name for name in names if name not in missing]
    basis = None if place.site.endswith(NEURON_SITE) else x.mean(0)
    stand, learned = _fitted(some, x, dictionaries, ks, seed, basis, missing)
    every = {f"{OURS} {i}": d for i, d in enumerate(dictionaries)} | stand
    mean = ordinary_mean(place, scale.n_eval, seed, BATCH)
    contexts = first(visit(place.store, "heldout", seed), place.store, scale.n_eval)
    held = held_out(every, place, mean, contexts, BATCH)
    dead = _dead({n: d for n, d in every.items() if n.startswith(f"{OURS} ")}, place, setting)
    n_tokens = place.store.ordinary(place.store.tokens(contexts)).sum(1)
    points = {key: point(key, held, n_tokens, dead.get(key, -1)) for key in every}
    ours = [points[f"{OURS} {i}"] for i in range(len(dictionaries))]
    rows = {OURS: [each.row for each in ours]}
    for name in (n for n in some if n not in missing):
        if name == IDENTITY:
            rows[name] = [points[f"{name} 0"].row]
        else:
            rows[name] = [
                beside([points[f"{name} {k}"] for k in around], each, seed)
                for around, each in zip(ks, ours, strict=True)
            ]
    plain = math.exp(float(held.unspliced["original"].mean()))
    return Beside(rows=rows, plain=plain, missing=missing, learned=learned)


def _around(l0: float) -> tuple[int, ...]:
    """Return the whole numbers below and above an l0, from 1."""
    return tuple(sorted({max(1, math.floor(l0)), max(1, math.ceil(l0))}))


def _left_out(names: Sequence[str], width: int, setting: Setting) -> dict[str, str]:
    widest = setting.scale.widest_lasso
    if "lasso" not in names or width <= widest:
        return {}
    return {"lasso": f"codes of sites wider than {widest} take too long at this scale"}


def _fitted(
    names: Sequence[str],
    x: Float[Tensor, "sample d_in"],
    dictionaries: Sequence[Dictionary[Any]],
    ks: Sequence[tuple[int, ...]],
    seed: int,
    centre: Float[Tensor, " d_in"] | None,
    missing: dict[str, str],
) -> tuple[dict[str, AnyDictionary], dict[str, str]]:
    """Return the baselines by name and k, and what some learned from; add to `missing` what is not there.

    About `centre` coordinates count with both signs; without it they are neurons, which are positive.
    """
    found: dict[str, AnyDictionary] = {}
    learned: dict[str, str] = {}
    every_k = sorted({k for around in ks for k in around})
    fitted = _fit(x, max(d.n_latents for d in dictionaries), seed)
    with progress("baselines", len(names)) as bar:
        for name in names:
            try:
                if name == IDENTITY:  # it has an l0 of its own
                    found[f"{name} 0"] = Neurons.of_width(x.shape[1])
                elif name == NEURONS:
                    found |= {f"{name} {k}": _coordinates(x.shape[1], k, centre) for k in every_k}
                elif isinstance(fitted, ConfigError):
                    missing[name] = str(fitted)
                else:
                    found |= {f"{name} {k}": fitted.at(name, k) for k in every_k}
                    learned |= {n: what for n, what in fitted.learned_from.items() if n == name}
            except ConfigError as error:
                missing[name] = str(error)
            bar.advance()
    device = dictionaries[0].W_dec.device
    return {name: d.to(device) for name, d in found.items()}, learned


def _fit(x: Float[Tensor, "sample d_in"], n_latents: int, seed: int) -> Fitted | ConfigError:
    """Return what fits baselines, or why none can be: a wide site leaves the coordinates to compare with."""
    try:
        return Fitted(x, n_latents=n_latents, seed=seed)
    except ConfigError as error:
        return error


def _coordinates(width: int, k: int, centre: Float[Tensor, " d_in"] | None) -> AnyDictionary:
    k = min(k, width)
    if centre is None:
        return Neurons.of_width(width, k)
    basis = torch.eye(width)
    return Linear.of(torch.cat([basis, -basis]), b_dec=centre, k=k, called="coordinates")


def l0_of(dictionary: Dictionary[Any], x: Float[Tensor, "sample d_in"]) -> float:
    """Return how many latents are on for a vector of `x`, in the mean."""
    device = dictionary.W_dec.device
    parts = [dictionary.encode_sparse(part.to(device)).active() for part in x.split(BATCH)]
    return sum(len(part) for part in parts) / len(x)


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
