"""One neuron on text: before which tokens it is active, what feeds it, and what its absence does.

    use         does its activation tell that the next token is t? (area under the curve; its interval takes
                contexts, not tokens, as independent: Obuchowski 1997)
    feeders     Σ over its largest activations of the attribution terms of its pre-activation
    ablation    its activation replaced by its mean, or by that of another token drawn at random

Negating an activation, or setting it to zero where zero is not its usual value, takes the model to
where it never is; both replacements here keep the neuron inside what it does. A mean takes away what
distinguishes tokens; resampling keeps the distribution too. Special tokens, such as BOS, are left out of
both, and of use: their activations are often massive, and of another kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.circuits.attribution import attribute
from monosem.circuits.targets import neuron
from monosem.core.errors import ConfigError
from monosem.models.language_model import LanguageModel

ROWS_AT_ONCE = 8
FEWEST = 10
"""Contexts with a token, below which nothing is said of it."""
HOW = ("mean", "resample")


@dataclass(frozen=True, kw_only=True)
class Use:
    """A neuron beside one token: how its activation stands where that token comes next."""

    token: int
    n: int
    """Positions that the token follows."""
    mean: float | None
    """Mean activation there; None without any."""
    area: float | None
    """Probability that it is larger there than where no token of the set follows; None below 10 contexts."""
    low: float | None
    """Of its 95 % interval, contexts drawn anew."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Uses:
    """A neuron beside all tokens that it writes."""

    tokens: tuple[Use, ...]
    elsewhere: float
    """Mean activation where none of them follows."""

    @property
    def verdict(self) -> str:
        """Whether the tokens are used alike.

        `alike`: the neuron tells of each of them, and no two intervals are apart; `not alike`: two are, or
        it tells of one only; `none`: it tells of none; `too few`: less than two tokens occur often enough.
        """
        known = [(u.low, u.high) for u in self.tokens if u.low is not None and u.high is not None]
        if len(known) < 2:
            return "too few"
        told = [low > 0.5 for low, _ in known]
        if not any(told):
            return "none"
        apart = max(low for low, _ in known) > min(high for _, high in known)
        return "alike" if all(told) and not apart else "not alike"


@dataclass(frozen=True, kw_only=True)
class Feeder:
    """One source and what it adds to a neuron's pre-activation, on the mean of its largest activations."""

    kind: str
    site: str
    index: int | None
    """Which head or neuron, or which token of the vocabulary."""
    value: float
    """What it adds."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What changes when a neuron is replaced, in nats; standard errors over contexts."""

    how: str
    """mean or resample."""
    loss: float
    """Change of the mean loss on all tokens."""
    loss_error: float | None
    """Its standard error; None of one context."""
    tokens: tuple[tuple[int, int, float | None], ...]
    """Of each token asked for: which, how often it comes, change of its log-probability there."""


@torch.no_grad()
def activations(
    model: LanguageModel, rows: Int[Tensor, "batch pos"], layer: int, index: int
) -> Float[Tensor, "batch pos"]:
    """Return the neuron's activation at every token."""
    site = f"blocks.{layer}.mlp.hook_post"
    _check(model, site, index)
    parts = [
        model.capture(part, [site])[site][..., index] for part in _int64(rows).split(ROWS_AT_ONCE)
    ]
    return torch.cat(parts)


def use(
    model: LanguageModel,
    rows: Int[Tensor, "batch pos"],
    layer: int,
    index: int,
    tokens: Sequence[int],
) -> Uses:
    """Return how a neuron stands to each of `tokens` on text: where it comes next, and elsewhere."""
    active = activations(model, rows, layer, index)[:, :-1].double().cpu()
    after, ordinary = _int64(rows)[:, 1:].cpu(), _ordinary(model, rows)[:, :-1].cpu()
    others = torch.isin(after, torch.tensor(list(tokens)), invert=True) & ordinary
    if not bool(others.any()):
        raise ConfigError("Every token of the text is one of `tokens`. Pass other text.")
    found = tuple(_use(token, active, (after == token) & ordinary, others) for token in tokens)
    return Uses(tokens=found, elsewhere=float(active[others].mean()))


def feeders(
    model: LanguageModel,
    rows: Int[Tensor, "batch pos"],
    layer: int,
    index: int,
    *,
    n_examples: int = 8,
    n: int = 20,
) -> list[Feeder]:
    """Return what adds most to a neuron's pre-activation at its largest activations, one in a context.

    Terms are those of `attribution.attribute` with heads and neurons as sources, summed over positions and
    biases; tokens and positions are apart. In a gated MLP it is the gate that is explained. Nothing is
    returned of a neuron that is above zero nowhere: the largest of what it never does explains nothing.
    """
    active = activations(model, rows, layer, index)
    largest = active.max(1)
    order = largest.values.argsort(descending=True)[:n_examples]
    chosen = order[largest.values[order] > 0].tolist()
    sums: dict[tuple[str, str, int | None], float] = {}
    for row in chosen:
        position = int(largest.indices[row])
        prompt = _int64(rows)[row, : position + 1]
        found = attribute(model, prompt, neuron(model, layer, index))
        for group in found.groups:
            kept = group.values != 0
            places = [None] * int(kept.sum()) if group.indices is None else group.indices[kept]
            for place, value in zip(places, group.values[kept].tolist(), strict=True):
                key = (group.kind, group.site, None if place is None else int(place))
                sums[key] = sums.get(key, 0.0) + value / len(chosen)
    first = sorted(sums, key=lambda key: -abs(sums[key]))[:n]
    return [Feeder(kind=k, site=site, index=i, value=sums[k, site, i]) for k, site, i in first]


