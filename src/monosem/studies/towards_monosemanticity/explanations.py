"""Explanations: how far twenty tokens foretell a latent, or a neuron: what words have to beat."""

import numpy as np

from monosem.metrics.token_explanations import (
    LEAST,
    N_LISTED,
    TokenExplanations,
    token_explanations,
)
from monosem.rendering.lines import Axis, svg
from monosem.rendering.visible import visible
from monosem.studies.report import Figure, Item
from monosem.studies.towards_monosemanticity.setting import Setting

N_SHOWN = 5
"""Tokens of an explanation that are shown."""
N_DRAWN = 4
"""Latents drawn at random whose explanations are shown."""
N_POINTS = 101
"""Of a line: quantiles of the scores."""
HOW = "monosem.metrics.token_explanations; monosem study towards-monosemanticity"


def explanations(setting: Setting) -> Figure:
    """Return the scores of latents and neurons, and what the explanations of a few latents say."""
    vocab = setting.store.vocab_size
    found = {
        name: token_explanations(sample, vocab, seed=setting.seed)
        for name, sample in (("latents", setting.sample), ("neurons", setting.basis))
    }
    items = [
        Item(
            item=f"{name}: correlation of activation with what {N_LISTED} tokens foretell, median",
            here=f"{said.score} of {np.isfinite(said.scores).sum():,}",
            how=HOW,
        )
        for name, said in found.items()
    ]
    items += [
        Item(
            item=f"latent {latent}, of those drawn at random: {_words(found['latents'], latent, setting)}",
            here=float(found["latents"].scores[latent]),
            unit="correlation",
            how=HOW,
        )
        for latent in _drawn_latents(found["latents"], setting.seed)
    ]
    drawing = _drawn(found)
    return Figure(
        name="explanations",
        title="What the token alone explains",
        text=(
            f"The plainest explanation of a unit is a list of {N_LISTED} tokens with its mean activation on "
            "each, and one mean for all other tokens. It is learnt on half of the held-out contexts and "
            "scored on the others, by the correlation of the activation it foretells with the activation "
            "that is there, over all tokens. It says how much of a unit is about single tokens, and "
            "explanations in words, which may speak of more, should beat it on the same text. The paper's "
            "scores are other ones: of words, by rank, over sixty chosen examples of a feature. Chance: the "
            "explanation of another unit of the same sort."
        ),
        drawings=(drawing,) if drawing else (),
        captions=("Scores of explanations by tokens",) if drawing else (),
        items=tuple(items),
        notes={"fired in each half at least": str(LEAST), "tokens": f"{len(setting.sample):,}"},
    )


def _drawn_latents(found: TokenExplanations, seed: int) -> list[int]:
    known = np.flatnonzero(np.isfinite(found.scores))
    return np.random.default_rng(seed).permutation(known)[:N_DRAWN].tolist()


def _words(found: TokenExplanations, latent: int, setting: Setting) -> str:
    """Return the first tokens of an explanation, as text."""
    tokenizer = setting.store.tokenizer
    tokens = [token for token, _ in found.of(latent)]
    said = " ".join(f"“{visible(str(tokenizer.decode([t])))}”" for t in tokens[:N_SHOWN])
    return f"{said} and {len(tokens) - N_SHOWN} more" if len(tokens) > N_SHOWN else said


def _drawn(found: dict[str, TokenExplanations]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for name, said in found.items():
        known = said.scores[np.isfinite(said.scores)]
        if len(known):
            ends = np.linspace(0, 1, N_POINTS)
            series[name] = list(zip(ends.tolist(), np.quantile(known, ends).tolist(), strict=True))
    if not series:
        return ""
    return str(
        svg(
            series,
            title="scores of explanations by tokens",
            x=Axis(label="units, in order", low=0.0, high=1.0),
            y=Axis(label="correlation"),
        )
    )
