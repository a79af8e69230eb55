"""Evaluation: what a dictionary explains, what it costs the language model, and which latents live.

    evaluate_many({"topk": topk, "relu": relu}, model, store) -> {name: measures}

Two passes over text, shared by all dictionaries: the held-out pass (`heldout.py`: reconstruction and
losses) and the firing pass (`firing.py`: density). Beside them stands the neuron basis, without which
no figure means much: `neurons` = the top k coordinates of the site at the first dictionary's l0;
`neurons_all` = every positive coordinate, for density only.

The held-out pass is in fp32; the firing pass takes the fastest arithmetic that is accurate enough
here (`runtime/matmul.py`) and says which, as `density_matmul`.

A measure that cannot be had is null, and `void` says why (`loss_recovered.py`). `intervals` are over
contexts (`intervals.py`): {"fvu": [low, high], …}.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from monosem.activations.processing import fitted as fit
from monosem.core.config import Json, to_json
from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.coded import Coded
from monosem.metrics import density
from monosem.metrics.baselines import (
    PENALTY_ROWS,
    PENALTY_TRIES,
    check_baselines,
    count_atoms,
    fit_baselines,
)
from monosem.metrics.firing import Firing, count_firing
from monosem.metrics.first_use import check_first_use
from monosem.metrics.heldout import HeldOut, held_out
from monosem.metrics.intervals import intervals
from monosem.metrics.loss_recovered import delta_ce, share
from monosem.metrics.measure import Measure
from monosem.metrics.stream import (
    AnyDictionary,
    Place,
    activations,
    blocks,
    first,
    on_device,
    ordinary_mean,
    site_of,
    target_of,
    visit,
)
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.text.tokens import TokenStore

MOST_LASSO = 2**37
"""Tokens times the square of the atoms, up to which LASSO is a baseline: each of its steps costs that.
The default numbers of tokens over 1,024 atoms are just below."""
MOST_SOLVED = 32_768
"""Tokens on which firings of sparse codes are counted at most: each is a problem to solve."""
NEURONS, ALL_NEURONS = "neurons", "neurons_all"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How much text an evaluation reads."""

    n_loss_tokens: int = 65_536
    """Held-out tokens for reconstruction and losses."""
    n_mean_tokens: int = 131_072
    """Training tokens for the mean of the site."""
    n_density_tokens: int = 2_000_000
    """Tokens over which firings are counted: training ones first, then held-out ones."""
    batch_tokens: int = 4096
    """Tokens encoded at once."""
    matmul: Literal["auto", "fp32", "onednn", "bf16", "int8"] = "auto"
    """Arithmetic of the pass that counts firings (all else is fp32); `auto` measures this machine."""
    seed: int = 0
    """Seed of the order in which contexts are visited."""
    baselines: tuple[str, ...] = ()
    """Baselines measured beside the dictionaries: random, pca, pca-first, pca-one, ica,
    ica-one, nmf, classical, lasso."""
    n_baseline_tokens: int = 32_768
    """Training tokens to fit baselines to."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name in (n for n in vars(self) if n.endswith("_tokens")):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        check_baselines(self.baselines)


def evaluate(
    dictionary: AnyDictionary,
    model: LanguageModel,
    store: TokenStore,
    config: EvaluateConfig | None = None,
    *,
    site: str | None = None,
) -> Json:
    """Return the measures of one dictionary by name.

    `site` is needed only for a dictionary that does not record its own.
    """
    found = evaluate_many(
        {"dictionary": dictionary}, model, store, config, site=site, neurons=False
    )
    return found["dictionary"]


def evaluate_many(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    config: EvaluateConfig | None = None,
    *,
    site: str | None = None,
    neurons: bool = True,
    firing: Mapping[str, Firing] | None = None,
) -> dict[str, Json]:
    """Return the measures of several dictionaries of one site, by name, from one pass over the text.

    With `neurons`, the neuron basis is measured beside them as `neurons` and `neurons_all`, where one
    site is read and made: for a transcoder or several sites there is no such basis.
    `firing` holds counts, by name, that another pass has made already (a feature database's, say);
    those dictionaries are not encoded a second time for their density.
    """
    config = config or EvaluateConfig()
    own, place = prepared(dictionaries, model, store, config, site=site, neurons=neurons)
    return _measure(own, place, config, firing or {})


def prepared(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    config: EvaluateConfig,
    *,
    site: str | None = None,
    neurons: bool = True,
) -> tuple[dict[str, AnyDictionary], Place]:
    """Return the dictionaries, checked and on the model's device, what stands beside them, and where."""
    place = Place(model, store, site_of(dictionaries, site), target_of(dictionaries))
    check(dictionaries, place)
    neurons = neurons and not place.target and len(place.reads) == 1
    _check_beside(dictionaries, place, config, neurons)
    fitted, seen = fit(dictionaries, model, place.reads, place.writes)
    place = dataclasses.replace(place, model=seen)
    check_first_use(fitted, place)
    own = {name: on_device(d, model.device) for name, d in fitted.items()}
    return {**own, **_beside(own, place, config, neurons)}, place


def check(dictionaries: Mapping[str, AnyDictionary], place: Place) -> None:
    """Raise unless every dictionary belongs to the site, and the model can read the store."""
    place.check()
    for name, dictionary in dictionaries.items():
        if dictionary.d_in != place.width:
            raise ShapeMismatchError(
                f"The dictionary `{name}` reads width {dictionary.d_in}; `{place.site}` of "
                f"`{place.model.name}` has {place.width}. Choose the model and the site it was trained at."
            )
        if dictionary.d_out != sum(place.written_widths):
            raise ShapeMismatchError(
                f"The dictionary `{name}` makes width {dictionary.d_out}; "
                f"`{place.target or place.site}` of `{place.model.name}` has "
                f"{sum(place.written_widths)}. Choose the model and the sites it was trained at."
            )


def _check_beside(
    given: Mapping[str, AnyDictionary], place: Place, config: EvaluateConfig, neurons: bool
) -> None:
    """Raise where what stands beside the dictionaries has a name of theirs, or cannot stand there."""
    if config.baselines and (place.target or len(place.reads) > 1):
        raise ConfigError(
            "Baselines reconstruct the one site they read; this dictionary makes others. Leave "
            "`baselines` out."
        )
    if "lasso" in config.baselines:
        n_atoms = count_atoms(next(iter(given.values())).n_latents, place.width)
        _check_lasso(_solved_tokens(place, config), n_atoms, place.store.context, config)
    basis = (NEURONS, ALL_NEURONS) if neurons else ()
    for name in (*basis, *config.baselines):
        if name in given:
            what = "the neuron basis" if name in basis else "a baseline"
            raise ConfigError(
                f"`{name}` is the name of {what}. Name the dictionary otherwise, or leave that out "
                "(`neurons=False`, `baselines=()`)."
            )


def _solved_tokens(place: Place, config: EvaluateConfig) -> dict[str, int]:
    """Return how many tokens a baseline with a penalty solves codes for at most, by what they are for."""
    store = place.store
    read = first(visit(store, "heldout", config.seed), store, config.n_loss_tokens)
    text = (store.n_contexts("train") + store.n_contexts("heldout")) * store.context
    n_counted = min(config.n_density_tokens, MOST_SOLVED)
    return {
        "losses": len(read) * store.context,  # special tokens too
        "density": min(n_counted + store.context, text),  # the last context is read whole
        "the search of a penalty": PENALTY_TRIES * min(PENALTY_ROWS, config.n_baseline_tokens),
    }


def _check_lasso(
    solved: Mapping[str, int], n_atoms: int, context: int, config: EvaluateConfig
) -> None:
    """Raise where the codes of LASSO would take too long; `solved` are the tokens that have some."""
    losses, counted, search = solved.values()
    most = MOST_LASSO // n_atoms**2
    if losses + counted + search <= most:
        return
    left = most - search
    share = max(left // 2, left - min(losses, counted))
    fewer = min(share // context * (context - 1), share - context)  # contexts are read whole
    names = [n for n in ("n_loss_tokens", "n_density_tokens") if getattr(config, n) > fewer]
    lower = f"Lower {' and '.join(f'`{name}`' for name in names)} to {fewer:,} or fewer, or leave"
    each = " + ".join(f"{n:,} tokens for {what}" for what, n in solved.items())
    raise ConfigError(
        f"The codes of `lasso` over {n_atoms:,} atoms can take hours or days: they are of {each}, and "
        f"{most:,} in all would do. "
        f"{lower if fewer > 0 else 'Leave'} `lasso` out of `baselines`."
    )


def _beside(
    own: Mapping[str, AnyDictionary], place: Place, config: EvaluateConfig, neurons: bool
) -> dict[str, AnyDictionary]:
    """Return what is measured beside the dictionaries, at the l0 of the first of them."""
    if not neurons and not config.baselines:
        return {}
    leading = next(iter(own.values()))
    k = max(1, round(_quick_l0(leading, place, config)))
    made = fit_baselines(
        config.baselines,
        place,
        n_latents=leading.n_latents,
        k=k,
        n_tokens=config.n_baseline_tokens,
        seed=config.seed,
        batch=config.batch_tokens,
    )
    fitted = {name: on_device(d, place.model.device) for name, d in made.items()}
    # hardly trained, a dictionary has more latents on than there are neurons
    return {**(_neurons(place, min(k, place.width)) if neurons else {}), **fitted}


def _neurons(place: Place, k: int) -> dict[str, AnyDictionary]:
    if k > place.width:
        raise ConfigError(
            f"`k` = {k} is more than the {place.width} coordinates of `{place.site}`."
        )
    device = place.model.device
    return {
        NEURONS: on_device(Neurons.of_width(place.width, k), device),
        ALL_NEURONS: on_device(Neurons.of_width(place.width), device),
    }


@torch.no_grad()
def _quick_l0(dictionary: AnyDictionary, place: Place, config: EvaluateConfig) -> float:
    """Return the l0 of one batch: enough to choose the k of the neurons, a whole number."""
    contexts = first(visit(place.store, "heldout", config.seed), place.store, config.batch_tokens)
    block = next(blocks(place.store, contexts, config.batch_tokens))
    x = activations(place, block)[block.ordinary.to(place.model.device)]
    return len(dictionary.encode_sparse(x).active()) / len(x)


def _measure(
    dictionaries: Mapping[str, AnyDictionary],
    place: Place,
    config: EvaluateConfig,
    known: Mapping[str, Firing],
) -> dict[str, Json]:
    spliced = {name: d for name, d in dictionaries.items() if name != ALL_NEURONS}
    mean = ordinary_mean(place, config.n_mean_tokens, config.seed, config.batch_tokens)
    contexts = first(visit(place.store, "heldout", config.seed), place.store, config.n_loss_tokens)
    held = held_out(spliced, place, mean, contexts, config.batch_tokens)
    ordinary = place.store.ordinary(place.store.tokens(contexts))
    firing = _count({n: d for n, d in dictionaries.items() if n not in known}, place, config)
    rows: dict[str, Json] = {}
    for name, dictionary in dictionaries.items():
        row: Json = {"site": place.site, "config": to_json(dictionary.config)}
        if place.target:
            row["target"] = place.target
        if name in spliced:
            row |= _with_reasons(_held_out_measures(name, held))
            row["intervals"] = intervals(name, held, ordinary, row, seed=config.seed)
            if held.by_site[name]:
                row["fvu_by_site"] = {site: sums.fvu for site, sums in held.by_site[name].items()}
        rows[name] = row | _density_measures({**firing, **known}[name])
    return rows


def _count(
    dictionaries: Mapping[str, AnyDictionary], place: Place, config: EvaluateConfig
) -> dict[str, Firing]:
    """Return the firings of `dictionaries`; codes that are solved for are counted on fewer tokens."""
    solved = {name: d for name, d in dictionaries.items() if isinstance(d, Coded)}
    read = {name: d for name, d in dictionaries.items() if name not in solved}
    found: dict[str, Firing] = {}
    for some, most in ((read, config.n_density_tokens), (solved, MOST_SOLVED)):
        if some:
            found |= count_firing(
                some,
                place,
                n_tokens=min(config.n_density_tokens, most),
                seed=config.seed,
                batch=config.batch_tokens,
                policy=_policy(place, config),
            )
    return found


def _policy(place: Place, config: EvaluateConfig) -> matmul.MatmulPolicy:
    if config.matmul == "auto":
        return matmul.choose(place.model.device)
    return matmul.check(config.matmul)


def _held_out_measures(name: str, held: HeldOut) -> dict[str, int | float | Measure]:
    losses, special = held.unspliced, held.special[name]
    original = losses["original"]
    delta = delta_ce(held.spliced[name], original)
    gaps = {ablation: delta_ce(losses[ablation], original) for ablation in ("zero", "mean")}
    none = Measure(value=None, void="no special token in the held-out text")
    return {
        **held.ordinary[name].measures(),
        "fvu_special": special.fvu if special.n_tokens else none,
        "loss": float(original.mean()),
        "delta_ce": delta,
        "gap_zero": gaps["zero"],
        "gap_mean": gaps["mean"],
        "loss_recovered_zero": share(delta, gaps["zero"]),
        "loss_recovered_mean": share(delta, gaps["mean"]),
        "n_loss_tokens": len(original),
    }


def _with_reasons(measures: Mapping[str, int | float | Measure]) -> Json:
    """Return plain values, null where there is none, and beside them `void`: the reasons."""
    values: Json = {}
    reasons: dict[str, str] = {}
    for name, measure in measures.items():
        value = measure.value if isinstance(measure, Measure) else measure
        if isinstance(measure, Measure) and measure.void:
            reasons[name] = measure.void
        elif value is None or not math.isfinite(value):
            value, reasons[name] = None, f"not finite ({value})"
        values[name] = value
    return {**values, "void": reasons}


def _density_measures(firing: Firing) -> Json:
    n_fired = firing.n_fired.numpy()
    counts = density.count(n_fired, firing.total)
    edges, bins = density.histogram(n_fired, firing.total)
    return {
        "n_latents": counts.n_latents,
        "n_dead": counts.n_dead,
        "n_ultralow": counts.n_ultralow,
        "n_frequent": counts.n_frequent,
        "ultralow_below": counts.ultralow_below,
        "n_density_tokens": firing.total,
        "density_tokens": firing.n_tokens,
        "density_matmul": firing.matmul,
        "density_histogram": {"log10_edges": edges, "n_latents": bins},
    }
