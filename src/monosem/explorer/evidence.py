"""Two plain measures of how much a feature's examples say, and the features chosen by them.

Over examples drawn from all eleven intervals of activation, strong and weak alike:

    same_token = share of them that fire on the commonest token
    predicted  = share of them whose next token is among the tokens the feature promotes

The first is about what the feature reads, the second about whether what it writes fits what
follows. Neither sees meaning: a feature that both miss may still have one, and a reader must look.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from monosem.features.database import FeatureDatabase
from monosem.features.feature import Feature
from monosem.rendering.template import share
from monosem.rendering.tokens import token
from monosem.rendering.visible import visible

POOL = 400
"""Features that `choose` looks at closely."""
LEAST_FIRED = 100
"""Firings below which a feature is not chosen: eleven intervals would hold too little."""
PLAIN = 0.2
"""Share under which a measure counts as having seen nothing."""
NO_PATTERN = "No plain pattern."
ONE_TOKEN = 0.9
"""Share from which a feature counts as one of a single token."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the interval examples of one feature show."""

    n_examples: int
    token: str
    same_token: float
    predicted: float

    @property
    def score(self) -> float:
        """The sum of both shares."""
        return self.same_token + self.predicted


def evidence(database: FeatureDatabase, feature: Feature) -> Evidence:
    """Return both measures of one feature."""
    windows = [
        database.window(e, before=0, after=1) for e in database.examples(feature.index, "interval")
    ]
    if not windows:
        return Evidence(n_examples=0, token="", same_token=0.0, predicted=0.0)
    promoted = {piece for _, piece, _ in feature.top_logits if piece}
    fired_on = Counter(w.pieces[w.focus] for w in windows)
    commonest, n_same = fired_on.most_common(1)[0]
    followed = [w.pieces[w.focus + 1] in promoted for w in windows if w.focus + 1 < len(w.pieces)]
    return Evidence(
        n_examples=len(windows),
        token=commonest,
        same_token=n_same / len(windows),
        predicted=sum(followed) / max(len(followed), 1),
    )


def remark(feature: Feature, found: Evidence) -> Markup:
    """Return one honest sentence on the feature: what the measures saw, or how it fails."""
    words = _words(feature, found).replace(NO_PATTERN, f"<b>{NO_PATTERN}</b>")
    return Markup(words).format(token(found.token))


def plain_remark(feature: Feature, found: Evidence) -> str:
    """Return the same sentence for a terminal."""
    return _words(feature, found).format(visible(found.token, edges=True))


def _words(feature: Feature, found: Evidence) -> str:
    """Return the sentence with a place for the token: nothing in it comes from the text."""
    if feature.status == "dead":
        return "Dead: it fired on none of the tokens looked at."
    start = "Ultralow: too rare to tell from chance. " if feature.status == "ultralow" else ""
    if found.n_examples == 0:
        return f"{start}No examples."
    if max(found.same_token, found.predicted) < PLAIN:
        start += f"{NO_PATTERN} "
    return (
        f"{start}Of {found.n_examples} examples over all intervals, {share(found.same_token)} fire on "
        f"{{}}; in {share(found.predicted)} the next token is one it promotes."
    )


def choose(database: FeatureDatabase, n_features: int, seed: int) -> list[tuple[Feature, Evidence]]:
    """Return the features with the highest score among `POOL` drawn by `seed` from the alive ones.

    No two share their commonest token, and at most half are features of a single token.
    """
    alive = [
        f
        for f in database.list(sort="index", status="alive", limit=database.n_latents)
        if f.n_fired >= LEAST_FIRED
    ]
    order = np.random.default_rng(seed).permutation(len(alive))[:POOL]
    scored = [(alive[i], evidence(database, alive[i])) for i in sorted(order.tolist())]
    scored.sort(key=lambda pair: (-pair[1].score, pair[0].index))
    chosen: list[tuple[Feature, Evidence]] = []
    for feature, found in scored:
        single = sum(e.same_token >= ONE_TOKEN for _, e in chosen)
        if found.token in {e.token for _, e in chosen}:
            continue
        if found.same_token >= ONE_TOKEN and single >= n_features // 2:
            continue
        chosen.append((feature, found))
        if len(chosen) == n_features:
            break
    return chosen


def draw(database: FeatureDatabase, n_features: int, seed: int) -> list[tuple[Feature, Evidence]]:
    """Return features drawn by `seed` from all of them, the dead and the ultralow included."""
    indices: Sequence[int] = (
        np.random.default_rng(seed)
        .choice(database.n_latents, size=min(n_features, database.n_latents), replace=False)
        .tolist()
    )
    features = [database.feature(i) for i in indices]
    return [(f, evidence(database, f)) for f in features]
