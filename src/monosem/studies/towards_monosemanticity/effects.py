"""What latents do: the loss that each token loses without one, and text sampled while one is pinned.

Ablation takes a latent's own part out of the activation, at every token, and keeps what the dictionary
does not explain. Sampling pins it at its largest value at every token and goes on from "1,2,3,…",
as in the paper; the latents are those nearest to the proxies, and random ones.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from markupsafe import Markup
from torch import Tensor

from monosem.editing.interventions import ablate_latents, clamp_latents
from monosem.metrics.measure import Measure, mean_of_few
from monosem.metrics.sample import Sample
from monosem.rendering.tokens import highlight
from monosem.rendering.visible import printable
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.automata import LEAST
from monosem.studies.towards_monosemanticity.setting import Setting

N_RANDOM = 3
N_CONTEXTS = 8
"""Contexts, those with the largest activation, over which a latent is ablated."""
BEFORE, AFTER = 12, 8
"""Tokens shown around the largest activation."""
PREFIX = "1,2,3,4,5,6,7,8,9,10"
N_SAMPLED = 40


@dataclass(frozen=True)
class Effect:
    """One latent, ablated and pinned."""

    name: str
    latent: int
    where_on: Measure
    """Loss that ablation adds to the token after one on which the latent fires, in nats."""
    elsewhere: Measure
    """The same after tokens on which it does not."""
    shown: Markup
    """Where it is strongest: activation, and what its ablation costs each token."""
    pinned: str
    plain: str


def effects(setting: Setting) -> Figure:
    """Return ablation effects and pinned samples of a few latents."""
    found = [_effect(name, latent, setting) for name, latent in chosen(setting)]
    how = "monosem.editing.interventions; studies/towards_monosemanticity/effects.py"
    items: list[Item] = []
    for one in found:
        items += [
            Item(
                item=f"{one.name} ({one.latent}): loss added by ablation after tokens it fires on",
                here=str(one.where_on),
                unit="nats",
                how=how,
            ),
            Item(
                item=f"{one.name} ({one.latent}): after tokens it does not",
                here=str(one.elsewhere),
                unit="nats",
                how=how,
            ),
        ]
    return Figure(
        name="effects",
        title="What latents do",
        text=(
            "For each latent two lines of text where it is strongest: its activation, and the loss that each "
            "token gains when it is ablated everywhere. Below, what the model writes after "
            f"“{PREFIX}” while the latent is pinned at its largest value, and without that. The latents are "
            "those nearest to the proxies the text has, and random ones."
        ),
        drawings=tuple(str(_drawn(one)) for one in found),
        captions=tuple(f"{one.name}: latent {one.latent}" for one in found),
        items=tuple(items),
        notes={"contexts of each": str(N_CONTEXTS), "sampled tokens": str(N_SAMPLED)},
    )


def chosen(setting: Setting) -> list[tuple[str, int]]:
    """Return latents nearest to the proxies that apply, and random ones that fire often enough."""
    sample = setting.sample
    found: dict[int, str] = {}
    for name, kind in setting.nearest.items():
        if kind.best.correlation.beyond_null:
            found.setdefault(kind.best.latent, name)
    alive = np.flatnonzero(sample.n_fired() >= LEAST)
    for i in np.random.default_rng(setting.seed).permutation(alive)[:N_RANDOM]:
        found.setdefault(int(i), "random")
    return [(name, latent) for latent, name in found.items()]


def added_loss(
    setting: Setting, latent: int, contexts: Int64[np.ndarray, " n"]
) -> Float[Tensor, "n pos_but_one"]:
    """Return the loss that ablating `latent` at all tokens adds to each next token, in nats."""
    tokens = torch.from_numpy(setting.store.tokens(contexts))
    with torch.no_grad():
        plain = setting.model.losses(tokens)
        with ablate_latents(setting.model, setting.site, setting.main, [latent]):
            without = setting.model.losses(tokens)
    return (without - plain).cpu()


def sampled(setting: Setting, latent: int | None, value: float) -> str:
    """Return a continuation of `PREFIX`, with `latent` pinned at `value` at all tokens, or as it comes."""
    tokenizer = setting.store.tokenizer
    tokens: list[int] = list(tokenizer.encode(PREFIX, add_special_tokens=False))
    bos = cast("int | None", tokenizer.bos_token_id)
    if bos is not None:
        tokens.insert(0, bos)
    start = len(tokens)
    generator = torch.Generator().manual_seed(setting.seed)
    with torch.no_grad():
        for _ in range(min(N_SAMPLED, setting.model.context - start)):
            row = torch.tensor([tokens])
            if latent is None:
                logits = setting.model.logits(row)[0, -1]
            else:
                with clamp_latents(setting.model, setting.site, setting.main, {latent: value}):
                    logits = setting.model.logits(row)[0, -1]
            drawn = torch.multinomial(logits.float().cpu().softmax(0), 1, generator=generator)
            tokens.append(int(drawn))
    return str(tokenizer.decode(tokens[start:]))


def _effect(name: str, latent: int, setting: Setting) -> Effect:
    sample = setting.sample
    column = sample.column(latent)
    context_of = sample.text.context_of
    strongest = np.zeros(len(sample.text))
    np.maximum.at(strongest, context_of, column)
    best = np.argsort(-strongest, kind="stable")[:N_CONTEXTS]
    added = added_loss(setting, latent, sample.text.contexts[best])
    on, off = _split(sample, column, best, added)
    largest = float(column.max())
    return Effect(
        name=name,
        latent=latent,
        where_on=mean_of_few(on),
        elsewhere=mean_of_few(off),
        shown=_lines(sample, column, int(best[0]), added[0]),
        pinned=sampled(setting, latent, largest),
        plain=sampled(setting, None, 0.0),
    )


def _split(
    sample: Sample,
    column: Float[np.ndarray, " tokens"],
    best: Int64[np.ndarray, " n"],
    added: Float[Tensor, "n pos_but_one"],
) -> tuple[Float[np.ndarray, " on"], Float[np.ndarray, " off"]]:
    """Return means over contexts of the added loss, after tokens with and without the latent."""
    on: list[float] = []
    off: list[float] = []
    for row, context in enumerate(best):
        value = np.zeros(sample.text.tokens.shape[1])
        value[sample.text.ordinary[context]] = column[sample.text.context_of == context]
        fires = value[:-1] > 0
        effect = added[row].double().numpy()
        if fires.any():
            on.append(float(effect[fires].mean()))
        if (~fires).any():
            off.append(float(effect[~fires].mean()))
    return np.array(on), np.array(off)


def _lines(
    sample: Sample,
    column: Float[np.ndarray, " tokens"],
    context: int,
    added: Float[Tensor, " pos_but_one"],
) -> Markup:
    value = np.zeros(sample.text.tokens.shape[1])
    value[sample.text.ordinary[context]] = column[sample.text.context_of == context]
    at = int(value.argmax())
    span = slice(max(0, at - BEFORE), at + AFTER)
    pieces = list(sample.text.pieces[context][span])
    # The loss of a token is what the one before it predicts.
    cost = np.concatenate([[0.0], added.numpy()])[span]
    first = highlight(pieces, value[span].tolist(), maximum=float(column.max()))
    second = highlight(pieces, np.maximum(cost, 0).tolist(), maximum=max(float(cost.max()), 1e-6))
    return Markup('<p class="note">activation</p>{}<p class="note">loss added</p>{}').format(
        first, second
    )


def _drawn(one: Effect) -> Markup:
    return Markup(
        '{}<p class="note">pinned: <code>{}</code></p><p class="note">as it is: <code>{}</code></p>'
    ).format(one.shown, printable(one.pinned), printable(one.plain))
