"""What a feature database answers with: features, examples, and the text around an example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from markupsafe import Markup

from monosem.rendering.feature import ExampleGroup, ExampleView, FeatureView, notebook
from monosem.text.tokens import DocumentRef

Kind = Literal["top", "interval", "random"]
Status = Literal["alive", "ultralow", "dead"]
Unit = Literal["Feature", "Neuron"]
"""What a row of a database is: a latent of a dictionary, or a neuron of the model itself."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One token on which a latent fired."""

    latent: int
    row: int
    """Address of the token in the token store: context · tokens a context + position."""
    activation: float
    kind: Kind
    """top: the strongest, one a context. interval, random: see `features/examples.py`."""
    interval: int
    """0 to 10, 10 the highest, of an example drawn from an interval; -1 for the others."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The tokens around an example, each with the activation of the example's latent on it."""

    pieces: list[str]
    """Text of each token, exactly as in its document."""
    activations: list[float]
    """0 where the latent did not fire, and on tokens that are not ordinary."""
    focus: int
    """Place of the example's own token among them."""
    row_start: int
    """Row of the first token; the others follow it."""
    document: DocumentRef


@dataclass(frozen=True, kw_only=True, eq=False)
class Feature:
    """A latent with its evidence: one row of a feature database.

    Moments are those of the positive activations alone and NaN where they are not defined: all of
    them for a dead latent, skewness and kurtosis where every activation is the same.
    """

    index: int
    unit: Unit = "Feature"
    status: Status
    """dead: never fired. ultralow: fired, density under max(1e-6, 10 / tokens). Else alive."""
    label: str = ""
    density: float
    """Share of the ordinary tokens on which it fired."""
    n_fired: int
    max_activation: float
    """0 for a dead latent."""
    mean_activation: float
    variance: float
    skew: float
    kurtosis: float
    """E[(a - mean)^4] / variance^2: 3 for a normal distribution."""
    histogram: Int64[np.ndarray, " bins"]
    """Number of positive activations in each of 50 even bins of [0, max]."""
    histogram_edges: Float[np.ndarray, " bins_and_one"]
    top_logits: list[tuple[int, str, float]]
    """Tokens it promotes most on the direct path: id, text, effect above the median token's."""
    bottom_logits: list[tuple[int, str, float]]
    neighbours: list[tuple[int, float]]
    """Latents with the nearest decoder rows, and their cosine."""
    neurons: list[tuple[int, float]]
    """Neurons of the same block with the largest correlation in size, and its Pearson coefficient."""
    windows: tuple[tuple[Example, Window], ...] = ()
    """Its strongest examples, where it was asked for as `database[index]`."""

    def __repr__(self) -> str:
        promoted = " ".join(repr(text) for _, text, _ in self.top_logits[:5])
        label = f" {self.label!r}" if self.label else ""
        return (
            f"<{self.unit} {self.index}{label}: {self.status}, density {self.density:.3g}, "
            f"max {self.max_activation:.3g}, promotes {promoted or 'nothing'}>"
        )

    def _repr_html_(self) -> Markup:
        return notebook(
            FeatureView(
                index=self.index,
                unit=self.unit,
                status=self.status,
                label=self.label,
                density=self.density,
                n_fired=self.n_fired,
                max_activation=self.max_activation,
                moments=[("mean when active", self.mean_activation)] if self.n_fired else [],
                counts=self.histogram.tolist(),
                edges=self.histogram_edges.tolist(),
                promoted=[(text, effect) for _, text, effect in self.top_logits],
                suppressed=[(text, effect) for _, text, effect in self.bottom_logits],
                neighbours=self.neighbours,
                neurons=self.neurons,
                groups=_groups(self.windows),
            )
        )


def _groups(windows: Sequence[tuple[Example, Window]]) -> list[ExampleGroup]:
    views = [
        ExampleView(
            pieces=window.pieces,
            activations=window.activations,
            focus=window.focus,
            activation=example.activation,
            row_start=window.row_start,
            document=window.document.name,
        )
        for example, window in windows
    ]
    return [ExampleGroup(title="Strongest", note="", examples=views)] if views else []
