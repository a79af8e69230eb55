"""Faithful and sparse: what is left of the variance against how many latents fire, beside baselines.

Every baseline is measured at the l0 that the dictionary beside it has on the same held-out tokens: the
k largest of its coordinates are kept.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from monosem.core.config import Json
from monosem.dictionaries.base import Dictionary
from monosem.metrics.evaluate import ALL_NEURONS, NEURONS, evaluate_many
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.setting import Setting

OURS = "dictionary"
WORDS = {
    NEURONS: "coordinates",
    "random": "random directions",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
}


def curve(setting: Setting, *, mlp: bool) -> Figure:
    """Return FVU and loss recovered against l0, at the residual site or at the MLP's neurons."""
    site = setting.mlp if mlp else setting.residual
    rows = measured(setting.neurons if mlp else setting.curve, setting, site)
    name = "mlp" if mlp else "residual"
    where = "MLP neurons" if mlp else "the residual stream"
    return Figure(
        name=f"curve-{name}",
        title=f"Sparse and faithful, at {where}",
        text=(
            f"{'Untied' if mlp else 'Tied'} dictionaries with a penalty on L1, beside neurons, random "
            "directions and the components of PCA and ICA, of which the k largest are kept: as many as "
            "latents of the dictionary fire. " + _who_won(rows)
        ),
        drawings=(
            _drawn(rows, "fvu", "FVU, held out"),
            _drawn(rows, "perplexity", "perplexity with the reconstruction spliced in"),
        ),
        captions=("What is left of the variance", "Perplexity"),
        items=(*_items(rows, name), *(() if mlp else (_paper(rows),))),
        notes={"site": site, "tokens trained on": f"{setting.scale.n_tokens:,}"},
    )


def _who_won(rows: list[dict[str, Json]]) -> str:
    """Return in words which baselines leave less of the variance than the dictionary, and where."""
    better = [
        f"{WORDS.get(name, name)} at l0 {row[OURS]['l0']:.0f}"
        for row in rows
        for name, measures in row.items()
        if name not in (OURS, ALL_NEURONS) and value(measures, "fvu") < value(row[OURS], "fvu")
    ]
    if not better:
        return "At every l0 here the dictionary leaves less of the variance than any of them."
    return f"Less of the variance than the dictionary is left by {', '.join(better)}."


def _paper(rows: list[dict[str, Json]]) -> Item:
    row = rows[-1][OURS]
    return Item(
        item=f"perplexity without and with the reconstruction, at the largest l0 here ({row['l0']:.1f})",
        here=f"{without(row):.1f} → {value(row, 'perplexity'):.1f}",
        paper="25 → 40 (Pythia-70M, layer 2; its l0 is not known to us)",
        paper_certainty="read in the paper",
        how="monosem.metrics.evaluate.evaluate_many; monosem study sparse-autoencoders-find-features",
    )


def measured(
    dictionaries: Mapping[float, Dictionary[Any]], setting: Setting, site: str
) -> list[dict[str, Json]]:
    """Return the measures of each dictionary and of the baselines at its l0, by name."""
    config = replace(setting.measuring, baselines=setting.scale.baselines)
    return [
        evaluate_many({OURS: dictionary}, setting.model, setting.store, config, site=site)
        for dictionary in dictionaries.values()
    ]


def value(row: Json, key: str) -> float:
    """Return a measure of one evaluation; `perplexity` is e to its loss, spliced."""
    if key == "perplexity":
        return math.exp(row["loss"] + row["delta_ce"])
    found = row[key]
    return math.nan if found is None else float(found)


def _drawn(rows: list[dict[str, Json]], key: str, label: str) -> str:
    names = [n for n in rows[0] if n != ALL_NEURONS]
    series = {
        WORDS.get(name, name): [(float(row[name]["l0"]), value(row[name], key)) for row in rows]
        for name in names
    }
    return str(
        svg(
            series,
            title=label,
            x=Axis(label="l0", log=True),
            y=Axis(label=label, log=key == "perplexity"),
        )
    )


def _items(rows: list[dict[str, Json]], where: str) -> list[Item]:
    how = "monosem.metrics.evaluate.evaluate_many; monosem study sparse-autoencoders-find-features"
    items: list[Item] = []
    for row in rows:
        ours = row[OURS]
        l0 = f"{where}, l0 {ours['l0']:.1f}"
        items.append(Item(item=f"{l0}: FVU of the dictionary", here=value(ours, "fvu"), how=how))
        for name, measures in row.items():
            if name in (OURS, ALL_NEURONS):
                continue
            words = f"{l0}: FVU of {WORDS.get(name, name)}, {measures['l0']:.1f} kept"
            items.append(Item(item=words, here=value(measures, "fvu"), how=how))
        items.append(Item(item=f"{l0}: dead latents", here=ours["n_dead"], unit="latents", how=how))
        items.append(
            Item(
                item=f"{l0}: perplexity, {without(ours):.2f} without",
                here=value(ours, "perplexity"),
                how=how,
            )
        )
    return items


def without(row: Json) -> float:
    """Return the perplexity of the model as it is."""
    return math.exp(row["loss"])
