"""Undertraining: of the language model, and of the dictionary.

A model at several steps of its training × dictionaries of several lengths of training, two seeds each:
what is left of the variance on held-out text, and whether two seeds find the same directions. Both are
beside chance, and dead latents count. The interval of MMCS is over latents of that one pair of seeds: how
far another pair would be from it, two trainings cannot say. Scores of explanations, which the question also
asks for, are not measured; the figure says so.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.core.progress import progress
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.matching import matching
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.metrics.stream import Place, activations, blocks, ordinary_mean, visit
from monosem.models.language_model import LanguageModel
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.running import trained
from monosem.text.tokens import TokenStore
from monosem.training.trainer import TrainConfig

HELD_OUT = 20_000
"""Held-out tokens that the variance is measured on."""


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
    return Figure(
        name="undertraining",
        title="Undertraining, of the model and of the dictionary",
        text=(
            "One line a length of the dictionary's training. Left, what is left of the variance on held-out "
            "text; right, how well one seed's latents are found again in another's, whose interval is over "
            "latents of this pair of seeds and says nothing of another pair. An untrained model may be "
            "easier to reconstruct than a trained one: that says nothing for the features found in it."
        ),
        drawings=(_drawn(cells, "fvu", "FVU"), _drawn(cells, "mmcs", "MMCS across seeds")),
        captions=("FVU, held out", "MMCS across seeds"),
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
    )


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
        )
    ] + [Item(item="score of explanations", here="missing: explanations come later", how="—")]


def _drawn(cells: Sequence[Cell], key: str, label: str) -> str:
    series = {
        f"{n:,} tokens": [
            (float(max(c.model_step, 1)), float(getattr(c, key))) for c in cells if c.n_tokens == n
        ]
        for n in dict.fromkeys(c.n_tokens for c in cells)
    }
    return str(
        svg(
            series,
            title=label,
            x=Axis(label="step of the language model", log=True),
            y=Axis(label=label, low=0.0),
        )
    )
