"""Positions: loss, error and l0 of a dictionary by position, beyond its context, and on another checkpoint.

    loss, spliced   next-token loss in nats at a position, of an ordinary target: of the model as it is, and
                    with the dictionary in place at all ordinary positions
    fvu             E‖x - x̂‖² at the position / E‖x - mean‖² over all of them
    l0              latents that are on

A dictionary that was trained on contexts of 128 tokens has seen no position 300. Make a token store of longer
contexts (`monosem tokens --context 512`), and `beyond` compares what lies outside with what lies inside.
`across` measures one dictionary on several checkpoints of a model (base and fine-tuned) on the same text.
Intervals draw contexts anew; differences are paired by context.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.metrics.heldout import tokens_at_once
from monosem.metrics.measure import LEVEL, N_DRAWS, Measure, bootstrap, not_applicable
from monosem.metrics.stream import (
    AnyDictionary,
    Block,
    Place,
    blocks,
    first,
    on_device,
    ordinary_mean,
    side_by_side,
    visit,
)
from monosem.models.language_model import LanguageModel

N_TOKENS = 32_768
N_MEAN_TOKENS = 65_536
NAMES = ("loss", "spliced", "error", "variance", "l0")
Row = Float[np.ndarray, " pos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """What every position of every context holds; NaN where it is not ordinary, or has no target."""

    loss: Float[np.ndarray, "contexts pos"]
    spliced: Float[np.ndarray, "contexts pos"]
    error: Float[np.ndarray, "contexts pos"]
    """‖x - x̂‖²"""
    variance: Float[np.ndarray, "contexts pos"]
    """‖x - mean‖²"""
    l0: Float[np.ndarray, "contexts pos"]

    def curves(self) -> dict[str, Row]:
        """Return loss, spliced, delta_ce, fvu and l0 by position; NaN where no token is ordinary."""
        means = {name: _columns(getattr(self, name)) for name in NAMES}
        found = {name: means[name] for name in ("loss", "spliced", "l0")}
        found["delta_ce"] = means["spliced"] - means["loss"]
        found["fvu"] = means["error"] / np.nanmean(self.variance)
        return found

    def bands(self, *, seed: int = 0) -> dict[str, tuple[Row, Row]]:
        """Return both ends of the 95 % interval of each of the `curves`, at every position."""
        n = len(self.loss)
        times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
        names = ("loss", "spliced", "l0", "error")
        drawn = {name: _drawn_columns(times, getattr(self, name)) for name in names}
        drawn["delta_ce"] = drawn["spliced"] - drawn["loss"]
        top, bottom = _sums(self.variance)
        drawn["fvu"] = drawn.pop("error") / ((times @ top) / (times @ bottom))[:, None]
        return {name: _ends(values) for name, values in drawn.items()}

    def measures(self, positions: slice = slice(None), *, seed: int = 0) -> dict[str, Measure]:
        """Return loss, delta_ce, fvu and l0 over some positions, with intervals over contexts."""
        sums = {name: _sums(getattr(self, name)[:, positions]) for name in NAMES}
        rise = _sums((self.spliced - self.loss)[:, positions])
        return {
            "loss": _ratio(*sums["loss"], seed),
            "delta_ce": _ratio(*rise, seed),
            "fvu": _ratio(sums["error"][0], sums["variance"][0], seed),
            "l0": _ratio(*sums["l0"], seed),
        }


def by_position(
    dictionary: AnyDictionary,
    place: Place,
    *,
    n_tokens: int = N_TOKENS,
    n_mean_tokens: int = N_MEAN_TOKENS,
    batch: int = 4096,
    seed: int = 0,
) -> Grid:
    """Return what `dictionary` does at every position of about `n_tokens` held-out tokens."""
    place.check()
    contexts = first(visit(place.store, "heldout", seed), place.store, n_tokens)
    mean = ordinary_mean(place, n_mean_tokens, seed, batch)
    return grid(on_device(dictionary, place.model.device), place, mean, contexts, batch=batch)


@torch.no_grad()
def grid(
    dictionary: AnyDictionary,
    place: Place,
    mean: Float[Tensor, " d"],
    contexts: Int64[np.ndarray, " n_contexts"],
    *,
    batch: int = 4096,
) -> Grid:
    """Return what `dictionary` does at every position of `contexts`; `mean` is of what it makes."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    step = min(batch, tokens_at_once(place.model))
    with progress("positions (contexts)", len(contexts)) as bar:
        for block in blocks(place.store, contexts, step):
            for name, values in _block(dictionary, place, mean, block).items():
                parts[name].append(values)
            bar.advance(len(block.tokens))
    return Grid(**{name: np.concatenate(found) for name, found in parts.items()})


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """Positions a dictionary was trained on, beside later ones."""

    trained: int
    """Positions of the contexts it was trained on."""
    inside: dict[str, Measure]
    outside: dict[str, Measure]
    rise: dict[str, Measure]
    """Outside less inside, in the same contexts."""


def beyond(found: Grid, trained: int, *, seed: int = 0) -> Beyond:
    """Return what happens past position `trained` (`dictionary.origin.context`)."""
    longest = found.loss.shape[1]
    if trained < 1:
        raise ConfigError(
            "The dictionary does not record the context it was trained on. Pass its tokens as `trained`."
        )
    inside = found.measures(slice(0, trained), seed=seed)
    if longest <= trained:
        void = not_applicable(f"the text has contexts of {longest}, no longer than {trained}")
        outside, rise = dict.fromkeys(inside, void), dict.fromkeys(inside, void)
    else:
        outside = found.measures(slice(trained, None), seed=seed)
        early, late = _cut(found, slice(0, trained)), _cut(found, slice(trained, None))
        rise = _difference(late, early, seed)
    return Beyond(trained=trained, inside=inside, outside=outside, rise=rise)


