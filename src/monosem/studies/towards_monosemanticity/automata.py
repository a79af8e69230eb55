"""Finite-state automata: latents whose raised logits are the tokens on which other latents fire next.

An edge i → j: the tokens whose logits latent i raises most are, more than chance has it, tokens on which
latent j fires. Loops are latents that bring themselves about again, as in base64; cycles are little
automata, as in HTML. Edges are asked for from both sides: by weights, and on text, where j fires at the
token after i.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from monosem.metrics.by_token import activation_by_token, scaled, sums
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
AT_ONCE = 1024
"""Latents whose effects on all logits are in memory at once."""
N_PERMUTATIONS = 5
"""Times that the logits are dealt out anew."""


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
    """Return loops and cycles of two among the latents of the main dictionary, beside chance."""
    evidence = Evidence.of(setting)
    edges = evidence.edges(np.arange(setting.main.n_latents))
    random = np.random.default_rng(setting.seed)
    nulls = [
        evidence.edges(random.permutation(setting.main.n_latents)) for _ in range(N_PERMUTATIONS)
    ]
    how = "studies/towards_monosemanticity/automata.py; monosem study towards-monosemanticity"
    paper: dict[str, str] = {
        "loops": "base64 (A/0/45)",
        "cycles of two": "ALL_CAPS and underscore (A/0)",
    }
    counts: dict[str, Callable[[list[Edge]], int]] = {
        "edges": len,
        "loops": lambda found: len(_loops(found)),
        "cycles of two": lambda found: len(_cycles(found)),
    }
    return Figure(
        name="automata",
        title="Finite-state automata",
        text=(
            f"Latent i leads to latent j where {EDGE:.0%} of j's activation is on the {TOP} tokens whose "
            "logits i raises most above what latents do on average, and j fires at the next token "
            f"{LIFT:g} times as often as usual. Loops lead to themselves. Chance: the same count with the "
            f"logits of latents dealt out anew among them, the mean and the most of {N_PERMUTATIONS}. A "
            "count within chance says that there is nothing to see, and its list is only a list."
        ),
        drawings=(
            _listed(_loops(edges), evidence, setting),
            _pairs(_cycles(edges), evidence, setting),
        ),
        captions=("Loops, the strongest", "Cycles of two, the strongest"),
        items=tuple(
            Item(
                item=name,
                here=_beside_chance(count(edges), [count(null) for null in nulls]),
                paper=paper.get(name),
                paper_certainty="read in the paper" if name in paper else "—",
                how=how,
            )
            for name, count in counts.items()
        ),
        notes={"latents": f"{setting.main.n_latents:,}"},
    )


@dataclass(frozen=True, eq=False)
class Evidence:
    """What edges are judged by: raised tokens, activation on tokens, and what follows what."""

    raised: Int64[np.ndarray, "n_latents top"]
    """The tokens whose logits each latent raises most, above the mean of all latents."""
    share: csc_array
    """Of each latent's activation, the share on each token, [n_latents vocab]."""
    lift: csr_array
    """How often a latent fires right after another, over how often it fires, [n_latents n_latents]."""
    alive: Int64[np.ndarray, " alive"]

    @classmethod
    def of(cls, setting: Setting) -> "Evidence":
        """Return the evidence on the main dictionary."""
        sample = setting.sample
        tokens = sample.text.tokens[sample.text.ordinary]
        on_token = activation_by_token(sample, tokens, setting.model.vocab_size)
        share = scaled(on_token, 1 / np.maximum(sums(on_token, 1), 1e-30))
        return cls(
            raised(setting), share.tocsc(), after(sample), np.flatnonzero(sample.n_fired() >= LEAST)
        )

    def edges(self, dealt: Int64[np.ndarray, " n_latents"]) -> list[Edge]:
        """Return the edges, the strongest first, where latent i raises what `dealt[i]` raises."""
        found: list[Edge] = []
        for i in self.alive:
            reach = sums(self.share[:, self.raised[dealt[i]]], 1)
            lift = self.lift[[i]].toarray()[0]
            for j in self.alive[(reach[self.alive] >= EDGE) & (lift[self.alive] >= LIFT)]:
                found.append(Edge(int(i), int(j), float(reach[j]), float(lift[j])))
        return sorted(found, key=lambda e: -e.raised)


@torch.no_grad()
def raised(setting: Setting) -> Int64[np.ndarray, "n_latents top"]:
    """Return the tokens whose logits each latent raises most, above what latents do on average."""

    def effects(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        return logit_effects(setting.model, setting.site, rows)

    # Tokens that every latent raises, frequent ones, say nothing of any. Effects are linear in the row, so
    # that of the mean is their mean, and all of them need not be there at once.
    W_dec = setting.main.W_dec.detach()
    usual = effects(W_dec.mean(0, keepdim=True))
    parts = [(effects(rows) - usual).topk(TOP, dim=1).indices for rows in W_dec.split(AT_ONCE)]
    return torch.cat(parts).cpu().numpy()


def _loops(edges: list[Edge]) -> list[Edge]:
    return [e for e in edges if e.source == e.target]


def _cycles(edges: list[Edge]) -> list[tuple[Edge, Edge]]:
    by_pair = {(e.source, e.target): e for e in edges}
    return [
        (e, by_pair[e.target, e.source])
        for e in edges
        if e.source < e.target and (e.target, e.source) in by_pair
    ]


def _beside_chance(found: int, nulls: list[int]) -> str:
    return f"{found:,} (chance {np.mean(nulls):.3g}, at most {max(nulls):,})"


def after(sample: Sample) -> csr_array:
    """Return how often each latent fires right after each, over how often it fires at all."""
    on = sample.latents.copy()
    on.data = (on.data > 0).astype(np.float32)
    context = sample.text.context_of
    same = np.flatnonzero(context[1:] == context[:-1])
    here, following = on[same], on[same + 1]
    both = csr_array(here.T @ following)
    usual = sums(following, 0) / max(1, len(same))
    both = scaled(both, 1 / np.maximum(sums(here, 0), 1))
    both.data = both.data / usual[both.indices]
    return both


def _listed(loops: list[Edge], evidence: Evidence, setting: Setting) -> str:
    rows = [
        [str(e.source), _tokens(e.source, evidence, setting), f"{e.raised:.2f}", f"{e.lift:.1f}"]
        for e in loops[:SHOWN]
    ]
    return str(table.html(["latent", "raises", "on them", "× as often next"], rows))


def _pairs(cycles: list[tuple[Edge, Edge]], evidence: Evidence, setting: Setting) -> str:
    rows = [
        [
            f"{e.source} ⇄ {e.target}",
            f"{_tokens(e.source, evidence, setting)} / {_tokens(e.target, evidence, setting)}",
            f"{e.lift:.1f} / {back.lift:.1f}",
        ]
        for e, back in cycles[:SHOWN]
    ]
    return str(table.html(["latents", "raise", "× as often next"], rows))


def _tokens(latent: int, evidence: Evidence, setting: Setting) -> str:
    best = evidence.raised[latent, :4].tolist()
    return " ".join(repr(str(setting.store.tokenizer.decode([t])))[1:-1] for t in best)
