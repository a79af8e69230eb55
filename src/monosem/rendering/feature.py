"""A feature as a reader sees it: from plain numbers and strings to the panel of page and notebook.

`FeatureView` knows nothing of databases; whoever has one fills it in. The same panel stands in the
report, in the explorer and, smaller, in a notebook.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from monosem.rendering.card import card
from monosem.rendering.histogram import svg
from monosem.rendering.template import count, number, one_in, render, share, signed
from monosem.rendering.tokens import highlight, token

N_INTERVALS = 11
"""Evenly spaced intervals of [0, max] from which examples are drawn and shown (Bricken et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class ExampleView:
    """One place in the text where the feature fired, with the tokens around it."""

    pieces: Sequence[str]
    activations: Sequence[float | int]
    focus: int
    activation: float | int
    row_start: int
    """Row of the first token shown."""
    document: str


@dataclass(frozen=True, kw_only=True)
class ExampleGroup:
    """Examples chosen by one rule, such as "the strongest" or "interval 7"."""

    title: str
    note: str
    examples: Sequence[ExampleView]
    folded: bool = False
    """Whether it lies in the part that opens on request."""


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """What a panel shows of one latent, or one neuron."""

    index: int
    unit: str = "Feature"
    status: str
    label: str = ""
    density: float | int
    n_fired: int
    max_activation: float | int
    moments: Sequence[tuple[str, float | int]]
    """Name and value, of the positive activations only."""
    counts: Sequence[float | int]
    edges: Sequence[float | int]
    promoted: Sequence[tuple[str, float | int]]
    suppressed: Sequence[tuple[str, float | int]]
    neighbours: Sequence[tuple[int, float | int]]
    neurons: Sequence[tuple[int, float | int]]
    groups: Sequence[ExampleGroup] = ()
    remark: str | Markup = ""
    """A sentence on what the examples show, or on why there are none."""

    @property
    def histogram(self) -> Markup:
        """The activations, log counts, with the eleven intervals marked."""
        low, high = float(self.edges[0]), float(self.edges[-1])
        marks = [low + (high - low) * i / N_INTERVALS for i in range(1, N_INTERVALS)]
        return svg(
            self.counts,
            self.edges,
            title=f"Histogram of the activations of {self.unit.lower()} {self.index}",
            log=True,
            marks=marks,
            unit="activation (tokens, log scale)",
        )


Link = Callable[[int], str]
"""The address of a feature, or "" where there is no page for it."""


def panel(view: FeatureView, *, link: Link, heading: int = 1, n_tokens: int = 10) -> Markup:
    """Return the feature's whole panel; `heading` is the level of its title (1 on its own page)."""
    return render(
        "monosem.rendering",
        "feature.html",
        view=view,
        link=link,
        heading=heading,
        n_tokens=n_tokens,
        largest=max([abs(v) for _, v in [*view.promoted, *view.suppressed]], default=0.0),
    )


def notebook(view: FeatureView, *, n_examples: int = 8) -> Markup:
    """Return the feature as a card for `_repr_html_`."""
    rows = [
        ("density", f"{share(view.density)} ({one_in(view.density)})"),
        ("fired on", f"{count(view.n_fired)} tokens"),
        ("maximum", number(view.max_activation)),
        ("promoted", _tokens(view.promoted)),
        ("suppressed", _tokens(view.suppressed)),
        ("nearest", _pairs(view.neighbours)),
        ("neurons", _pairs(view.neurons)),
    ]
    drawing = view.histogram if view.n_fired else Markup("")
    examples = [e for group in view.groups for e in group.examples][:n_examples]
    lines = [
        highlight(
            e.pieces,
            e.activations,
            maximum=view.max_activation,
            row_start=e.row_start,
            document=e.document,
        )
        for e in examples
    ]
    title = f"{view.unit} {view.index} · {view.status}" + (f" · {view.label}" if view.label else "")
    shown = [(name, value) for name, value in rows if value]
    return card(title, shown, Markup("").join([drawing, *lines]))


def _tokens(effects: Sequence[tuple[str, float | int]], n_tokens: int = 8) -> Markup:
    return Markup(" &ensp;").join(
        Markup("{} <small>{}</small>").format(token(piece), signed(value))
        for piece, value in effects[:n_tokens]
    )


def _pairs(pairs: Sequence[tuple[int, float | int]], n_pairs: int = 5) -> str:
    return " · ".join(f"{index} ({signed(value)})" for index, value in pairs[:n_pairs])
