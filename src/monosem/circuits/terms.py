"""What an attribution gives: terms of sources, as columns, with their sums, their largest and a table."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.errors import ConfigError
from monosem.rendering import table

KINDS = ("token", "position", "head", "neuron", "feature", "error", "bias")
"""Kinds of sources, in the order of tables."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One source and what it adds to the target."""

    kind: str
    """token, position, head, neuron, feature, error or bias."""
    site: str
    """Where it is; of a bias the name of its parameter."""
    layer: int | None
    """Its block; None outside of blocks."""
    position: int
    """At which token it stands."""
    index: int | None
    """Which head, neuron or feature, or which token of the vocabulary; None where there is one only."""
    activation: float
    """What it is there: a number, or of a vector its norm."""
    value: float
    """What it adds to the target."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The terms of one kind at one site, as columns."""

    kind: str
    site: str
    layer: int | None
    positions: Int64[Tensor, " n"]
    indices: Int64[Tensor, " n"] | None
    activations: Float[Tensor, " n"]
    values: Float[Tensor, " n"]

    def term(self, row: int) -> Term:
        """Return one row."""
        return Term(
            kind=self.kind,
            site=self.site,
            layer=self.layer,
            position=int(self.positions[row]),
            index=None if self.indices is None else int(self.indices[row]),
            activation=float(self.activations[row]),
            value=float(self.values[row]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributions:
    """All terms of one target of one prompt; they sum to it."""

    target: str
    """What is explained, in words."""
    value: float
    """The target itself, as the model has it."""
    groups: tuple[Group, ...]
    """Terms by kind and site, in the order of the forward pass."""

    @property
    def total(self) -> float:
        """The sum of all terms."""
        return sum((float(g.values.double().sum()) for g in self.groups), start=0.0)

    @property
    def gap(self) -> float:
        """What the terms miss of the target: rounding."""
        return self.total - self.value

    def by_kind(self) -> dict[str, float]:
        """Return what each kind of source adds in all; kinds that do not occur are left out."""
        sums: dict[str, float] = {}
        for kind in KINDS:
            values = [float(g.values.double().sum()) for g in self.groups if g.kind == kind]
            if values:
                sums[kind] = sum(values)
        return sums

    def top(self, n: int = 10, kind: str | None = None) -> list[Term]:
        """Return the `n` terms of largest size, of one kind or of all."""
        if kind is not None and kind not in KINDS:
            raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}, got `{kind}`.")
        groups = [g for g in self.groups if (kind is None or g.kind == kind) and len(g.values)]
        if not groups:
            return []
        sizes = torch.cat([g.values.abs() for g in groups])
        starts = torch.tensor([0, *(len(g.values) for g in groups)]).cumsum(0)
        chosen = sizes.topk(min(n, len(sizes))).indices.cpu()
        of = torch.searchsorted(starts, chosen, right=True) - 1
        pairs = zip(of.tolist(), (chosen - starts[of]).tolist(), strict=True)
        return [groups[g].term(row) for g, row in pairs]

    def frame(self) -> pd.DataFrame:
        """Return all terms as a table, in the order of the forward pass; a missing index is −1."""
        parts = [
            pd.DataFrame(
                {
                    "kind": g.kind,
                    "site": g.site,
                    "layer": -1 if g.layer is None else g.layer,
                    "position": g.positions.cpu().numpy(),
                    "index": -1 if g.indices is None else g.indices.cpu().numpy(),
                    "activation": g.activations.double().cpu().numpy(),
                    "value": g.values.double().cpu().numpy(),
                }
            )
            for g in self.groups
        ]
        return pd.concat(parts, ignore_index=True)

    def table(self, n: int = 10, said: Callable[[Term], str] | None = None) -> str:
        """Return the `n` largest terms as text; `said` may put words where an index stands."""
        shown = self.top(n)
        rest = self.value - sum(t.value for t in shown)
        rows = [
            [t.kind, t.site, f"{t.position}", _index(t) if said is None else said(t), *_numbers(t)]
            for t in shown
        ]
        rows.append(["all others", "", "", "", "", f"{rest:+.4g}"])
        rows.append([self.target, "", "", "", "", f"{self.value:+.4g}"])
        return table.text(["source", "site", "position", "which", "activation", "adds"], rows)


def _index(term: Term) -> str:
    return "" if term.index is None else f"{term.index}"


def _numbers(term: Term) -> tuple[str, str]:
    return f"{term.activation:.4g}", f"{term.value:+.4g}"
