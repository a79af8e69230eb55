"""The control: the same dictionaries of models whose matrices have their entries in another order.

They have learnt nothing, and have the same widths and norms. What a dictionary reaches there, it reaches
without any features of language. PCA sees how few dimensions activations fill, and nothing else of them:
so what is compared is how much more of the variance a dictionary leaves than PCA with as many latents on.

Dictionaries of different models reach different l0s. They are compared at l0s that all of them span, on the
line between those they reach, over the logarithm; contexts are drawn again, the same for all, and each
model's errors are divided by the variance that it has on them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monosem.metrics.matching import matching
from monosem.metrics.measure import Measure
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.beside import (
    OURS,
    WORDS,
    Beside,
    measured,
    of_residual,
)
from monosem.studies.sparse_autoencoders.matched import Point, at, resampled
from monosem.studies.sparse_autoencoders.setting import Setting

HOW = "models/randomised.py; monosem study sparse-autoencoders-find-features"
PCA = "pca"
MODEL = "the model"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much more of the variance dictionaries leave than PCA, at an l0 that all models' have."""

    l0: float
    left: dict[str, Measure]
    """Dictionary less PCA, by model; below 0: the dictionary leaves less."""
    apart: dict[str, Measure]
    """That of a shuffled model less that of the model."""


def control(setting: Setting) -> Figure:
    """Return FVU against l0 at the residual site of the model, and of shuffled ones, beside PCA's."""
    site = setting.residual
    found = {MODEL: of_residual(setting, (PCA,))}
    for seed, model in setting.shuffled.items():
        dictionaries = list(setting.of_shuffled[seed].values())
        found[f"shuffled by {seed}"] = measured(
            dictionaries, setting, site, model=model, names=(PCA,)
        )
    between = gaps(found, setting.seed)
    return Figure(
        name="control",
        title="A model that has learnt nothing",
        text=(
            "The entries of each weight matrix are shuffled, and the same dictionaries are trained on what "
            f"the model then does, on {setting.scale.n_tokens:,} vectors as on the model itself. PCA sees "
            f"how few dimensions activations fill, and nothing else of them. {said(between)}"
        ),
        drawings=(
            *(_drawn(found, key) for key in (OURS, PCA)),
            *([_apart(between)] if between else []),
        ),
        captions=(
            "What the dictionary leaves",
            "What PCA leaves",
            *(["Dictionary less PCA"] if between else []),
        ),
        items=(
            *(item for name, each in found.items() for item in _items(name, each)),
            *(item for gap in between for item in _gap_items(gap)),
            *_found_again(setting),
        ),
        notes={
            "site": site,
            "shuffles": f"{len(setting.shuffled)}",
            "intervals": "95 %, contexts drawn again; one seed of each dictionary",
            "l0": "shared by all models: on the line between those reached, over the logarithm",
        },
    )


def gaps(found: Mapping[str, Beside], seed: int) -> list[Gap]:
    """Return dictionary less PCA of each model at l0s that all span; none, where no l0 is shared."""
    apart = {
        name: [_less(*both) for both in zip(each.points[OURS], each.points[PCA], strict=True)]
        for name, each in found.items()
    }
    return [
        _gap(l0, {name: at(some, l0, log=True) for name, some in apart.items()}, seed)
        for l0 in shared([[p.row.l0 for p in some] for some in apart.values()])
    ]


