"""Small transformers whose circuits are written by hand, so that localisation has a known answer.

    induction   head (0, a) copies the token before; head (1, b) looks for tokens whose copy is the
                present token, and says what they are: logits[t, v] = share of v among what followed
                the present token before
    selector    one head looks at the keys that `selects[query, key]` names and says the mean of
                `values[key]` (tracr's select and aggregate; Lindner et al. 2023)

    score = SHARP · (1 where selected, 1/2 at BOS, 0 elsewhere)

so that a query that selects nothing reads BOS, whose value is 0, and the rest of a softmax is
e^(−SHARP/2) = 2e-9. There are no norms and no MLPs; the other heads attend and write at random, into
a part of the residual stream that nothing reads. Token 0 is BOS and must come first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monosem.core.errors import ConfigError
from monosem.models.transformer import Attention, Block, MonosemConfig, MonosemForCausalLM

SHARP = 40.0
JUNK = 8
"""Width of the part of the residual stream that nothing reads."""
Part = tuple[slice, Tensor]
"""A part of the residual stream, and a map from it [size of the part, size in the head]."""
Rule = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocab"]]


@dataclass(frozen=True)
class Planted:
    """A model and what was planted in it."""

    name: str
    model: MonosemForCausalLM
    heads: frozenset[tuple[int, int]]
    """Layer and number of every head of the circuit: without any of them the rule breaks, and no other
    head changes a logit."""
    rule: Rule
    """The logits that the model must give, as a plain formula."""


def induction(
    *, vocab_size: int = 16, context: int = 24, n_heads: int = 4, seed: int = 0
) -> Planted:
    """Return a model of two layers that continues repeats after one matching token, and does nothing else."""
    width = {"token": vocab_size, "position": context, "before": vocab_size, "out": vocab_size}
    generator = torch.Generator().manual_seed(seed)
    places, model = _empty(width, 2, vocab_size, context, n_heads, generator)
    first, second = (int(torch.randint(n_heads, (1,), generator=generator)) for _ in range(2))
    eye, wide = torch.eye(vocab_size), torch.eye(context)
    not_bos = eye.clone()
    not_bos[0] = 0
    # Position t asks for t − 1; the first asks for nothing that exists and reads BOS, itself.
    _write_head(
        _attention(model, 0),
        first,
        query=(places["position"], wide.roll(-1, 1).index_fill(0, torch.tensor([0]), 0.0)),
        key=(places["position"], wide),
        value=(places["token"], not_bos),
        out=places["before"],
        bos=places["token"].start,
    )
    _write_head(
        _attention(model, 1),
        second,
        query=(places["token"], eye),
        key=(places["before"], eye),
        value=(places["token"], not_bos),
        out=places["out"],
        bos=places["token"].start,
    )
    with torch.no_grad():
        model.lm_head.weight[:, places["out"]] = eye
    return Planted("induction", model, frozenset({(0, first), (1, second)}), _followers(vocab_size))


def selector(
    selects: Bool[Tensor, "vocab vocab"],
    values: Float[Tensor, "key said"],
    *,
    context: int = 24,
    n_layers: int = 2,
    n_heads: int = 4,
    seed: int = 0,
) -> Planted:
    """Return a model with one head: the mean of `values[key]` over keys that `selects[query, key]`.

    Row 0 of both is BOS's; it selects and says nothing, whatever they hold.
    """
    vocab_size = len(selects)
    if values.shape != selects.shape:
        raise ConfigError(
            f"`values` has shape {tuple(values.shape)} and `selects` {tuple(selects.shape)}. "
            "Give both a row and a column a token."
        )
    chosen, said = selects.clone(), values.clone()
    chosen[0], chosen[:, 0], said[0] = False, False, 0
    width = {"token": vocab_size, "position": context, "out": vocab_size}
    generator = torch.Generator().manual_seed(seed)
    places, model = _empty(width, n_layers, vocab_size, context, n_heads, generator)
    layer, head = (int(torch.randint(n, (1,), generator=generator)) for n in (n_layers, n_heads))
    _write_head(
        _attention(model, layer),
        head,
        query=(places["token"], chosen.float()),
        key=(places["token"], torch.eye(vocab_size)),
        value=(places["token"], said),
        out=places["out"],
        bos=places["token"].start,
    )
    with torch.no_grad():
        model.lm_head.weight[:, places["out"]] = torch.eye(vocab_size)
    return Planted("selector", model, frozenset({(layer, head)}), _aggregated(chosen, said))


def share_of(token: int, *, vocab_size: int = 16, **shape: int) -> Planted:
    """Return tracr's `frac_prevs`: the logit of `token` is its share of the tokens after BOS so far."""
    values = torch.zeros(vocab_size, vocab_size)
    values[token, token] = 1
    return selector(torch.ones(vocab_size, vocab_size, dtype=torch.bool), values, **shape)