@dataclass(frozen=True, kw_only=True)
class Across:
    """One dictionary on several checkpoints; differences are from the first."""

    measures: dict[str, dict[str, Measure]]
    differences: dict[str, dict[str, Measure]]


def across(
    dictionary: AnyDictionary,
    models: Mapping[str, LanguageModel],
    place: Place,
    *,
    n_tokens: int = N_TOKENS,
    n_mean_tokens: int = N_MEAN_TOKENS,
    batch: int = 4096,
    seed: int = 0,
) -> Across:
    """Return what `dictionary` does in each of `models` at the site and on the text of `place`.

    They must be checkpoints of one model: equal widths, the same tokenizer.
    """
    if not models:
        raise ConfigError("There is no model to measure on. Pass at least one by name.")
    grids = {
        name: by_position(
            dictionary,
            dataclasses.replace(place, model=model),
            n_tokens=n_tokens,
            n_mean_tokens=n_mean_tokens,
            batch=batch,
            seed=seed,
        )
        for name, model in models.items()
    }
    base, *others = grids
    return Across(
        measures={name: found.measures(seed=seed) for name, found in grids.items()},
        differences={name: _difference(grids[name], grids[base], seed) for name in others},
    )


def _block(
    dictionary: AnyDictionary, place: Place, mean: Float[Tensor, " d"], block: Block
) -> dict[str, Float[np.ndarray, "batch pos"]]:
    model, chosen = place.model, block.ordinary.to(place.model.device)
    with model.capturing(place.sites) as seen:
        losses = model.losses(block.tokens)
    x = side_by_side(seen, place.reads)
    target = side_by_side(seen, place.writes)
    made = target.clone()
    latents = dictionary.encode_sparse(x[chosen]).ragged()
    made[chosen] = dictionary.reconstruct(x[chosen], latents).to(made.dtype)
    n_on = torch.bincount(latents.rows()[latents.values > 0], minlength=len(latents))
    parts = made.split(place.written_widths, -1)
    edits = {site: partial(_put, new=new) for site, new in zip(place.writes, parts, strict=True)}
    with model.replaced(edits):
        spliced = model.losses(block.tokens)
    ordinary_target = torch.zeros_like(chosen)
    ordinary_target[:, :-1] = chosen[:, 1:]
    return {
        "loss": _whole(losses, ordinary_target),
        "spliced": _whole(spliced, ordinary_target),
        "error": _at((target - made)[chosen].double().square().sum(1), chosen),
        "variance": _at((target[chosen].double() - mean).square().sum(1), chosen),
        "l0": _at(n_on.double(), chosen),
    }


def _put(old: Tensor, *, new: Tensor) -> Tensor:
    return new.reshape_as(old).to(old.dtype)


def _whole(losses: Float[Tensor, "batch less"], chosen: Tensor) -> np.ndarray:
    """Return losses with a last position that has none, NaN where not `chosen`."""
    found = np.full(tuple(chosen.shape), np.nan)
    found[:, :-1] = losses.double().cpu().numpy()
    return np.where(chosen.cpu().numpy(), found, np.nan)


def _at(values: Float[Tensor, " tokens"], chosen: Tensor) -> np.ndarray:
    found = np.full(tuple(chosen.shape), np.nan)
    found[chosen.cpu().numpy()] = values.cpu().numpy()
    return found


def _cut(found: Grid, positions: slice) -> Grid:
    return Grid(**{name: getattr(found, name)[:, positions] for name in NAMES})


def _columns(values: np.ndarray) -> Row:
    known = np.isfinite(values)
    return np.where(known.any(0), np.nansum(values, 0) / np.maximum(known.sum(0), 1), np.nan)


def _drawn_columns(times: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "draws pos"]:
    """Return the means of `_columns` where contexts count as often as they were drawn."""
    known = np.isfinite(values)
    n = times @ known
    return np.where(n > 0, times @ np.where(known, values, 0.0) / np.maximum(n, 1), np.nan)


def _ends(drawn: Float[np.ndarray, "draws pos"]) -> tuple[Row, Row]:
    low, high = np.full((2, drawn.shape[1]), np.nan)
    seen = np.isfinite(drawn).any(0)
    between = [(100 - LEVEL) / 2, (100 + LEVEL) / 2]
    low[seen], high[seen] = np.nanpercentile(drawn[:, seen], between, axis=0)
    return low, high


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sum and number of what is known in each context."""
    return np.nansum(values, 1), np.isfinite(values).sum(1).astype(np.float64)


def _ratio(top: np.ndarray, bottom: np.ndarray, seed: int) -> Measure:
    return bootstrap(_over(top, bottom), len(top), seed=seed)


def _over(top: np.ndarray, bottom: np.ndarray) -> Callable[[np.ndarray], float]:
    def ratio(drawn: np.ndarray) -> float:
        below = float(bottom[drawn].sum())
        return float(top[drawn].sum()) / below if below else float("nan")

    return ratio


def _difference(a: Grid, b: Grid, seed: int) -> dict[str, Measure]:
    """Return the measures of `a` less those of `b`, contexts drawn together."""

    def terms(g: Grid) -> dict[str, Callable[[np.ndarray], float]]:
        return {
            "loss": _over(*_sums(g.loss)),
            "delta_ce": _over(*_sums(g.spliced - g.loss)),
            "fvu": _over(_sums(g.error)[0], _sums(g.variance)[0]),
            "l0": _over(*_sums(g.l0)),
        }

    mine, other = terms(a), terms(b)
    return {
        name: bootstrap(lambda i, name=name: mine[name](i) - other[name](i), len(a.loss), seed=seed)
        for name in mine
    }
