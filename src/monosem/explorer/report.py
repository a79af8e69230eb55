"""The report: one HTML file with the metrics, the densities, and features good and bad.

It holds its style and script and asks for nothing else; a reader may keep it, send it, print it.
Ten features are chosen for their evidence and twenty drawn at random, failures included, because
a page of chosen examples alone says nothing of a dictionary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from monosem.core.errors import ConfigError
from monosem.explorer.evidence import PLAIN, POOL, Evidence, choose, draw, remark
from monosem.explorer.metrics import Metrics, language_model_table, metrics_table
from monosem.explorer.origin import origin_table
from monosem.explorer.summary import summarise
from monosem.explorer.sweep import pareto_plots
from monosem.explorer.view import feature_view
from monosem.features.database import FeatureDatabase
from monosem.features.feature import Feature
from monosem.rendering.feature import panel
from monosem.rendering.page import page
from monosem.rendering.template import render

N_TOP, N_PER_INTERVAL, N_RANDOM = 8, 2, 5
"""Examples a feature in a report; the explorer shows all of them."""


def write_report(
    databases: Mapping[str, FeatureDatabase],
    metrics: Mapping[str, Metrics],
    out: Path,
    *,
    title: str = "",
    language_model: Mapping[str, float] | None = None,
    chosen: int = 10,
    random: int = 20,
    seed: int = 0,
) -> Path:
    """Write the report on the first of `databases` to `out` and return its path.

    The others are compared by their metrics and densities, and a database of neurons also by
    neurons drawn at random. `metrics` are rows of the table by name; `language_model` holds its
    loss and its n-gram baselines' in nats.
    """
    if not databases:
        raise ConfigError("A report needs a feature database, got none. Pass at least one.")
    out = Path(out)
    document = report(
        databases,
        metrics,
        title=title,
        language_model=language_model,
        chosen=chosen,
        random=random,
        seed=seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")  # a killed writer's is written over
    partial.write_text(document, encoding="utf-8")
    partial.replace(out)
    return out


def report(
    databases: Mapping[str, FeatureDatabase],
    metrics: Mapping[str, Metrics],
    *,
    title: str = "",
    language_model: Mapping[str, float] | None = None,
    chosen: int = 10,
    random: int = 20,
    seed: int = 0,
) -> Markup:
    """Return the report as one HTML document."""
    name, database = next(iter(databases.items()))
    best = choose(database, chosen, seed)
    drawn = draw(database, random, seed)
    neurons = [(n, d) for n, d in databases.items() if d.unit == "Neuron" and d is not database]
    shown = {f.index for f, _ in [*best, *drawn]}
    summaries = [summarise(n, d) for n, d in databases.items()]
    body = render(
        "monosem.explorer",
        "report.html",
        title=title or f"Features of {name} at {database.sites}",
        name=name,
        site=database.sites,
        summaries=summaries,
        origins=origin_table({s.name: s.origin for s in summaries}),
        metrics=metrics_table(metrics) if metrics else None,
        plots=pareto_plots(metrics),
        language_model=language_model_table(language_model) if language_model else None,
        best=_panels(database, best, shown),
        drawn=_panels(database, drawn, shown, skip={f.index for f, _ in best}),
        neurons=[(n, _panels(d, draw(d, random // 4, seed), set())) for n, d in neurons],
        failures=_failures(drawn),
        pool=POOL,
        seed=seed,
    )
    return page(title or f"Features of {name}", body)


Panel = tuple[int, Markup, bool]
"""Index, panel, and whether the feature lives and shows a plain pattern."""


def _panels(
    database: FeatureDatabase,
    features: Sequence[tuple[Feature, Evidence]],
    shown: set[int],
    skip: set[int] | None = None,
) -> list[Panel]:
    prefix = database.unit.lower()
    panels: list[Panel] = []
    for feature, found in features:
        if skip and feature.index in skip:
            continue  # drawn although it stands among the chosen: its panel is there already
        view = feature_view(
            database,
            feature,
            remark=remark(feature, found),
            n_top=N_TOP,
            n_per_interval=N_PER_INTERVAL,
            n_random=N_RANDOM,
            fold=True,
        )
        drawing = panel(
            view,
            link=lambda index: f"#{prefix}-{index}" if index in shown else "",
            heading=3,
            n_tokens=8,
        )
        panels.append((feature.index, drawing, _plain(feature, found)))
    return panels


def _plain(feature: Feature, found: Evidence) -> bool:
    return feature.status == "alive" and max(found.same_token, found.predicted) >= PLAIN


def _failures(drawn: Sequence[tuple[Feature, Evidence]]) -> dict[str, int]:
    by_status = [f.status for f, _ in drawn]
    return {
        "drawn": len(drawn),
        "dead": by_status.count("dead"),
        "ultralow": by_status.count("ultralow"),
        "plain": sum(_plain(f, e) for f, e in drawn),
    }
