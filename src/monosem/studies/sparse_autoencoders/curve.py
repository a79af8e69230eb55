"""Faithful and sparse: what is left of the variance against how many latents fire, beside baselines.

Every baseline is measured at the l0 that the dictionary beside it has on the same text, or, where it cannot
have that, at an l0 of its own that is said. Who leaves less is told from an interval over contexts
(`matched.py`).
"""

import math

from monosem.rendering import table
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.beside import OURS, Beside, measured, of_residual, words
from monosem.studies.sparse_autoencoders.matched import MATCHED, Row, verdict
from monosem.studies.sparse_autoencoders.opponents import IDENTITY
from monosem.studies.sparse_autoencoders.setting import Setting

HOW = "studies/sparse_autoencoders/beside.py; monosem study sparse-autoencoders-find-features"
BASES, CODES, ONE_SIGN = (
    (OURS, "neurons", "random", "pca", "ica"),
    (OURS, "nmf", "classical", "lasso"),
    (OURS, "pca-first", "pca-one", "ica-one"),
)
"""Drawn together."""


def curve(setting: Setting, *, mlp: bool) -> Figure:
    """Return FVU and perplexity against l0, at the residual site or at the MLP's neurons."""
    site = setting.mlp if mlp else setting.residual
    found = measured(list(setting.neurons.values()), setting, site) if mlp else of_residual(setting)
    name = "mlp" if mlp else "residual"
    where = "MLP neurons" if mlp else "the residual stream"
    drawn = [
        (f"{label}: {what}", _drawn(found, site, some, key, label))
        for key, label in (("fvu", "FVU, held out"), ("perplexity", "perplexity, spliced"))
        for what, some in (
            ("bases", BASES),
            ("codes", CODES),
            ("the first axes, or one sign of each", ONE_SIGN),
        )
        if len([n for n in some if n in found.rows]) > 1
    ]
    return Figure(
        name=f"curve-{name}",
        title=f"Sparse and faithful, at {where}",
        text=(
            f"{'Untied' if mlp else 'Tied'} dictionaries with a penalty on L1, and every baseline with as "
            "many latents on in the mean of the held-out text. The codes of classical dictionary learning "
            "and NMF are solved for each vector, which is more than a layer could compute; all others are "
            f"read off by one product. {who_won(found, site)}"
        ),
        drawings=(*(drawing for _, drawing in drawn), *_tables(found, site)),
        captions=(
            *(caption for caption, _ in drawn),
            "FVU by the dictionary's l0; the most faithful first",
            "Loss recovered, of the mean ablation (—: that costs too little to be divided by)",
            f"Perplexity with the reconstruction spliced in; {found.plain:.2f} without",
        ),
        items=(*_items(found, name, site), *(() if mlp else (_paper(found),))),
        notes=_notes(found, setting, site),
    )


def _notes(found: Beside, setting: Setting, site: str) -> dict[str, str]:
    scale = setting.scale
    return {
        "site": site,
        "tokens trained on": f"{scale.n_tokens:,}",
        "tokens baselines are fitted to": f"{scale.n_fit:,}, where nothing else is said",
        **{words(name, site): what for name, what in found.learned.items()},
        "held-out tokens": f"{scale.n_eval:,}",
        "l0 of baselines": _line(found, site),
        "who leaves less": "95 % interval of the difference, contexts drawn again; one seed of everything",
        "one sign": "each axis read for the sign to which its coordinates are skewed",
        "PCA and ICA": "two latents an axis, one a sign, as signed coordinates are; the k largest",
    }


def _line(found: Beside, site: str) -> str:
    """Return how baselines come to the dictionary's l0, and what that adds at most to what they leave."""
    on = "on the straight line between the whole numbers below and above the dictionary's"
    if found.overstated:
        name, most = max(found.overstated.items(), key=lambda each: each[1])
        on += (
            f", which adds {most:.4f} to a baseline's FVU at most ({words(name, site)}; each latent more is "
            "taken to explain less than the one before)"
        )
    return f"{on}; of NMF and LASSO under a penalty sought for the dictionary's own"


