"""What is said of the paper's own features: found, seen or not to be told, ahead of the neuron or not."""

import numpy as np

from monosem.metrics.measure import Measure, not_applicable
from monosem.metrics.specificity import Ahead, BestUnit, Specificity, curves
from monosem.studies.towards_monosemanticity.proxies import Found, judged


def agreeing(*, share: float, low: float, usual: float) -> Specificity:
    """A unit with `share` of its activation on a kind that holds for `usual` of all tokens."""
    on_kind = Measure(value=share, low=low, high=min(1.0, share + 0.05), null=usual)
    return Specificity(
        specificity=on_kind,
        expected=on_kind,
        sensitivity=Measure(value=0.3),
        correlation=Measure(value=0.5, low=low / 2, high=0.6, null=0.0),
        curves=curves(np.ones(4), np.zeros(4, bool)),
    )


def followed(kind: str, *, low: float, usual: float, neuron: float | None = 0.2) -> Found:
    """A latent with nine tenths of its activation on a kind, beside a neuron with `neuron` of its own."""
    agrees = agreeing(share=0.9, low=low, usual=usual)
    other, lead = BestUnit(latent=-1, correlation=not_applicable("two tokens")), None
    if neuron is not None:
        theirs = agreeing(share=neuron, low=neuron, usual=usual)
        other = BestUnit(latent=1, correlation=theirs.correlation, agreement=theirs)
        lead = Ahead(
            correlation=Measure(value=-0.1, low=-0.2, high=0.05, null=0.0),
            expected=Measure(value=0.9 - neuron, low=0.8 - neuron, high=1.0 - neuron, null=0.0),
        )
    return Found(kind, 0, agrees.correlation, agrees, other, lead)


def test_a_feature_counts_as_found_by_the_lower_end_of_what_is_on_its_kind() -> None:
    assert judged(followed("Arabic", low=0.8, usual=0.1)).startswith("found, on 30% of the kind")
    assert judged(followed("DNA", low=0.0, usual=0.01)).startswith(
        "seen, but the intervals leave it open"
    )
    # names and single letters, which the paper's proxy of base64 holds for
    assert judged(followed("base64", low=0.8, usual=0.16)).startswith("not to be told")


def test_a_latent_is_ahead_of_a_neuron_by_their_difference_alone() -> None:
    """The latent's interval lies above the neuron's point, and that of the difference around nothing."""
    said = judged(followed("Arabic", low=0.8, usual=0.1, neuron=0.2))
    assert "the best neuron: not, it fires on other things" in said
    assert "correlation is not told from the neuron's" in said and said.endswith("kind ahead")
    worse = judged(followed("Arabic", low=0.8, usual=0.1, neuron=1.0))
    assert "the best neuron: found, on 30% of the kind" in worse
    assert worse.endswith("not told from the neuron's")
    nobody = judged(followed("Arabic", low=0.8, usual=0.1, neuron=None))
    assert nobody.endswith("the best neuron: not measured (two tokens)")
