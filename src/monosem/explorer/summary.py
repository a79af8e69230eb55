"""What a page says of a whole dictionary: how many features live, and how densely they fire."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from monosem.explorer.origin import origin
from monosem.features.database import FeatureDatabase
from monosem.features.feature import Feature
from monosem.rendering.histogram import svg

BINS_PER_DECADE = 8


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts, the density histogram and the origin of one feature database."""

    name: str
    unit: str
    n_latents: int
    n_alive: int
    n_ultralow: int
    n_dead: int
    site: str
    histogram: Markup
    origin: Mapping[str, str]


def summarise(name: str, database: FeatureDatabase) -> Summary:
    """Return counts, the histogram of log10 density and the origin of one database."""
    features = database.list(sort="index", descending=False, limit=database.n_latents)
    by_status = [f.status for f in features]
    return Summary(
        name=name,
        unit=database.unit.lower(),
        n_latents=database.n_latents,
        n_alive=by_status.count("alive"),
        n_ultralow=by_status.count("ultralow"),
        n_dead=by_status.count("dead"),
        site=database.sites,
        histogram=density_histogram(name, features),
        origin=origin(database),
    )


def density_histogram(name: str, features: Sequence[Feature]) -> Markup:
    """Return the histogram of log10 density over the features that fired at all."""
    logs = [math.log10(f.density) for f in features if f.density > 0]
    low = math.floor(min(logs, default=-1.0))
    edges = np.linspace(low, 0.0, BINS_PER_DECADE * -low + 1) if low < 0 else np.array([-1.0, 0.0])
    counts, _ = np.histogram(logs, bins=edges)
    return svg(
        counts.tolist(),
        edges.tolist(),
        title=f"Histogram of the log10 density of {name}",
        log=False,
        powers=True,
        unit="density: share of tokens a feature fires on",
    )
