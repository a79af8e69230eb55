"""A site measured: dictionaries of several l0, and beside each of them every baseline at its l0.

Baselines are fitted once to a sample of the training split; all are spliced into the same held-out text.
A baseline that cannot be there is kept with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.baselines import Neurons
from monosem.metrics.baselines import Fitted, sample
from monosem.metrics.firing import count_firing
from monosem.metrics.heldout import HeldOut, held_out
from monosem.metrics.loss_recovered import delta_ce, share
from monosem.metrics.stream import AnyDictionary, Place, first, ordinary_mean, visit
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
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


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one dictionary leaves, on the held-out text."""

    l0: float
    fvu: float
    perplexity: float
    """With the reconstruction spliced in."""
    recovered: float
    """Loss recovered, of the mean ablation; NaN where that costs too little to be divided by."""
    n_dead: int = -1
    """Latents that did not fire; -1: not counted."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """All that was measured at a site."""

    rows: dict[str, list[Row]]
    """By name, the dictionary first; one for each l0."""
    plain: float
    """Perplexity of the model as it is."""
    missing: dict[str, str]
    """Baselines that are not there, and why."""

    def fvu(self, name: str, i: int) -> float:
        """Return what is left of the variance by `name` beside the i-th dictionary."""
        return self.rows[name][i].fvu


def words(name: str, site: str) -> str:
    """Return the name of a row for readers; the coordinates of an MLP are its neurons."""
    return "neurons" if name == NEURONS and site.endswith("mlp.hook_post") else WORDS[name]


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
    ks = [max(1, round(_l0(d, x))) for d in dictionaries]
    names = scale.baselines if names is None else names
    left_out = _left_out(names, x.shape[1], setting)
    names = [name for name in names if name not in left_out]
    stand, missing = _fitted(names, x, dictionaries, ks, seed)
    every = {f"{OURS} {i}": d for i, d in enumerate(dictionaries)} | stand
    mean = ordinary_mean(place, scale.n_eval, seed, BATCH)
    contexts = first(visit(place.store, "heldout", seed), place.store, scale.n_eval)
    held = held_out(every, place, mean, contexts, BATCH)
    dead = _dead({n: d for n, d in every.items() if n.startswith(f"{OURS} ")}, place, setting)
    rows: dict[str, list[Row]] = {}
    for key in every:
        rows.setdefault(key.rsplit(" ", 1)[0], []).append(_row(key, held, dead.get(key, -1)))
    plain = math.exp(float(held.unspliced["original"].mean()))
    return Beside(rows=rows, plain=plain, missing=left_out | missing)


def _left_out(names: Sequence[str], width: int, setting: Setting) -> dict[str, str]:
    widest = setting.scale.widest_lasso
    if "lasso" not in names or width <= widest:
        return {}
    return {"lasso": f"codes of sites wider than {widest} take too long at this scale"}


def _fitted(
    names: Sequence[str],
    x: Float[Tensor, "sample d_in"],
    dictionaries: Sequence[Dictionary[Any]],
    ks: Sequence[int],
    seed: int,
) -> tuple[dict[str, AnyDictionary], dict[str, str]]:
    """Return the baselines by name and number of the dictionary they stand beside, and what is missing."""
    width = x.shape[1]
    found: dict[str, AnyDictionary] = {}
    missing: dict[str, str] = {}
    fitted = Fitted(x, n_latents=max(d.n_latents for d in dictionaries), seed=seed)
    with progress("baselines", len(names)) as bar:
        for name in names:
            try:
                if name == IDENTITY:  # it has an l0 of its own
                    found[f"{name} 0"] = Neurons.of_width(width)
                else:
                    found |= {f"{name} {i}": _at(fitted, name, k) for i, k in enumerate(ks)}
            except ConfigError as error:
                missing[name] = str(error)
            bar.advance()
    device = dictionaries[0].W_dec.device
    return {name: d.to(device) for name, d in found.items()}, missing


def _at(fitted: Fitted, name: str, k: int) -> AnyDictionary:
    if name == NEURONS:
        width = fitted.x.shape[1]
        return Neurons.of_width(width, min(k, width))
    return fitted.at(name, k)


def _l0(dictionary: Dictionary[Any], x: Float[Tensor, "sample d_in"]) -> float:
    rows = x[:BATCH].to(dictionary.W_dec.device)
    return len(dictionary.encode_sparse(rows).active()) / len(rows)


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


def _row(key: str, held: HeldOut, n_dead: int) -> Row:
    original, spliced = held.unspliced["original"], held.spliced[key]
    sums = held.ordinary[key].measures()
    recovered = share(delta_ce(spliced, original), delta_ce(held.unspliced["mean"], original))
    return Row(
        l0=sums["l0"],
        fvu=sums["fvu"],
        perplexity=math.exp(float(spliced.mean())),
        recovered=math.nan if recovered.value is None else recovered.value,
        n_dead=n_dead,
    )
