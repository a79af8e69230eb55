"""The comparison of the four arms: means over seeds with intervals, and differences seed by seed.

`tiny` shows that it works, in a minute; `small` is half of 1L-a's width on 1.5 million tokens, ten minutes of
one core for all twelve models on contexts of 64 and a vocabulary of 512; `paper` is 1L-a's shape, each model
on as many tokens as 1L-a read. The paper's own models are far larger.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from scipy.stats import t as student

from monosem.core.config import content_hash, to_json
from monosem.core.errors import unknown_name
from monosem.studies import report
from monosem.studies.report import Figure, Item, Stage
from monosem.studies.solu.arms import ARMS, KEPT, Reading, Setup, read_arms, train_arms
from monosem.text.store import TokenStore

TITLE = "SoLU: four arms"
LEAD = (
    "ReLU, GELU, SoLU and SoLU with its LayerNorm: models of one shape, trained on the same tokens with the "
    "same seeds. Intervals are of the mean over seeds (95 %, Student's t)."
)
SCALES = {
    "tiny": Setup(
        d_model=16,
        n_heads=2,
        d_mlp=32,
        n_tokens=30_000,
        n_seeds=2,
        n_measured=4096,
        n_units=12,
    ),
    "small": Setup(
        d_model=64,
        d_mlp=256,
        n_tokens=1_500_000,
        batch_contexts=16,
        init_std=0.125,
        n_measured=32_768,
    ),
    "paper": Setup(n_seeds=5),
}
BASE = "relu"
VERSION = 1
"""Of the figures' contents: one that was kept from another version is made again."""

Readings = dict[str, list[Reading]]


def solu(
    out: Path,
    store: TokenStore,
    *,
    scale: str = "small",
    device: torch.device | None = None,
) -> list[Figure]:
    """Train, measure and compare the arms; write the report into `out`.

    Models and readings that are there are used again: called anew after an interruption, it goes on.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    setup = SCALES[scale]
    found = read_arms(out, store, setup, train_arms(out, store, setup, device=device))
    key = content_hash([VERSION, to_json(setup), to_json(found)])
    makers = {"loss": _loss, "polysemanticity": _kinds, "small-activations": _small}
    stages = {n: Stage(make=partial(make, found, setup), key=key) for n, make in makers.items()}
    figures = report.run_stages(stages, out)
    report.write(figures, out, title=TITLE, lead=LEAD)
    return figures


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, 2.484137711755943)
    """
    n = len(values)
    width = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5
    return statistics.fmean(values), width


def _loss(found: Readings, setup: Setup) -> Figure:
    items = _means(found, "held-out loss", "nats", lambda r: r.loss)
    return Figure(
        name="loss",
        title="Loss",
        text="Held-out loss of each arm, and what it differs from ReLU's with the same seed. The paper found "
        "SoLU without LayerNorm worse, and SoLU with it as good as GELU.",
        items=tuple(items),
        notes=_notes(setup),
    )


def _kinds(found: Readings, setup: Setup) -> Figure:
    items = [
        *_means(found, "kinds of context of a neuron", "effective number", lambda r: r.effective),
        *_means(found, "share of a neuron's heaviest kind", "", lambda r: r.largest),
        *_means(found, "the same of random tokens", "", lambda r: r.chance),
    ]
    return Figure(
        name="polysemanticity",
        title="Polysemanticity of neurons",
        text="In how many kinds of context a neuron fires (median over neurons). The paper asked people: "
        "with SoLU more neurons had one meaning in their largest activations (about 60 % instead of 35 %, "
        "from memory). Here all levels of activation count, so the two are not the same number.",
        items=tuple(items),
        notes=_notes(setup),
    )


def _small(found: Readings, setup: Setup) -> Figure:
    items: list[Item] = []
    for place, share in enumerate(KEPT):
        n = max(1, round(share * setup.d_mlp))
        items += _means(
            found,
            f"loss recovered by the {n} largest of {setup.d_mlp} activations",
            "",
            lambda r, place=place: r.recovered[place],
        )
    return Figure(
        name="small-activations",
        title="What small activations carry",
        text="The loss that the last MLP recovers over its mean output, when of each token only the "
        "activations of largest size are kept and the others put to their means. What is missing to 1 is "
        "carried by the small ones, where the paper suspects superposition to have gone.",
        items=tuple(items),
        notes=_notes(setup),
    )


def _means(
    found: Readings, what: str, unit: str, value: Callable[[Reading], float | None]
) -> list[Item]:
    """Return the mean of every arm, its interval, and its difference from ReLU."""
    items: list[Item] = []
    how = "monosem.studies.solu.study.solu"
    base = [value(r) for r in found[BASE]]
    for arm in ARMS:
        own = [value(r) for r in found[arm]]
        known = [v for v in own if v is not None]
        if len(known) < len(own):
            none = len(own) - len(known)
            void = f"not applicable: {none} of {len(own)} models have none"
            items.append(Item(item=f"{arm}: {what}", here=void, how=how, unit=unit))
            continue
        mean, width = interval(known)
        items.append(Item(item=f"{arm}: {what}", here=mean, how=how, unit=unit))
        items.append(Item(item=f"{arm}: {what}, ±", here=width, how=how, unit=unit))
        pairs = [v - b for v, b in zip(known, base, strict=True) if b is not None]
        if arm != BASE and len(pairs) == len(known):
            mean, width = interval(pairs)
            items.append(Item(item=f"{arm} − {BASE}: {what}", here=mean, how=how, unit=unit))
            items.append(Item(item=f"{arm} − {BASE}: {what}, ±", here=width, how=how, unit=unit))
    return items


def _notes(setup: Setup) -> dict[str, str]:
    shape = f"{setup.n_layers} × {setup.d_model}, {setup.d_mlp} neurons"
    return {"shape": shape, "tokens": f"{setup.n_tokens:,}", "seeds": f"{setup.n_seeds}"}
