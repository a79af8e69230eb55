"""Neurons: in how many kinds of context they fire, beside latents, and the latents that split five."""

import numpy as np

from monosem.metrics.context_space import ContextSpace
from monosem.metrics.polysemanticity import FEWEST, Account, Units, account, of_units
from monosem.metrics.sample import Sample
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

N_NEURONS = 5
"""Most polysemantic neurons that are taken apart."""
COUNTED = 2_000
"""Training contexts from which the space of contexts is made."""


def neurons(setting: Setting) -> Figure:
    """Return kinds of context of neurons and of latents, and what splits the neurons with most of them."""
    sample = setting.sample
    basis = setting.basis
    space = _space(setting)
    n = setting.scale.n_units
    found = {
        "latents": of_units(sample, space, n_units=n, seed=setting.seed),
        "neurons": of_units(basis, space, n_units=n, seed=setting.seed),
    }
    split = _split(found["neurons"], basis, sample, setting.seed)
    how = "monosem.metrics.polysemanticity; monosem study towards-monosemanticity"
    items = [
        Item(item=f"{words} of {name}, median", here=str(measure), how=how)
        for name, units in found.items()
        for words, measure in (
            ("effective kinds of context", units.effective),
            ("share of activation in the largest kind", units.largest),
        )
    ]
    items += [
        Item(
            item=f"neuron {unit}, of those drawn: {kinds:.1f} kinds; latents that account for it",
            here=f"{latents.needed} ({', '.join(str(i) for i in latents.latents[:6])})",
            how=how,
        )
        for unit, kinds, latents in split
    ]
    return Figure(
        name="neurons",
        title="Kinds of context, of neurons and of latents",
        text=(
            "Contexts in which a unit fires, weak activations included, clustered in a space of contexts "
            "that was fixed before any unit was looked at. Drawn: units of either sort in order of their "
            f"effective number of kinds. Below, the {len(split)} neurons with most kinds, and the latents "
            "that would explain four fifths of each, chosen one by one and measured on other contexts: "
            "where they do not, it says so. The neurons were chosen for the number of kinds that stands "
            "beside them, which flatters it."
        ),
        drawings=(_drawn(found),),
        captions=("Effective kinds of context",),
        items=tuple(items),
        notes={"units of each sort": str(n), "fired at least": str(FEWEST)},
    )


def _space(setting: Setting) -> ContextSpace:
    """Return the space of contexts, made from training text alone."""
    contexts = setting.store.contexts("train")
    some = np.random.default_rng(setting.seed).permutation(len(contexts))[:COUNTED]
    return ContextSpace.fit(
        (setting.store.tokens(np.sort(part) + contexts.start) for part in np.array_split(some, 8)),
        setting.sample.text,
        setting.store.vocab_size,
        seed=setting.seed,
    )


def _split(
    units: Units, basis: Sample, sample: Sample, seed: int
) -> list[tuple[int, float, Account]]:
    """Return the neurons with most kinds of context, and the latents that account for each."""
    measured = [
        (one.effective.value, int(unit))
        for one, unit in zip(units.each, units.units, strict=True)
        if one.effective.value is not None
    ]
    return [
        (unit, kinds, account(basis.column(unit), sample, seed=seed))
        for kinds, unit in sorted(measured, reverse=True)[:N_NEURONS]
    ]


def _drawn(found: dict[str, Units]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for name, units in found.items():
        known = sorted(u.effective.value for u in units.each if u.effective.value is not None)
        series[name] = [((i + 0.5) / len(known), v) for i, v in enumerate(known)]
    return str(
        svg(
            series,
            title="kinds of context",
            x=Axis(label="units, in order", low=0.0, high=1.0),
            y=Axis(label="effective kinds", low=0.0),
            dots=True,
        )
    )