def shared(l0s: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric means of the l0s of several models, no further out than any of them reaches."""
    low, high = max(min(own) for own in l0s), min(max(own) for own in l0s)
    if low > high:
        return []
    means = np.exp(np.log(np.array(l0s)).mean(0)).clip(low, high)
    return [float(l0) for l0 in dict.fromkeys(means)]


def _less(ours: Point, theirs: Point) -> Point:
    row = dataclasses.replace(ours.row, fvu=ours.row.fvu - theirs.row.fvu)
    errors = ours.errors - theirs.errors
    return Point(row=row, errors=errors, variances=ours.variances)


def _gap(l0: float, points: Mapping[str, Point], seed: int) -> Gap:
    others = {name: p for name, p in points.items() if name != MODEL}
    return Gap(
        l0=l0,
        left={name: resampled(p, seed) for name, p in points.items()},
        apart={name: resampled(p, seed, less=points[MODEL]) for name, p in others.items()},
    )


def said(between: Sequence[Gap]) -> str:
    """Return in words how dictionaries stand to PCA on the model and on the shuffled ones."""
    if not between:
        return "No l0 is reached by the dictionaries of all models, so that nothing is compared."
    l0s = ", ".join(f"{gap.l0:.1f}" for gap in between)
    each = [
        f"{', '.join(_signed(gap.left[name]) for gap in between)} ({name})"
        for name in between[0].left
    ]
    known = [m for gap in between for m in gap.apart.values() if m.value is not None]
    ends = [(m.low or 0.0, m.high or 0.0) for m in known]
    more, less = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    return (
        f"With {l0s} latents on, dictionaries leave more of the variance than PCA by {'; by '.join(each)}: "
        "below 0 they leave less. Of the differences between a shuffled model and the model, "
        f"{more} of {len(ends)} are above 0 beyond an interval over contexts, {less} below, and "
        f"{len(ends) - more - less} neither. Above 0 the dictionary gains on PCA by what the model has "
        "learnt, or its training on the shuffled model has further to go."
    )


def _signed(found: Measure) -> str:
    return found.void if found.value is None else f"{found.value:+.3f}"


def _gap_items(gap: Gap) -> list[Item]:
    l0 = f"l0 {gap.l0:.1f}"
    return [
        *(
            Item(item=f"{name}, {l0}: FVU of the dictionary less PCA's", here=str(m), how=HOW)
            for name, m in gap.left.items()
        ),
        *(
            Item(item=f"{name}, {l0}: the same, less that of the model", here=str(m), how=HOW)
            for name, m in gap.apart.items()
        ),
    ]


def _items(name: str, found: Beside) -> list[Item]:
    items: list[Item] = []
    for i, ours in enumerate(found.rows[OURS]):
        beside = f" (PCA {found.rows[PCA][i].fvu:.3f})"
        items += [
            Item(item=f"{name}, l0 {ours.l0:.1f}: FVU{beside}", here=ours.fvu, how=HOW),
            Item(item=f"{name}, l0 {ours.l0:.1f}: dead", here=ours.n_dead, unit="latents", how=HOW),
        ]
    return items


def _found_again(setting: Setting) -> list[Item]:
    """Return how well latents of the model are found among those of each shuffled one, at the largest l0."""
    own, *others = (
        list(each.values())[-1].W_dec.detach()
        for each in (setting.curve, *setting.of_shuffled.values())
    )
    return [
        Item(
            item=f"latents of the model in those of the one shuffled by {seed}: MMCS",
            here=str(matching(own, theirs, seed=setting.seed).mmcs),
            how=HOW,
        )
        for seed, theirs in zip(setting.of_shuffled, others, strict=True)
    ]


def _drawn(found: Mapping[str, Beside], key: str) -> str:
    return str(
        svg(
            {name: [(row.l0, row.fvu) for row in each.rows[key]] for name, each in found.items()},
            title=f"FVU of the model and of the shuffled models, {WORDS[key]}",
            x=Axis(label="l0", log=True),
            y=Axis(label="FVU, held out", low=0.0, high=1.0),
        )
    )


def _apart(between: Sequence[Gap]) -> str:
    names = between[0].left
    return str(
        svg(
            {
                name: [(g.l0, v) for g in between if (v := g.left[name].value) is not None]
                for name in names
            },
            title="FVU of the dictionary less that of PCA, of the model and of the shuffled models",
            x=Axis(label="l0", log=True),
            y=Axis(label="FVU less PCA's", marks=(0.0,)),
        )
    )
