"""The control: the same dictionaries of a model whose matrices have their entries in another order.

It has learnt nothing, and has the same widths and norms. What a dictionary reaches there, it reaches without
any features of language.
"""

from monosem.metrics.matching import matching
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.beside import OURS, WORDS, Beside, measured
from monosem.studies.sparse_autoencoders.setting import Setting

HOW = "models/randomised.py; monosem study sparse-autoencoders-find-features"
BESIDE = ("pca",)


def control(setting: Setting) -> Figure:
    """Return FVU against l0 at the residual site of the model, and of the shuffled one."""
    site = setting.residual
    found = {
        "the model": measured(list(setting.curve.values()), setting, site, names=BESIDE),
        "shuffled": measured(
            list(setting.of_shuffled.values()), setting, site, model=setting.shuffled, names=BESIDE
        ),
    }
    last = [list(each.values())[-1].W_dec.detach() for each in (setting.curve, setting.of_shuffled)]
    return Figure(
        name="control",
        title="A model that has learnt nothing",
        text=(
            "The entries of each weight matrix are shuffled, and the same dictionaries are trained on what "
            f"the model then does. {said(found)} PCA stands beside both: it sees how few dimensions "
            "activations fill, and nothing else of them."
        ),
        drawings=tuple(_drawn(found, key) for key in (OURS, "pca")),
        captions=("What the dictionary leaves", "What PCA leaves"),
        items=(
            *(item for name, each in found.items() for item in _items(name, each)),
            Item(
                item="latents of the model in those of the shuffled one: MMCS",
                here=str(matching(*last, seed=setting.seed).mmcs),
                how=HOW,
            ),
        ),
        notes={"site": site},
    )


def said(found: dict[str, Beside]) -> str:
    """Return in words at how many l0s less is left of which of the two, by dictionaries and by PCA."""
    n_easier = {
        key: sum(
            b.fvu < a.fvu for a, b in zip(*(each.rows[key] for each in found.values()), strict=True)
        )
        for key in (OURS, "pca")
    }
    n = len(next(iter(found.values())).rows[OURS])
    return (
        f"Dictionaries leave less of the shuffled model's variance than of the model's at "
        f"{n_easier[OURS]} of {n} l0s, and PCA at {n_easier['pca']}."
    )


def _items(name: str, found: Beside) -> list[Item]:
    items: list[Item] = []
    for i, ours in enumerate(found.rows[OURS]):
        beside = f" (PCA {found.rows['pca'][i].fvu:.3f})"
        items += [
            Item(item=f"{name}, l0 {ours.l0:.1f}: FVU{beside}", here=ours.fvu, how=HOW),
            Item(item=f"{name}, l0 {ours.l0:.1f}: dead", here=ours.n_dead, unit="latents", how=HOW),
        ]
    return items


def _drawn(found: dict[str, Beside], key: str) -> str:
    return str(
        svg(
            {name: [(row.l0, row.fvu) for row in each.rows[key]] for name, each in found.items()},
            title=f"FVU of the model and of the shuffled model, {WORDS[key]}",
            x=Axis(label="l0", log=True),
            y=Axis(label="FVU, held out", low=0.0, high=1.0),
        )
    )