def who_won(found: Beside, site: str) -> str:
    """Return in words which baselines leave less of the variance than the dictionary, as much, and where."""
    at: dict[str, dict[str, list[str]]] = {}
    for name, rows in found.rows.items():
        if name in (OURS, IDENTITY):
            continue
        for ours, row in zip(found.rows[OURS], rows, strict=True):
            what = verdict(row, ours)
            own = f"{ours.l0:.0f}: {row.l0:.1f}" if what == "unmatched" else f"{ours.l0:.0f}"
            at.setdefault(what, {}).setdefault(words(name, site), []).append(own)

    def each(what: str) -> str:
        return "; ".join(f"{name} (l0 {', '.join(some)})" for name, some in at[what].items())

    if set(at) <= {"more"}:
        return "At every l0 here the dictionary leaves less of the variance than any of them."
    parts = [
        f"Less of the variance than the dictionary is left by {each('less')}."
        if "less" in at
        else "None of them leaves less of the variance than the dictionary.",
        *([f"Tied, within an interval over contexts: {each('tied')}."] if "tied" in at else []),
        *(
            [f"Not compared, since their l0 is more than {MATCHED:.0%} off: {each('unmatched')}."]
            if "unmatched" in at
            else []
        ),
        *([f"Not known: {each('unknown')}."] if "unknown" in at else []),
    ]
    return " ".join(parts)


def _drawn(found: Beside, site: str, names: tuple[str, ...], key: str, label: str) -> str:
    series = {
        words(name, site): [(row.l0, float(getattr(row, key))) for row in found.rows[name]]
        for name in names
        if name in found.rows
    }
    return str(
        svg(
            series,
            title=label,
            x=Axis(label="l0", log=True),
            y=Axis(
                label=label,
                log=key == "perplexity",
                low=0.0 if key == "fvu" else None,
                high=min(1.2, _largest(found)) if key == "fvu" else None,
                marks=(found.plain,) if key == "perplexity" else (),
            ),
        )
    )


def _largest(found: Beside) -> float:
    known = [row.fvu for rows in found.rows.values() for row in rows if math.isfinite(row.fvu)]
    return max(known, default=1.0)


def _tables(found: Beside, site: str) -> tuple[str, ...]:
    """Return all of them as three tables: a row a method, a column a dictionary."""
    header = ["l0", *(f"{row.l0:.1f}" for row in found.rows[OURS])]
    rows = [
        (words(name, site), list(zip(found.rows[OURS], some, strict=True)))
        for name, some in sorted_rows(found)
    ]
    cells: list[list[list[str]]] = [
        [[name, *(_left(row, ours) for ours, row in some)] for name, some in rows],
        [[name, *(_share(row.recovered) for _, row in some)] for name, some in rows],
        [[name, *(f"{row.perplexity:.2f}" for _, row in some)] for name, some in rows],
    ]
    return tuple(str(table.html(header, each)) for each in cells)


def _left(row: Row, ours: Row) -> str:
    """Return the FVU, and its own l0 where that is another."""
    matched = abs(row.l0 - ours.l0) <= MATCHED * ours.l0
    return f"{row.fvu:.3f}" if matched else f"{row.fvu:.3f} (at {row.l0:.1f})"


def sorted_rows(found: Beside) -> list[tuple[str, list[Row]]]:
    """Return names and rows of those with a row for each dictionary, by falling faithfulness."""
    full = {n: rows for n, rows in found.rows.items() if n != IDENTITY}
    return sorted(full.items(), key=lambda item: sum(row.fvu for row in item[1]))


def _share(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:.3f}"


def _items(found: Beside, where: str, site: str) -> list[Item]:
    items: list[Item] = []
    for i, ours in enumerate(found.rows[OURS]):
        l0 = f"{where}, l0 {ours.l0:.1f}"
        items.append(Item(item=f"{l0}: FVU of the dictionary", here=ours.fvu, how=HOW))
        for name, rows in found.rows.items():
            if name not in (OURS, IDENTITY):
                said = f"{l0}: FVU of {words(name, site)}, {rows[i].l0:.1f} on"
                items.append(Item(item=said, here=rows[i].fvu, how=HOW))
        items += [
            Item(item=f"{l0}: dead latents", here=ours.n_dead, unit="latents", how=HOW),
            Item(
                item=f"{l0}: perplexity, {found.plain:.2f} without", here=ours.perplexity, how=HOW
            ),
        ]
    for row in found.rows.get(IDENTITY, []):
        said = f"{where}: FVU of identity and ReLU, {row.l0:.1f} on"
        items.append(Item(item=said, here=row.fvu, how=HOW))
    for name, why in found.missing.items():
        said = f"{where}: {words(name, site)}"
        items.append(Item(item=said, here=f"not applicable: {why}", how=HOW))
    return items


def _paper(found: Beside) -> Item:
    row = found.rows[OURS][-1]
    return Item(
        item=f"perplexity without and with the reconstruction, at the largest l0 here ({row.l0:.1f})",
        here=f"{found.plain:.1f} → {row.perplexity:.1f}",
        paper="25 → 40 (Pythia-70M, layer 2; its l0 is not known to us)",
        paper_certainty="read in the paper",
        how=HOW,
    )
