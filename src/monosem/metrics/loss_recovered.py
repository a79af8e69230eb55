"""Loss recovered: what a spliced dictionary costs the language model, beside what an ablation costs.

    delta_ce       = E[spliced − original]                              nats a token
    gap            = E[ablated − original]                              nats a token
    loss_recovered = 1 − delta_ce / gap = E[ablated − spliced] / gap

1 is a perfect splice, 0 no better than the ablation, and it can leave [0, 1]. The ablation is
always named: `zero` is the flattering one (Bricken et al. 2023, "Towards Monosemanticity", which
reports it), `mean` puts the training split's mean in place. Where the gap is under 0.05 nats the
ratio is noise over noise, and void.

In JSON a void measure is `null`, and the sibling field `void` says why:
`{"loss_recovered_mean": null, "void": {"loss_recovered_mean": "gap 0.01 nats < 0.05 nats"}}`.
"""

from jaxtyping import Float
from torch import Tensor

from monosem.metrics.measure import Measure

MINIMUM_GAP = 0.05
"""Nats a token under which a share of the gap says nothing."""


def delta_ce(spliced: Float[Tensor, " tokens"], original: Float[Tensor, " tokens"]) -> float:
    """Return the mean rise of the cross-entropy in nats a token; the tokens are paired."""
    return float((spliced.double() - original.double()).mean())


def loss_recovered(
    original: Float[Tensor, " tokens"],
    spliced: Float[Tensor, " tokens"],
    ablated: Float[Tensor, " tokens"],
) -> Measure:
    """Return the share of the ablation's damage that the splice avoids, from losses per token."""
    return share(delta_ce(spliced, original), delta_ce(ablated, original))


def share(delta: float, gap: float) -> Measure:
    """Return 1 − `delta` / `gap`, void where the gap is under `MINIMUM_GAP`.

    >>> share(0.02, 0.4).value
    0.95
    >>> share(0.02, 0.01).void
    'gap 0.01 nats < 0.05 nats'
    """
    # A splice or ablation that breaks the model may lose infinitely much; `not >=` catches nan too.
    if not gap >= MINIMUM_GAP:
        return Measure(value=None, void=f"gap {gap:.3g} nats < {MINIMUM_GAP} nats")
    return Measure(value=1 - delta / gap)
