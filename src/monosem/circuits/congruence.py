"""Which neuron writes which token: congruence, its outliers, and what a neuron's tokens have in common.

    congruence(n, t) = (W_out[n] · gain) · W_U[:, t] − its mean over all tokens

is what a unit of neuron n adds to the logit of t on the straight path, beside the other tokens, up to a
factor that is the same for all neurons and tokens (`models/effects.py`). A token whose best neuron leads
the second by far has a neuron of its own, as ` an` has in GPT-2 Large (Miller & Neo 2023, "We Found An
Neuron in GPT-2"). Leads are in standard deviations of the token's congruence with all neurons; how large
they become without any meaning is found by shuffling the entries of every W_out[n], several times: the
largest of one shuffle alone varies as much as what is looked for.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from monosem.core.errors import ConfigError, UnsupportedModelError
from monosem.models.language_model import LanguageModel

AT_ONCE = 2**26
"""Congruences held at once."""
OUTLIER, SHARE = 5.0, 0.5
"""A neuron's tokens: so many standard deviations above its mean, and so much of its largest."""
ONE_STRING = 0.8
"""Share of the congruence that variants of one string must have to be what the neuron writes."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A token and the neuron that is most congruent with it."""

    token: int
    layer: int
    index: int
    congruence: float
    """Of the two."""
    lead: float
    """Over the second neuron, in standard deviations over all neurons."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The neuron of every token, and what chance gives."""

    writers: tuple[Writer, ...]
    """One a token, the largest lead first."""
    null: float
    """The largest lead of any token in any of the shuffles of each neuron's entries."""
    nulls: tuple[float, ...]
    """The largest lead of any token in each shuffle."""

    @property
    def found(self) -> tuple[Writer, ...]:
        """The writers whose lead is above the largest of chance."""
        return tuple(w for w in self.writers if w.lead > self.null)


@dataclass(frozen=True, kw_only=True)
class Written:
    """The tokens that one neuron writes, and what they are to each other."""

    layer: int
    index: int
    tokens: tuple[int, ...]
    """The outlying ones, most congruent first."""
    congruences: tuple[float, ...]
    """Of each."""
    kind: str
    """nothing, one token, variants of one string, several meanings; or unknown, without a tokenizer."""
    string: str
    """What the variants are variants of; empty for other kinds."""


@torch.no_grad()
def congruences(
    model: LanguageModel, layer: int, neurons: Int64[Tensor, " n"] | None = None
) -> Float[Tensor, "n vocab"]:
    """Return the congruence of the neurons of one layer (of all, if none are named) with every token."""
    site, n = f"blocks.{layer}.mlp.hook_post", n_neurons(model, layer)
    chosen = torch.arange(n) if neurons is None else neurons
    units = torch.zeros(len(chosen), n, dtype=model.model.dtype, device=model.device)
    units[torch.arange(len(chosen)), chosen] = 1.0
    effects = model.logit_effects(site, units)
    return effects - effects.mean(1, keepdim=True)


def n_neurons(model: LanguageModel, layer: int) -> int:
    """Return how many neurons a layer has."""
    if not model.family.mlp:
        raise UnsupportedModelError(
            f"`{model.name}` has no MLPs, hence no neurons. Choose a model with MLPs."
        )
    if not 0 <= layer < model.n_layers:
        raise ConfigError(
            f"There is no layer {layer}: `{model.name}` has {model.n_layers} (0 to "
            f"{model.n_layers - 1})."
        )
    return model.width(f"blocks.{layer}.mlp.hook_post")


@torch.no_grad()
def search(model: LanguageModel, *, n_shuffles: int = 10, seed: int = 0) -> Search:
    """Return for each token the neuron of all layers that writes it most, those that stand out first.

    Each shuffle takes as long as the search itself.
    """
    if n_shuffles < 1:
        raise ConfigError(f"`n_shuffles` must be at least 1, got {n_shuffles}.")
    best = _leads(model, _all(model))
    nulls = tuple(
        float(_leads(model, _shuffled(model, seed + i)).lead.max()) for i in range(n_shuffles)
    )
    order = best.lead.argsort(descending=True).tolist()
    writers = tuple(
        Writer(
            token=token,
            layer=int(best.layer[token]),
            index=int(best.index[token]),
            congruence=float(best.first[token]),
            lead=float(best.lead[token]),
        )
        for token in order
    )
    return Search(writers=writers, null=max(nulls), nulls=nulls)


@torch.no_grad()
def written(model: LanguageModel, layer: int, index: int, *, n_most: int = 50) -> Written:
    """Return the tokens that outlie in the congruence of one neuron, and what they have in common."""
    if not 0 <= index < n_neurons(model, layer):
        raise ConfigError(
            f"There is no neuron {index}: layer {layer} of `{model.name}` has "
            f"{n_neurons(model, layer)} (0 to {n_neurons(model, layer) - 1})."
        )
    values = congruences(model, layer, torch.tensor([index]))[0].double()
    limit = max(OUTLIER * float(values.std()), SHARE * float(values.max()))
    top = values.topk(min(n_most, len(values)))
    tokens = [int(t) for t, v in zip(top.indices, top.values, strict=True) if float(v) >= limit]
    weights = [float(v) for v in top.values[: len(tokens)]]
    kind, string = _kind(model.tokenizer, tokens, weights)
    return Written(
        layer=layer,
        index=index,
        tokens=tuple(tokens),
        congruences=tuple(weights),
        kind=kind,
        string=string,
    )


