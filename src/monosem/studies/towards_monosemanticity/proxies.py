"""Proxies: is there a latent for a script, an alphabet, a format, and does it fire on nothing else?

For each proxy the latent that follows it most closely on half of the contexts is measured on the others:
correlation, specificity by level of activation, sensitivity (metrics/specificity.py). The best neuron
is looked for in the same way. The paper's four features are among the proxies, and are out of reach where
the text has no Arabic, Hebrew, DNA or base64.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from monosem.metrics.measure import Measure
from monosem.metrics.specificity import Ahead, BestUnit, Specificity, ahead, best_unit
from monosem.rendering import table
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item, Value
from monosem.studies.towards_monosemanticity.kinds import LONG, RUNS
from monosem.studies.towards_monosemanticity.setting import Setting

PAPER: dict[str, Value] = {
    "Arabic": 0.74,
    "DNA": 0.80,
    "base64": 0.38,
    RUNS: "0.38, of its own proxy (base64, above)",
    "Hebrew": 0.55,
}
"""Correlation of the paper's feature with its proxy, of A/1."""
FEWEST_DRAWN = 5
"""Tokens at a level of activation from which their share is drawn."""
BROAD, MOST = "base64", 0.05
"""A proxy that holds for words too, and the share of tokens from which it says nothing of its kind."""
FIRES_ON = 0.5
"""Share of a latent's activation on its kind from which it is a latent of that kind."""


@dataclass(frozen=True)
class Found:
    """The latent and the neuron nearest to a proxy."""

    name: str
    latent: int
    correlation: Measure
    closely: Specificity
    neuron: BestUnit
    lead: Ahead | None
    """Of the latent before the neuron; None where there is no neuron to be measured."""


def proxies(setting: Setting) -> Figure:
    """Return the latents nearest to each proxy that the text allows."""
    sample = setting.sample
    basis = setting.basis
    found: list[Found] = []
    items: list[Item] = []
    for name, kind in setting.nearest.items():
        best = kind.best
        if best.agreement is None or not best.correlation.applicable:
            items += _items(name, best.correlation, None)
            continue
        neuron = best_unit(basis, kind.values, seed=setting.seed)
        lead = None
        if neuron.agreement is not None:
            chosen = sample, best.latent, basis, neuron.latent
            lead = ahead(*chosen, kind.values, seed=setting.seed)
        found.append(Found(name, best.latent, best.correlation, best.agreement, neuron, lead))
        items += _items(name, best.correlation, found[-1])
    sorts = {
        "Share of the kind by level of activation: the paper's kinds": [
            one for one in found if one.name in PAPER
        ],
        "The same: other kinds": [one for one in found if one.name not in PAPER],
    }
    sorts = {caption: sort for caption, sort in sorts.items() if sort}
    return Figure(
        name="proxies",
        title="Latents for scripts, alphabets and formats",
        text=(
            "Each proxy says how likely a token is of its kind. The latent that follows it most closely was "
            "chosen on half of the contexts and is measured on the others; chance is the same search on "
            "contexts in another order. Drawn: of the tokens on which the latent fires at a level, the share "
            "that is of the kind. One of the paper's own features counts as found where the correlation is "
            f"beyond chance and at least {FIRES_ON:.0%} of the activation is on its kind, by the lower ends "
            "of both intervals; the best neuron is judged in the same way. The latent is ahead of it where "
            "the interval of their difference is, of contexts drawn once for both. The paper's proxy "
            f"of base64 holds for names and words too; beside it stands the same from the {LONG}th token of "
            "a run on."
        ),
        drawings=(
            *(_drawn(sort) for sort in sorts.values()),
            *([_compared(found)] if found else []),
        ),
        captions=(*sorts, *(["The best latent, and the best neuron"] if found else [])),
        items=tuple(items),
        notes={"tokens": f"{len(sample):,}", "site": setting.site},
    )


def _items(name: str, correlation: Measure, found: Found | None) -> list[Item]:
    how = "monosem.metrics.specificity.best_unit; monosem study towards-monosemanticity"
    paper = PAPER.get(name)
    first = Item(
        item=f"{name}: correlation of the best latent" + (f" ({found.latent})" if found else ""),
        here=str(correlation),
        paper=paper,
        paper_certainty="read in the paper" if paper else "—",
        how=how,
    )
    if found is None:
        reason = correlation.void.removeprefix("not applicable: ")
        return [first] if paper is None else [first, _verdict(name, f"out of reach: {reason}", how)]
    return [
        first,
        *([_verdict(name, judged(found), how)] if paper else []),
        Item(item=f"{name}: the best neuron's", here=str(found.neuron.correlation), how=how),
        Item(
            item=f"{name}: specificity, by activation",
            here=str(found.closely.expected),
            unit="share",
            how=how,
        ),
        Item(
            item=f"{name}: sensitivity",
            here=str(found.closely.sensitivity),
            unit="share",
            how=how,
        ),
        *_of_neuron(name, found, how),
    ]