def _empty(
    width: dict[str, int],
    n_layers: int,
    vocab_size: int,
    context: int,
    n_heads: int,
    generator: torch.Generator,
) -> tuple[dict[str, slice], MonosemForCausalLM]:
    """Return where each part of the residual stream lies, and a model of heads that write junk."""
    places, start = {}, 0
    for name, size in (width | {"junk": JUNK}).items():
        places[name] = slice(start, start + size)
        start += size
    config = MonosemConfig(
        vocab_size=vocab_size,
        hidden_size=start,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        head_dim=max(vocab_size, context) + 1,
        intermediate_size=0,
        layer_norm=False,
        max_position_embeddings=context,
        bos_token_id=0,
    )
    model = MonosemForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embed = cast(nn.Embedding, model.transformer.wte).weight
        embed[:, places["token"]] = torch.eye(vocab_size)
        model.transformer.wpe.weight[:, places["position"]] = torch.eye(context)
        for layer in range(n_layers):
            attention = _attention(model, layer)
            attention.c_attn.weight.normal_(generator=generator)
            attention.c_proj.weight[places["junk"]] = torch.randn(
                JUNK, attention.c_proj.in_features, generator=generator
            )
    return places, model


def _write_head(
    attention: Attention,
    head: int,
    *,
    query: Part,
    key: Part,
    value: Part,
    out: slice,
    bos: int,
) -> None:
    """Put maps from parts of the residual stream into the weights of one head.

    The last dimension of q and k is for BOS: every query has 1 there, and only BOS's key 1/2.
    """
    d_head, n_heads = attention.d_head, attention.c_proj.in_features // attention.d_head
    rows = [
        slice((i * n_heads + head) * d_head, (i * n_heads + head + 1) * d_head) for i in range(3)
    ]
    weight, bias = attention.c_attn.weight, attention.c_attn.bias
    with torch.no_grad():
        for row in rows:
            weight[row] = 0
        for row, (place, matrix) in zip(rows, (query, key, value), strict=True):
            weight[row][: matrix.shape[1], place] = matrix.T
        weight[rows[0]] *= SHARP * d_head**0.5
        bias[rows[0]][-1] = SHARP * d_head**0.5
        weight[rows[1]][-1, bos] = 0.5
        attention.c_proj.weight[:, rows[0]] = 0
        n = value[1].shape[1]
        attention.c_proj.weight[out, rows[0].start : rows[0].start + n] = torch.eye(n)


def _attention(model: MonosemForCausalLM, layer: int) -> Attention:
    block = model.transformer.h[layer]
    assert isinstance(block, Block)
    return block.attn


def _followers(vocab_size: int) -> Rule:
    def rule(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        logits = torch.zeros(*tokens.shape, vocab_size)
        for row, said in zip(tokens.tolist(), logits, strict=True):
            for t, token in enumerate(row):
                after = [row[i + 1] for i in range(t) if row[i] == token and token != 0]
                for follower in after:
                    said[t, follower] += 1 / len(after)
        return logits

    return rule


def _aggregated(selects: Bool[Tensor, "vocab vocab"], values: Float[Tensor, "vocab vocab"]) -> Rule:
    def rule(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        logits = torch.zeros(*tokens.shape, len(values))
        for row, said in zip(tokens.tolist(), logits, strict=True):
            for t, token in enumerate(row):
                chosen = [key for key in row[: t + 1] if selects[token, key]]
                if chosen:
                    said[t] = values[chosen].mean(0)
        return logits

    return rule
