"""Finite-state automata: latents whose raised logits are the tokens on which other latents fire next.

An edge i → j: the tokens whose logits latent i raises most are, more than chance has it, tokens on which
latent j fires. Loops are latents that bring themselves about again, as in base64; cycles are little
automata, as in HTML. Edges are asked for from both sides: by weights, and on text, where j fires at the
token after i.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array

from monosem.metrics.sample import Sample
from monosem.models.effects import logit_effects
from monosem.rendering import table
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

TOP = 10
"""Raised logits that are looked at."""
EDGE = 0.5
"""Share of j's firings, on tokens that i raises, from which there is an edge by weights."""
LIFT = 3.0
"""How much more often than usual j must fire after i."""
LEAST = 20
"""Firings that a latent needs."""
SHOWN = 12


@dataclass(frozen=True)
class Edge:
    """From one latent to one that fires on what it raises."""

    source: int
    target: int
    raised: float
    """Share of the target's activation on the tokens that the source raises most."""
    lift: float
    """How often the target fires right after the source, over how often it fires."""


def automata(setting: Setting) -> Figure:
    """Return loops and cycles of two among the latents of the main dictionary."""
    edges = found_edges(setting)
    loops = [e for e in edges if e.source == e.target]
    by_pair = {(e.source, e.target): e for e in edges}
    cycles = [
        (e, by_pair[e.target, e.source])
        for e in edges
        if e.source < e.target and (e.target, e.source) in by_pair
    ]
    how = "studies/towards_monosemanticity/automata.py; monosem study towards-monosemanticity"
    return Figure(
        name="automata",
        title="Little automata",
        text=(
            f"Latent i leads to latent j where {EDGE:.0%} of j's activation is on the {TOP} tokens whose "
            f"logits i raises most, and j fires at the next token {LIFT:g} times as often as usual. Loops "
            "lead to themselves."
        ),
        drawings=(_listed(loops, setting), _pairs(cycles, setting)),
        captions=("Loops, the strongest", "Cycles of two, the strongest"),
        items=(
            Item(item="edges", here=len(edges), how=how),
            Item(
                item="loops",
                here=len(loops),
                paper="base64 (A/0/45)",
                paper_certainty="read in the paper",
                how=how,
            ),
            Item(
                item="cycles of two",
                here=len(cycles),
                paper="ALL_CAPS and underscore (A/0)",
                paper_certainty="read in the paper",
                how=how,
            ),
        ),
        notes={"latents": f"{setting.main.n_latents:,}"},
    )


def found_edges(setting: Setting) -> list[Edge]:
    """Return all edges, the strongest first."""
    sample = setting.sample
    effects = logit_effects(setting.model, setting.site, setting.main.W_dec.detach())
    raised = effects.topk(TOP, dim=1).indices.cpu().numpy()
    tokens = sample.text.tokens[sample.text.ordinary]
    alive = np.flatnonzero(sample.n_fired() >= LEAST)
    on_token = activation_by_token(sample, tokens, effects.shape[1])
    share = on_token / np.maximum(on_token.sum(1, keepdims=True), 1e-30)
    following = after(sample)
    edges: list[Edge] = []
    for i in alive:
        reach = share[:, raised[i]].sum(1)
        for j in np.flatnonzero(reach >= EDGE):
            lift = float(following[i, j])
            if j in alive and lift >= LIFT:
                edges.append(Edge(int(i), int(j), float(reach[j]), lift))
    return sorted(edges, key=lambda e: -e.raised)


def activation_by_token(
    sample: Sample, tokens: np.ndarray, vocab: int
) -> Float[np.ndarray, "n_latents vocab"]:
    """Return the activation of each latent summed over each token of the vocabulary."""
    rows = np.arange(len(tokens))
    one_hot = csr_array(
        (np.ones(len(tokens), np.float32), (rows, tokens)), shape=(len(tokens), vocab)
    )
    return (sample.latents.T @ one_hot).toarray()


def after(sample: Sample) -> Float[np.ndarray, "n_latents n_latents"]:
    """Return how often each latent fires right after each, over how often it fires at all."""
    on = sample.latents.copy()
    on.data = (on.data > 0).astype(np.float32)
    context = sample.text.context_of
    same = np.flatnonzero(context[1:] == context[:-1])
    here, following = on[same], on[same + 1]
    both = (here.T @ following).toarray()
    usual = np.asarray(following.mean(0)).ravel()
    fired = np.asarray(here.sum(0)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(both / fired[:, None] / usual[None, :])


def _listed(loops: list[Edge], setting: Setting) -> str:
    rows = [
        [str(e.source), _tokens(e.source, setting), f"{e.raised:.2f}", f"{e.lift:.1f}"]
        for e in loops[:SHOWN]
    ]
    return str(table.html(["latent", "raises", "on them", "× as often next"], rows))


def _pairs(cycles: list[tuple[Edge, Edge]], setting: Setting) -> str:
    rows = [
        [
            f"{e.source} ⇄ {e.target}",
            f"{_tokens(e.source, setting)} / {_tokens(e.target, setting)}",
            f"{e.lift:.1f} / {back.lift:.1f}",
        ]
        for e, back in cycles[:SHOWN]
    ]
    return str(table.html(["latents", "raise", "× as often next"], rows))


@torch.no_grad()
def _tokens(latent: int, setting: Setting) -> str:
    row = setting.main.W_dec.detach()[latent : latent + 1]
    best = logit_effects(setting.model, setting.site, row)[0].topk(4).indices.tolist()
    return " ".join(repr(str(setting.store.tokenizer.decode([t])))[1:-1] for t in best)
