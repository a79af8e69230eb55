"""From a feature database to what pages draw: `FeatureView`s, example groups, rows of the list."""

from collections.abc import Sequence
from typing import Any

from monosem.features.database import FeatureDatabase
from monosem.features.feature import Example, Feature, Window
from monosem.rendering.feature import N_INTERVALS, ExampleGroup, ExampleView, FeatureView
from monosem.rendering.template import share

BEFORE, AFTER = 14, 10
"""Tokens shown before and after the one that fired."""


def feature_view(
    database: FeatureDatabase,
    feature: Feature,
    *,
    remark: str = "",
    n_top: int = 20,
    n_per_interval: int = 5,
    n_random: int = 10,
    fold: bool = False,
) -> FeatureView:
    """Return everything a panel shows of one feature; with `fold` only the top examples lie open."""
    return FeatureView(
        index=feature.index,
        unit=database.unit,
        status=feature.status,
        label=feature.label,
        density=feature.density,
        n_fired=feature.n_fired,
        max_activation=feature.max_activation,
        moments=_moments(feature),
        counts=[float(c) for c in feature.histogram],
        edges=[float(e) for e in feature.histogram_edges],
        promoted=[(piece, value) for _, piece, value in feature.top_logits],
        suppressed=[(piece, value) for _, piece, value in feature.bottom_logits],
        neighbours=feature.neighbours,
        neurons=feature.neurons,
        groups=_groups(database, feature, n_top, n_per_interval, n_random, fold),
        remark=remark,
    )


def example_view(database: FeatureDatabase, example: Example) -> ExampleView:
    """Return one example with the tokens around it."""
    window = database.window(example, before=BEFORE, after=AFTER)
    return ExampleView(
        pieces=window.pieces,
        activations=window.activations,
        focus=window.focus,
        activation=example.activation,
        row_start=window.row_start,
        document=_document(window),
    )


def _document(window: Window) -> str:
    return window.document.name


def _moments(feature: Feature) -> list[tuple[str, float]]:
    if feature.n_fired == 0:
        return []
    return [
        ("mean when active", feature.mean_activation),
        ("skewness", feature.skew),
        ("kurtosis", feature.kurtosis),
    ]


def _groups(
    database: FeatureDatabase,
    feature: Feature,
    n_top: int,
    n_per_interval: int,
    n_random: int,
    fold: bool,
) -> list[ExampleGroup]:
    examples = database.examples(feature.index)
    top = [e for e in examples if e.kind == "top"][:n_top]
    drawn = [e for e in examples if e.kind == "random"][:n_random]
    groups = [_group(database, "Strongest", "the highest activations", top, False)]
    for interval in reversed(range(N_INTERVALS)):
        inside = [e for e in examples if e.kind == "interval" and e.interval == interval]
        low = feature.max_activation * interval / N_INTERVALS
        high = feature.max_activation * (interval + 1) / N_INTERVALS
        part = _share_within(feature, low, high)
        note = f"activations {low:.2f} – {high:.2f}, {share(part)} of its firings"
        title = f"Interval {interval + 1} of {N_INTERVALS}"
        groups.append(_group(database, title, note, inside[:n_per_interval], fold))
    groups.append(_group(database, "At random", "drawn evenly from all its firings", drawn, fold))
    return [g for g in groups if g.examples]


def _group(
    database: FeatureDatabase, title: str, note: str, examples: Sequence[Example], folded: bool
) -> ExampleGroup:
    views = [example_view(database, e) for e in examples]
    return ExampleGroup(title=title, note=note, examples=views, folded=folded)


def _share_within(feature: Feature, low: float, high: float) -> float:
    """Share of the firings between `low` and `high`, bars of the histogram counted by overlap."""
    counts, edges = feature.histogram, feature.histogram_edges
    inside = 0.0
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        overlap = min(float(right), high) - max(float(left), low)
        if overlap > 0 and right > left:
            inside += float(count) * overlap / float(right - left)
    return inside / max(feature.n_fired, 1)


Row = dict[str, Any]
"""A row of the list page."""


def list_row(database: FeatureDatabase, feature: Feature) -> Row:
    """Return what the list shows of a feature: its numbers, promoted tokens and strongest example."""
    strongest = database.examples(feature.index, "top")[:1]
    return {
        "feature": feature,
        "example": example_view(database, strongest[0]) if strongest else None,
        "promoted": [piece for _, piece, _ in feature.top_logits[:4]] if feature.n_fired else [],
    }