def _verdict(name: str, here: str, how: str) -> Item:
    """Say whether the paper's own feature is here."""
    return Item(
        item=f"{name}: is the paper's feature here?",
        here=here,
        paper="found, and in no neuron",
        paper_certainty="read in the paper",
        how=how,
    )


def judged(found: Found) -> str:
    """Say whether the best latent is one of its kind, whether the best neuron is, and which is ahead."""
    usual = found.closely.expected.null
    if found.name == BROAD and usual is not None and usual > MOST:
        return f"not to be told: the proxy holds for {usual:.1%} of all tokens, names and words among them"
    here = _of_the_kind(found.correlation, found.closely)
    neuron = _of_the_kind(found.neuron.correlation, found.neuron.agreement)
    said = f"{here}; the best neuron: {neuron}"
    if found.lead is None:
        return said
    return (
        f"{said}; the latent's correlation is {_beside(found.lead.correlation)}, the share of its "
        f"activation on the kind {_beside(found.lead.expected)}"
    )


def _of_the_kind(correlation: Measure, agrees: Specificity | None) -> str:
    """Say whether a unit is one of the kind: by the lower ends of its intervals."""
    share = None if agrees is None else agrees.expected
    if agrees is None or share is None or share.value is None:
        void = correlation.void if share is None else share.void
        return f"not measured ({void.removeprefix('not applicable: ')})"
    if share.value < FIRES_ON:
        return "not, it fires on other things"
    if not correlation.beyond_null or share.low is None or share.low < FIRES_ON:
        return "seen, but the intervals leave it open"
    return f"found, on {_percent(agrees.sensitivity)} of the kind's tokens"


def _beside(lead: Measure) -> str:
    """Say of a difference whether its interval lies above nothing, below, or around it."""
    if lead.value is None or lead.low is None or lead.high is None:
        return "not compared"
    return "ahead" if lead.low > 0 else "behind" if lead.high < 0 else "not told from the neuron's"


def _percent(share: Measure) -> str:
    return "an unknown share" if share.value is None else f"{share.value:.0%}"


def _of_neuron(name: str, found: Found, how: str) -> list[Item]:
    agrees, lead = found.neuron.agreement, found.lead
    if agrees is None or lead is None:
        return []
    words = {
        "the best neuron's specificity, by activation": agrees.expected,
        "the best neuron's sensitivity": agrees.sensitivity,
        "specificity by activation, the latent's above the neuron's": lead.expected,
    }
    above = Item(
        item=f"{name}: correlation, the latent's above the neuron's",
        here=str(lead.correlation),
        how="monosem.metrics.specificity.ahead; monosem study towards-monosemanticity",
    )
    shares = (
        Item(item=f"{name}: {what}", here=str(measure), unit="share", how=how)
        for what, measure in words.items()
    )
    return [above, *shares]


def _compared(found: list[Found]) -> str:
    """Return the table of kinds: the best latent of each beside the best neuron."""
    headers = ["kind", "of all tokens", "unit", "correlation", "on its kind", "of its kind"]
    notes = {
        "on its kind": "share of the activation that is on tokens of the kind (specificity)",
        "of its kind": "share of the kind's tokens on which it fires (sensitivity)",
    }
    rows = [
        row
        for one in found
        for row in (
            _row(one.name, "latent", one.latent, one.correlation, one.closely),
            _row("", "neuron", one.neuron.latent, one.neuron.correlation, one.neuron.agreement),
        )
    ]
    return str(table.html(headers, rows, notes=notes))


def _row(
    kind: str, unit: str, index: int, correlation: Measure, agrees: Specificity | None
) -> list[str | Markup]:
    shares = [None, None] if agrees is None else [agrees.expected.value, agrees.sensitivity.value]
    of_all = None if agrees is None or not kind else agrees.expected.null
    return [
        kind,
        "" if of_all is None else f"{of_all:.2%}",
        Markup("{}&nbsp;{}").format(unit, index),
        "—" if correlation.value is None else f"{correlation.value:.2f}",
        *("—" if share is None else f"{share:.2f}" for share in shares),
    ]


def _drawn(found: list[Found]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        curves = one.closely.curves
        middle: Float[np.ndarray, " levels"] = (curves.edges[1:] + curves.edges[:-1]) / 2
        share = curves.specificity
        series[one.name] = [
            (float(m / curves.edges[-1]), float(s))
            for m, s, n in zip(middle, share, curves.n_tokens, strict=True)
            if n >= FEWEST_DRAWN
        ]
    return str(
        svg(
            series,
            title="specificity",
            x=Axis(label="activation / largest", low=0.0, high=1.0),
            y=Axis(label="share of the kind", low=0.0, high=1.0),
        )
    )
