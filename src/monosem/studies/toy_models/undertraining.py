"""Undertraining: of the language model, and of the dictionary.

A model at several steps of its training × dictionaries of several lengths of training, two seeds each:
what is left of the variance on held-out text, whether two seeds find the same directions, and how far the
plainest explanations foretell latents (`metrics/token_explanations.py`; those in words come later). The
last two are beside chance, and dead latents count in the first two. Intervals are over latents of that one
pair of seeds: how far another pair would be from it, two trainings cannot say.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.matching import matching
from monosem.metrics.measure import Measure
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.metrics.sample import draw
from monosem.metrics.stream import Place, activations, blocks, ordinary_mean, visit
from monosem.metrics.token_explanations import N_LISTED, token_explanations
from monosem.models.language_model import LanguageModel
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.running import trained
from monosem.text.tokens import TokenStore
from monosem.training.trainer import TrainConfig

HELD_OUT = 20_000
"""Held-out tokens that the variance is measured on, and that explanations are learnt and scored on."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model and one length of training."""

    model_step: int
    n_tokens: int
    fvu: float
    """On held-out text, the mean over seeds."""
    mmcs: float
    """From one seed's latents to the other's."""
    chance: float
    """MMCS with the entries of the other seed's directions dealt out anew."""
    low: float
    """Ends of the interval around `mmcs`, of drawing anew the latents of the one seed."""
    high: float
    explained: Measure
    """How far twenty tokens foretell a latent of the first seed, the median."""


def undertraining(
    models: Mapping[int, LanguageModel],
    store: TokenStore,
    site: str,
    n_tokens: Sequence[int],
    out: Path,
    *,
    n_latents: int = 512,
    k: int = 16,
    seed: int = 0,
    fresh: bool = False,
) -> Figure:
    """Return the figure for `models` by step; dictionaries are kept in `out`, and used again.

    `fresh` trains those anew that are refused.
    """
    cells: list[Cell] = []
    with progress("undertraining", total=len(models) * len(n_tokens)) as bar:
        for step, model in models.items():
            for n in n_tokens:
                kinds = tuple(
                    TopKConfig(n_latents=n_latents, k=k, seed=s) for s in (seed, seed + 1)
                )
                config = TrainConfig(
                    site=site, dictionaries=kinds, n_tokens=n, batch_size=512, seed=seed
                )
                name = f"step-{step}-tokens-{n}"
                run = trained(config, model, store, out, name=name, fresh=fresh)
                cells.append(_cell(step, n, [run[name] for name in run.names], model, store, site))
                bar.advance(1)
    drawings = {
        "FVU, held out": _drawn(cells, lambda c: c.fvu, "FVU"),
        "MMCS across seeds": _drawn(cells, lambda c: c.mmcs, "MMCS across seeds"),
        "Score of explanations by tokens": _drawn(
            cells, lambda c: c.explained.value, "score of explanations"
        ),
    }
    drawings = {caption: drawing for caption, drawing in drawings.items() if drawing}
    return Figure(
        name="undertraining",
        title="Undertraining, of the model and of the dictionary",
        text=(
            "One line a length of the dictionary's training. Left, what is left of the variance on held-out "
            "text; then how well one seed's latents are found again in another's, whose interval is over "
            "latents of this pair of seeds and says nothing of another pair; then how far a list of "
            f"{N_LISTED} tokens, the plainest explanation, foretells the first seed's latents on other text. "
            "An untrained model may be easier to reconstruct than a trained one: that says nothing for the "
            "features found in it."
        ),
        drawings=tuple(drawings.values()),
        captions=tuple(drawings),
        items=tuple(_items(cells)),
        notes={"site": site, "latents": str(n_latents), "k": str(k)},
    )


def _cell(
    step: int,
    n_tokens: int,
    pair: Sequence[Dictionary[Any]],
    model: LanguageModel,
    store: TokenStore,
    site: str,
) -> Cell:
    left, right = (d.W_dec.detach() for d in pair)
    found = matching(left, right).mmcs
    fvus = [_fvu(dictionary, model, store, site) for dictionary in pair]
    return Cell(
        model_step=step,
        n_tokens=n_tokens,
        fvu=sum(fvus) / len(fvus),
        mmcs=found.value if found.value is not None else math.nan,
        chance=found.null if found.null is not None else math.nan,
        low=found.low if found.low is not None else math.nan,
        high=found.high if found.high is not None else math.nan,
        explained=_explained(pair[0], model, store, site),
    )


def _explained(
    dictionary: Dictionary[Any], model: LanguageModel, store: TokenStore, site: str
) -> Measure:
    sample = draw(dictionary, Place(model, store, site), n_tokens=HELD_OUT)
    return token_explanations(sample, store.vocab_size).score


@torch.no_grad()
def _fvu(dictionary: Dictionary[Any], model: LanguageModel, store: TokenStore, site: str) -> float:
    place = Place(model, store, site)
    sums = ReconstructionSums(mean=ordinary_mean(place, HELD_OUT, 0, 4096))
    for block in blocks(store, visit(store, "heldout", 0), 4096):
        x = activations(place, block)[block.ordinary]
        sums.add(x, dictionary(x))
        if sums.n_tokens >= HELD_OUT:
            break
    return sums.fvu


def _items(cells: Sequence[Cell]) -> list[Item]:
    how = "studies/toy_models/undertraining.py; monosem toy undertraining --checkpoints …"
    return [
        Item(
            item=f"{words}, model at step {c.model_step:,}, {c.n_tokens:,} tokens", here=v, how=how
        )
        for c in cells
        for words, v in (
            ("FVU", c.fvu),
            ("MMCS", c.mmcs),
            ("MMCS by chance", c.chance),
            ("interval of MMCS over latents", f"[{c.low:.3g}, {c.high:.3g}]"),
            (f"score of explanations by {N_LISTED} tokens", str(c.explained)),
        )
    ] + [Item(item="score of explanations in words", here="missing: they come later", how="—")]


def _drawn(cells: Sequence[Cell], of: Callable[[Cell], float | None], label: str) -> str:
    """Return one line a length of training; nothing where no cell has a number."""
    series = {
        f"{n:,} tokens": [
            (float(max(c.model_step, 1)), value)
            for c in cells
            if c.n_tokens == n and (value := of(c)) is not None and math.isfinite(value)
        ]
        for n in dict.fromkeys(c.n_tokens for c in cells)
    }
    if not any(series.values()):
        return ""
    return str(
        svg(
            series,
            title=label,
            x=Axis(label="step of the language model", log=True),
            y=Axis(label=label, low=0.0),
        )
    )
