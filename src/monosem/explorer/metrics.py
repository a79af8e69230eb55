"""The table of metrics: which to show, in what order and precision, and what each means in a phrase."""

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from monosem.rendering import table
from monosem.rendering.visible import printable

Metrics = Mapping[str, Any]
"""Name of a metric to its value, and under `void` the reasons of those that have none."""

COLUMNS: dict[str, tuple[str, str, str]] = {
    "n_latents": ("latents", "count", "latents of the dictionary, or neurons"),
    "l0": ("L0", ".1f", "mean number of active latents on a token"),
    "fvu": (
        "FVU",
        ".3f",
        "share of the variance of ordinary tokens left unexplained; 0 is perfect",
    ),
    "fvu_special": ("FVU special", ".3f", "the same on first-position and special tokens"),
    "fvu_p99": ("FVU p99", ".3f", "99th percentile of the error of a single token, same scale"),
    "loss_recovered_zero": (
        "recovered (zero)",
        "share",
        "share of the harm of zeroing the site that the reconstruction undoes",
    ),
    "loss_recovered_mean": (
        "recovered (mean)",
        "share",
        "the same against replacing the site by its mean; the stricter of the two",
    ),
    "delta_ce": ("ΔCE", ".3f", "nats of loss a token that the reconstruction costs the model"),
    "gap_zero": ("gap zero", ".3f", "nats that zeroing the site costs; under 0.05 voids the ratio"),
    "gap_mean": ("gap mean", ".3f", "nats that mean-ablation costs; under 0.05 voids the ratio"),
    "n_dead": ("dead", "count", "latents that never fired in the tokens counted"),
    "n_ultralow": (
        "ultralow",
        "count",
        "latents that fired, but on fewer tokens than can be told from chance",
    ),
}


def metrics_table(metrics: Mapping[str, Metrics]) -> Markup:
    """Return the table of `metrics`, a row a dictionary, with every column explained."""
    names = [n for n in COLUMNS if any(n in row for row in metrics.values())]
    headers = ["dictionary", *(COLUMNS[n][0] for n in names)]
    rows = [[title, *(_cell(row, n) for n in names)] for title, row in metrics.items()]
    return table.html(headers, rows, notes={COLUMNS[n][0]: COLUMNS[n][2] for n in names})


def language_model_table(losses: Mapping[str, float]) -> Markup:
    """Return the language model's loss beside its n-gram baselines', in nats a token."""
    names = {"loss": "language model"}
    rows = [[names.get(k, k), f"{v:.3f}", f"{math.exp(v):,.1f}"] for k, v in losses.items()]
    notes = {
        "loss": "mean negative log-likelihood in nats a token, on held-out text",
        "perplexity": "exp(loss): as uncertain as among so many equally likely tokens",
    }
    return table.html(["model", "loss", "perplexity"], rows, notes=notes)


def _cell(row: Metrics, name: str) -> str | Markup:
    value, kind = row.get(name), COLUMNS[name][1]
    reason = row.get("void", {}).get(name)
    if reason:
        return Markup('<abbr title="{}">void</abbr>').format(printable(str(reason)))
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "—"
    if kind == "count":
        return f"{value:,.0f}"
    return f"{100 * value:.1f} %" if kind == "share" else f"{value:{kind}}".replace("-", "−")
