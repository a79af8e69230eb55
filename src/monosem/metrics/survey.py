"""Survey: the measures of this room by name, of dictionaries and of what stands beside them.

    config = SurveyConfig(measures=("geometry", "polysemanticity"))
    survey({"topk": topk}, model, store, config)
    -> {"topk": {"geometry": {"largest_cosine": Measure, …}, …}, "neurons": …}

Labels that supervised measures need are made of the text itself (`labels.py`, `rules.py`), so that any
model and any text will do; with labels of your own call the functions of the measures themselves.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.dictionaries.latents import RaggedLatents
from monosem.metrics import labels
from monosem.metrics.absorption import Absorption, absorption, over_classes
from monosem.metrics.density import bimodality
from monosem.metrics.disentanglement import disentanglement
from monosem.metrics.divergence import divergence
from monosem.metrics.evaluate import EvaluateConfig, prepared
from monosem.metrics.geometry import geometry
from monosem.metrics.matching import matching
from monosem.metrics.measure import Measure, mean_of_few, median, not_applicable, share
from monosem.metrics.perturbation import Coded, tpp
from monosem.metrics.polysemanticity import MOST_LATENTS, SHARE, account, of_units
from monosem.metrics.positions import N_MEAN_TOKENS, beyond, by_position
from monosem.metrics.probes import Split, balanced
from monosem.metrics.sample import ROWS_AT_ONCE, Sample, encoded
from monosem.metrics.sparse_probing import sparse_probing
from monosem.metrics.specificity import best_unit
from monosem.metrics.stream import AnyDictionary, ordinary_mean
from monosem.metrics.subject import COMPARED, Ground, Other, Subject
from monosem.metrics.subject import SurveyConfig as SurveyConfig
from monosem.metrics.token_explanations import token_explanations
from monosem.metrics.universality import similarity
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

Measures = dict[str, Measure]
N_CHANCES = 4
N_ACCOUNTED = 15
"""Coordinates of the site for which the latents that make them up are counted."""
FEWEST_OF_KIND = 200
"""Tokens of a kind, below which it is left out."""
FEWEST_TASKS = 3
"""Labels to which a measure applies, below which it has no mean over them."""


def survey(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    config: SurveyConfig,
    *,
    site: str | None = None,
    other: Other | None = None,
    beside: EvaluateConfig | None = None,
    neurons: bool = True,
) -> dict[str, dict[str, Measures]]:
    """Return the chosen measures of each dictionary, and of the neurons and baselines beside them.

    `other` is what `mmcs` and `universality` compare with; `beside` names baselines, as an evaluation does.
    """
    needed = [name for name in config.measures if name in COMPARED]
    if needed and other is None:
        raise ConfigError(
            f"`{needed[0]}` compares with another dictionary. Name it: `--against FOLDER` on "
            "the command line, `other=Other(dictionary, place)` in Python."
        )
    if other is not None:
        other.place.check()
        if other.place.store.hash != store.hash:
            raise ConfigError(
                "The other dictionary stands on another token store. Compare both on the same text."
            )
    own, place = prepared(
        dictionaries, model, store, beside or EvaluateConfig(), site=site, neurons=neurons
    )
    ground = Ground(place, config, other)
    found: dict[str, dict[str, Measures]] = {}
    with progress("measures", len(own) * len(config.measures)) as bar:
        for name, dictionary in own.items():
            subject = Subject(dictionary, ground)
            found[name] = {}
            for measure in config.measures:
                found[name][measure] = MEASURES[measure](subject)
                bar.advance()
    return found


def as_json(found: Mapping[str, Mapping[str, Measures]]) -> Json:
    """Return all that was measured, by dictionary and measure."""
    return {
        dictionary: {
            name: {what: measure.json() for what, measure in measures.items()}
            for name, measures in measured.items()
        }
        for dictionary, measured in found.items()
    }


def _geometry(subject: Subject) -> Measures:
    own = subject.dictionary
    return geometry(own.encoder().detach(), own.W_dec.detach(), seed=subject.seed).measures()


def _density(subject: Subject) -> Measures:
    sample = subject.sample
    found = bimodality(sample.n_fired(), len(sample), seed=subject.seed)
    gain = Measure(value=found.gain) if found.separation.applicable else found.separation
    return {
        "alive": share(int((sample.n_fired() > 0).sum()), sample.n_latents),
        "separation_of_modes": found.separation,
        "gain_of_two_modes": gain,
    }


def _mmcs(subject: Subject) -> Measures:
    rows = _other(subject).dictionary.W_dec.detach()
    return matching(subject.dictionary.W_dec.detach(), rows, seed=subject.seed).measures()


def _universality(subject: Subject) -> Measures:
    other, ground = _other(subject), subject.ground

    def stream() -> Iterator[tuple[RaggedLatents, RaggedLatents]]:
        contexts, batch = ground.text.contexts, subject.config.batch_tokens
        mine = encoded(subject.dictionary, ground.place, contexts, batch)
        theirs = encoded(other.dictionary, other.place, contexts, batch)
        for (_, a), (_, b) in zip(mine, theirs, strict=True):
            yield a, b

    n_latents = subject.dictionary.n_latents, other.dictionary.n_latents
    lag = 1 + ground.place.store.context // ROWS_AT_ONCE  # blocks that no context reaches across
    return similarity(stream, *n_latents, lag=lag, seed=subject.seed).measures()


def _proxies(subject: Subject) -> Measures:
    found: Measures = {}
    for name, proxy in subject.ground.proxies.items():
        best = best_unit(subject.sample, proxy(subject.ground.text), seed=subject.seed)
        who = f"{name} (latent {best.latent})" if best.latent >= 0 else name
        found[f"{who} correlation"] = best.correlation
        if best.agreement is not None:
            for kind in ("specificity", "expected", "sensitivity"):
                found[f"{who} {kind}"] = best.agreement.measures()[kind]
    return found


def _polysemanticity(subject: Subject) -> Measures:
    config = subject.config
    found = of_units(subject.sample, subject.ground.space, n_units=config.n_units, seed=config.seed)
    return {**found.measures(), **_accounted(subject.sample, config.seed)}


def _explanations(subject: Subject) -> Measures:
    vocab = subject.ground.place.store.vocab_size
    return token_explanations(subject.sample, vocab, seed=subject.seed).measures()


def _accounted(sample: Sample, seed: int) -> Measures:
    """Return for how many coordinates of the site a few units account, and how many of them it takes.

    Units are the latents of what is measured: neurons, where that is the neuron basis.

    The chance of the first is that of coordinates of other contexts.
    """
    x = sample.x.numpy()
    varying = np.flatnonzero(x.std(0) > 0)
    random = np.random.default_rng(seed)
    chosen = random.choice(varying, min(N_ACCOUNTED, len(varying)), replace=False)
    needed = [account(x[:, i], sample, seed=seed).needed.value for i in chosen]
    elsewhere = [
        account(np.roll(x[:, i], len(x) // 2), sample, seed=seed).needed.applicable
        for i in chosen[:N_CHANCES]
    ]
    reached = [n for n in needed if n is not None]
    more = [float(MOST_LATENTS + 1)] * (len(needed) - len(reached))  # it takes more than were tried
    middle = median(np.array(reached + more), seed=seed)
    if middle.value is not None and middle.value > MOST_LATENTS:
        middle = not_applicable(f"{MOST_LATENTS} units explain fewer than half of the coordinates")
    null = float(np.mean(elsewhere)) if elsewhere else None
    return {
        f"coordinates_explained_to_{SHARE}": share(len(reached), len(needed), null=null),
        "units_needed": middle,
    }


def _probing(subject: Subject) -> Measures:
    text, config = subject.ground.text, subject.config
    x = subject.sample.x.numpy()
    found: Measures = {}
    by_k: dict[int, list[Measure]] = {k: [] for k in config.ks}
    for name, proxy in subject.ground.proxies.items():
        split = balanced(text.at(proxy(text)) > 0, text.context_of, seed=config.seed)
        known = subject.probe(f"rule {name}", split)
        probing = sparse_probing(
            subject.sample.latents, x, split, ks=config.ks, supervised=known, seed=config.seed
        )
        found |= {f"{name} {measure}": value for measure, value in probing.measures().items()}
        for k, measure in probing.auc.items():
            by_k[k].append(measure)
    means = {f"mean auc_k{k}": _over(some) for k, some in by_k.items()}
    return {**means, **found}


def _absorption(subject: Subject) -> Measures:
    if subject.why_not_edited:
        return {"full_absorption": not_applicable(subject.why_not_edited)}
    own, coded = subject.dictionary, subject.coded
    centre = own.b_dec.detach().float().cpu().numpy()
    each: dict[str, Absorption] = {}
    for letter, split in _letters(subject).items():
        known = subject.probe(f"letter {letter}", split)
        each[letter] = absorption(
            coded.latents, coded.x, coded.W_dec, centre, split, supervised=known, seed=subject.seed
        )
    return over_classes(each)


def _perturbation(subject: Subject) -> Measures:
    if subject.why_not_edited:
        return {"tpp": not_applicable(subject.why_not_edited)}
    splits = _letters(subject)
    probes = {letter: subject.probe(f"letter {letter}", split) for letter, split in splits.items()}
    known = {letter: probe for letter, probe in probes.items() if probe is not None}
    found = tpp(subject.coded, splits, supervised=known, seed=subject.seed)
    return {f"tpp_{n}": measure for n, measure in found.items()}


def _disentanglement(subject: Subject) -> Measures:
    if subject.why_not_edited:
        return {"disentangled": not_applicable(subject.why_not_edited)}
    text, coded = subject.ground.text, subject.coded
    attributes = labels.kinds(text)
    rows = np.flatnonzero(labels.frequent(attributes, FEWEST_OF_KIND))
    some = Coded(coded.x[rows], coded.latents[rows], coded.W_dec)
    classes = {name: values[rows] for name, values in attributes.items()}
    found = disentanglement(some, classes, text.context_of[rows], seed=subject.seed)
    return {
        f"{name} {measure}": value
        for name, each in found.items()
        for measure, value in each.measures().items()
    }


def _divergence(subject: Subject) -> Measures:
    place, config = subject.ground.place, subject.config
    average = ordinary_mean(place, N_MEAN_TOKENS, config.seed, config.batch_tokens)
    contexts = subject.ground.text.contexts
    return divergence(
        subject.dictionary, place, average, contexts, batch=config.batch_tokens, seed=config.seed
    )


def _positions(subject: Subject) -> Measures:
    place, config = subject.ground.place, subject.config
    found = by_position(
        subject.dictionary,
        place,
        n_tokens=config.n_tokens,
        batch=config.batch_tokens,
        seed=config.seed,
    )
    trained = subject.dictionary.origin.context
    if not trained:
        void = not_applicable("it does not record the context it was trained on")
        measures = found.measures(seed=config.seed)
        return measures | {f"{name} past its context": void for name in measures}
    parted = beyond(found, trained, seed=config.seed)
    return {
        f"{name} {where}": measure
        for where, part in (("in its context", parted.inside), ("past it", parted.outside))
        for name, measure in part.items()
    }


MEASURES: dict[str, Callable[[Subject], Measures]] = {
    "geometry": _geometry,
    "density": _density,
    "mmcs": _mmcs,
    "universality": _universality,
    "proxies": _proxies,
    "polysemanticity": _polysemanticity,
    "explanations": _explanations,
    "probing": _probing,
    "absorption": _absorption,
    "perturbation": _perturbation,
    "disentanglement": _disentanglement,
    "divergence": _divergence,
    "positions": _positions,
}
"""The measures of `subject.NAMES`."""


def _letters(subject: Subject) -> dict[str, Split]:
    """Return a split for each first letter, among the tokens that are words."""
    text = subject.ground.text
    alphabetic, by_letter = labels.first_letters(text)
    rows = np.flatnonzero(alphabetic)
    splits: dict[str, Split] = {}
    for letter, own in by_letter.items():
        drawn = balanced(own[rows], text.context_of[rows], seed=subject.seed)
        splits[letter] = Split(rows[drawn.train], rows[drawn.test], own, text.context_of)
    return splits


def _over(found: list[Measure]) -> Measure:
    known = [m for m in found if m.value is not None]
    if len(known) < FEWEST_TASKS:
        return not_applicable(
            f"it applies to {len(known)} of {len(found)} labels, of at least {FEWEST_TASKS}"
        )
    null = float(np.mean([m.null for m in known if m.null is not None]))
    return mean_of_few(np.array([m.value for m in known], np.float64), null=null)


def _other(subject: Subject) -> Other:
    assert subject.ground.other is not None  # `survey` refuses these measures without it
    return subject.ground.other