@torch.no_grad()
def ablate(
    model: LanguageModel,
    rows: Int[Tensor, "batch pos"],
    layer: int,
    index: int,
    *,
    how: str,
    tokens: Sequence[int] = (),
    seed: int = 0,
) -> Ablation:
    """Return what the model loses when one neuron has its mean, or another token's activation, everywhere."""
    if how not in HOW:
        raise ConfigError(f"`how` must be one of {' and '.join(HOW)}, got `{how}`.")
    rows, site = _int64(rows), f"blocks.{layer}.mlp.hook_post"
    active = activations(model, rows, layer, index)
    ordinary, generator = _ordinary(model, rows), torch.Generator().manual_seed(seed)
    own, put = active[ordinary], active.clone()
    order = torch.randperm(len(own), generator=generator).to(active.device)
    put[ordinary] = own.mean() if how == "mean" else own[order]
    changes: list[Tensor] = []
    for part, new in zip(rows.split(ROWS_AT_ONCE), put.split(ROWS_AT_ONCE), strict=True):

        def replaced(x: Tensor, new: Tensor = new) -> Tensor:
            x = x.clone()
            x[..., index] = new
            return x

        before = model.losses(part)
        with model.replaced({site: replaced}):
            changes.append((model.losses(part) - before).double().cpu())
    change, after = torch.cat(changes), rows[:, 1:].cpu()
    by_row = change.mean(1)
    error = float(by_row.std() / math.sqrt(len(by_row))) if len(by_row) > 1 else None
    return Ablation(
        how=how,
        loss=float(change.mean()),
        loss_error=error,
        tokens=tuple((int(t), *_change(change, after == int(t))) for t in tokens),
    )


def _use(
    token: int,
    active: Float[Tensor, "batch pos"],
    before: Bool[Tensor, "batch pos"],
    others: Bool[Tensor, "batch pos"],
) -> Use:
    """Return the area under the curve and its interval, of contexts that are independent of each other.

    The area's error is the sum over contexts of what each adds to it: Σ (P(one > others) − area) / n of
    the context's positions before the token, and Σ (P(token's > one) − area) / m of its others.
    """
    one, rest = active[before], active[others]
    n, m = len(one), len(rest)
    mean = float(one.mean()) if n else None
    if int(before.any(1).sum()) < FEWEST:
        return Use(token=token, n=n, mean=mean, area=None, low=None, high=None)
    above = _shares(one, rest)
    area = float(above.mean())
    added = torch.zeros(len(active), dtype=torch.float64)
    added.index_add_(0, before.nonzero()[:, 0], (above - area) / n)
    added.index_add_(0, others.nonzero()[:, 0], (1 - _shares(rest, one) - area) / m)
    n_contexts = int((before | others).any(1).sum())
    width = 1.96 * math.sqrt(float(added.square().sum()) * n_contexts / (n_contexts - 1))
    low, high = max(area - width, 0.0), min(area + width, 1.0)
    return Use(token=token, n=n, mean=mean, area=area, low=low, high=high)


def _shares(one: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Return of each of `one` the share of `other` that is less, ties counted half."""
    ordered = other.sort().values
    below = torch.searchsorted(ordered, one)
    ties = torch.searchsorted(ordered, one, right=True) - below
    return (below + ties / 2).double() / len(other)


def _ordinary(model: LanguageModel, rows: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Return where there is no special token; everywhere, without a tokenizer that knows them."""
    special = [] if model.tokenizer is None else model.tokenizer.all_special_ids
    ids = torch.tensor(special, dtype=torch.int64)
    return torch.isin(_int64(rows).cpu(), ids, invert=True).to(model.device)


def _change(
    change: Float[Tensor, "batch pos"], at: Bool[Tensor, "batch pos"]
) -> tuple[int, float | None]:
    n = int(at.sum())
    return n, -float(change[at].mean()) if n else None


def _int64(rows: Tensor) -> Tensor:
    return rows.to(torch.int64)


def _check(model: LanguageModel, site: str, index: int) -> None:
    width = model.width(site)
    if not 0 <= index < width:
        raise ConfigError(
            f"There is no neuron {index} at `{site}`: it has {width} (0 to {width - 1})."
        )
