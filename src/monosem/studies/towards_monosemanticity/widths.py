"""Widths: how much of the MLP a dictionary explains, and how often its latents fire, width by width."""

import numpy as np
from jaxtyping import Float, Int64

from monosem.core.config import Json
from monosem.metrics.density import Bimodality, bimodality, density, histogram
from monosem.rendering.histogram import svg as bars
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Certainty, Figure, Item, Value
from monosem.studies.towards_monosemanticity.setting import Setting

READ: Certainty = "read in the paper"
HOW = "monosem.metrics.evaluate.evaluate_many; monosem study towards-monosemanticity"
PAPER: dict[int, Value] = {8: "0.79 (A/1, 8 ×)", 256: "0.945 (A/5, 256 ×)"}
"""Loss recovered against zeroing the MLP, on their model and text."""


def widths(setting: Setting) -> Figure:
    """Return FVU, loss recovered, l0 and dead latents of every width."""
    rows = {f"{ratio} ×": row for ratio, row in setting.evaluated(setting.widths).items()}
    items = [
        item
        for ratio, (name, row) in zip(setting.widths, rows.items(), strict=True)
        for item in _items(f"{name} ({row['n_latents']:,} latents)", row, PAPER.get(ratio))
    ]
    drawings = {
        "What is left of the variance": _line(rows, setting, "fvu", "FVU, held out"),
        "Loss recovered": _line(rows, setting, "loss_recovered_zero", "loss recovered (zero)"),
    }
    drawings = {caption: line for caption, line in drawings.items() if line}
    return Figure(
        name="widths",
        title="What dictionaries of several widths explain",
        text=(
            "Dictionaries of the MLP's neurons, each trained on the same stream from its beginning (the "
            "widest on less of it, where the note below says so), with a penalty on L1 and dead latents "
            "resampled at the paper's shares of the run, which are few steps of a short one: where most of "
            "the living would be silent in so short a window none are, and the note says of which widths. "
            "Their l0 is steered to one value for all, where the paper keeps one coefficient: so widths are "
            "compared at the same sparsity. Loss recovered against zeroing the MLP flatters, as the authors "
            "say. A wide dictionary learns from more tokens than a narrow one (the paper's had eight "
            "billion): where a wider one explains less, it was stopped early, and says nothing of what its "
            "width is worth."
        ),
        drawings=tuple(drawings.values()),
        captions=tuple(drawings),
        items=tuple(items),
        notes={
            "site": setting.site,
            "tokens trained on": ", ".join(
                f"{r} × {setting.n_tokens(r):,}" for r in setting.widths
            ),
            "peak learning rate": ", ".join(f"{r} × {setting.lr(r):g}" for r in setting.widths),
            "not resampled": ", ".join(f"{r} ×" for r in setting.widths if not setting.resamples(r))
            or "none",
        },
    )


def _items(words: str, row: Json, paper: Value) -> list[Item]:
    """Return the measures of one width; `paper`: its loss recovered."""
    recovered = row["loss_recovered_zero"]
    return [
        Item(
            item=f"{words}: l0",
            here=float(row["l0"]),
            paper="under 10 to 20",
            paper_certainty=READ,
            how=HOW,
        ),
        Item(item=f"{words}: FVU", here=float(row["fvu"]), how=HOW),
        Item(
            item=f"{words}: loss recovered (zero)",
            here="void" if recovered is None else float(recovered),
            paper=paper,
            paper_certainty=READ if paper else "—",
            unit="share",
            how=HOW,
        ),
        Item(item=f"{words}: dead", here=int(row["n_dead"]), unit="latents", how=HOW),
    ]


def _line(rows: dict[str, dict[str, object]], setting: Setting, key: str, label: str) -> str:
    """Return a measure over widths; nothing where it is void at all of them."""
    points = [
        (float(ratio), float(row[key]))  # pyright: ignore[reportArgumentType]
        for ratio, row in zip(setting.widths, rows.values(), strict=True)
        if row[key] is not None
    ]
    if not points:
        return ""
    return str(
        svg(
            {label: points},
            title=label,
            x=Axis(label="latents / neurons", log=True),
            y=Axis(label=label, low=0.0),
        )
    )


def _density_items(
    name: str, fired: Int64[np.ndarray, " n"], alive: Float[np.ndarray, " alive"], found: Bimodality
) -> list[Item]:
    how = "monosem.metrics.density; monosem study towards-monosemanticity"
    theirs = name == "8 ×"
    sure: Certainty = READ if theirs else "—"
    return [
        Item(
            item=f"{name}: median density of living latents", here=float(np.median(alive)), how=how
        ),
        Item(
            item=f"{name}: dead",
            here=int((fired == 0).sum()),
            unit="latents",
            paper="168 of 4,096 (A/1)" if theirs else None,
            paper_certainty=sure,
            how=how,
        ),
        Item(
            item=f"{name}: two modes",
            here=f"{'yes' if found.two else 'no'}, separation {found.separation}"
            if found.separation.applicable
            else str(found.separation),
            paper="yes, an ultralow one near 1e-7" if theirs else None,
            paper_certainty=sure,
            how=how,
        ),
    ]


def densities(setting: Setting) -> Figure:
    """Return histograms of how often latents fire, and whether there are two modes."""
    counted = {f"{ratio} ×": firing for ratio, firing in setting.fired(setting.widths).items()}
    n_tokens = next(iter(counted.values())).total
    items: list[Item] = []
    drawings: list[str] = []
    for name, firing in counted.items():
        fired = np.asarray(firing.n_fired)
        edges, counts = histogram(fired, firing.total)
        drawings.append(
            str(
                bars(
                    counts, edges, title=f"{name}: density", log=False, powers=True, unit="density"
                )
            )
        )
        alive = density(fired[fired > 0], firing.total)
        found = bimodality(fired, firing.total, seed=setting.seed)
        items += _density_items(name, fired, alive, found)
    return Figure(
        name="densities",
        title="How often latents fire",
        text=(
            "The share of tokens on which each latent fires, on a logarithmic axis. The paper's histograms "
            "have a second mode near one token in ten million, of latents without a meaning: fewer "
            f"tokens than that cannot show it, and here {n_tokens:,} were read."
        ),
        drawings=tuple(drawings),
        captions=tuple(counted),
        items=tuple(items),
        notes={"tokens": f"{n_tokens:,}"},
    )