def stem(text: str) -> str:
    """Return what variants of one string have in common: no case, accents of width, marks or spaces around.

    >>> [stem(t) for t in (" an", "An", "_an", "▁AN", "(an")]
    ['an', 'an', 'an', 'an', 'an']
    >>> stem("...")
    '...'
    """
    plain = unicodedata.normalize("NFKC", text).replace("▁", " ").casefold()
    start, end = 0, len(plain)
    while start < end and not plain[start].isalnum():
        start += 1
    while end > start and not plain[end - 1].isalnum():
        end -= 1
    return plain[start:end] or plain.strip() or plain


def _kind(
    tokenizer: PreTrainedTokenizerBase | None, tokens: list[int], weights: list[float]
) -> tuple[str, str]:
    if len(tokens) < 2:
        return ("one token" if tokens else "nothing"), ""
    if tokenizer is None:
        return "unknown", ""
    shares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for token, weight in zip(tokens, weights, strict=True):
        string = stem(str(tokenizer.decode([token])))
        shares[string] = shares.get(string, 0.0) + weight / sum(weights)
        counts[string] = counts.get(string, 0) + 1
    string = max(shares, key=lambda s: shares[s])
    if shares[string] >= ONE_STRING and counts[string] > 1:
        return "variants of one string", string
    return "several meanings", ""


@dataclass(eq=False)
class _Leads:
    """Running over neurons: for every token the two largest congruences, and their spread."""

    first: Tensor
    second: Tensor
    layer: Tensor
    index: Tensor
    sums: Tensor
    squares: Tensor
    n: int = 0

    @property
    def lead(self) -> Tensor:
        """Lead of the first over the second, in standard deviations."""
        spread = (self.squares / self.n - (self.sums / self.n).square()).clamp_min(0).sqrt()
        return (self.first - self.second) / spread.clamp_min(torch.finfo(spread.dtype).tiny)

    def take(self, layer: int, start: int, values: Float[Tensor, "n vocab"]) -> None:
        """Take in some neurons of one layer, from `start` on."""
        own = values.topk(min(2, len(values)), dim=0)
        after = own.values[1] if len(own.values) > 1 else torch.full_like(self.second, -torch.inf)
        better = own.values[0] > self.first
        self.second = torch.where(
            better,
            torch.maximum(self.first, after),
            torch.maximum(self.second, own.values[0]),
        )
        self.first = torch.where(better, own.values[0], self.first)
        self.layer = torch.where(better, layer, self.layer)
        self.index = torch.where(better, start + own.indices[0], self.index)
        self.sums += values.double().sum(0)
        self.squares += values.double().square().sum(0)
        self.n += len(values)


def _leads(model: LanguageModel, parts: Iterator[tuple[int, int, Tensor]]) -> _Leads:
    vocab, device = model.vocab_size, model.device
    lowest = torch.full((vocab,), -torch.inf, dtype=model.model.dtype, device=device)
    none = torch.full((vocab,), -1, device=device)
    zeros = torch.zeros(vocab, dtype=torch.float64, device=device)
    found = _Leads(lowest, lowest.clone(), none, none.clone(), zeros, zeros.clone())
    for layer, start, values in parts:
        found.take(layer, start, values)
    if found.n < 2:
        raise UnsupportedModelError(
            f"`{model.name}` has {found.n} neurons; leads need two. Choose a larger model."
        )
    return found


def _all(model: LanguageModel) -> Iterator[tuple[int, int, Tensor]]:
    step = max(1, AT_ONCE // model.vocab_size)
    for layer in range(model.n_layers):
        for part in torch.arange(n_neurons(model, layer)).split(step):
            yield layer, int(part[0]), congruences(model, layer, part)


def _shuffled(model: LanguageModel, seed: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield what `_all` does of neurons whose directions in the residual stream are shuffled, each anew."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, AT_ONCE // model.vocab_size)
    for layer in range(model.n_layers):
        n, last = n_neurons(model, layer), f"blocks.{model.n_layers - 1}.hook_resid_post"
        for part in torch.arange(n).split(step):
            units = torch.zeros(len(part), n, dtype=model.model.dtype, device=model.device)
            units[torch.arange(len(part)), part] = 1.0
            rows = model.direction_in_residual(f"blocks.{layer}.mlp.hook_post", units)
            order = torch.rand(rows.shape, generator=generator).argsort(1).to(rows.device)
            effects = model.logit_effects(last, rows.gather(1, order))
            yield layer, int(part[0]), effects - effects.mean(1, keepdim=True)
