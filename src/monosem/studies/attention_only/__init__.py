"""Huben & Morris, *Attention-Only Transformers*: claim by claim, what is measured beside what is proved.

Bounds come from derivations in `monosem.constructions` and in `bounds.py`, and are there before
anything is measured; where a claim says "limit", the bound is a fixed one that no derivation gives.
"""

from collections.abc import Sequence

import torch

from monosem.core.errors import ConfigError
from monosem.studies.attention_only.claim import Claim as Claim
from monosem.studies.attention_only.masks import masks, products
from monosem.studies.attention_only.models import models
from monosem.studies.attention_only.neurons import activations, linear, neurons
from monosem.studies.attention_only.selectors import selectors

SCALES = {"small": 1, "full": 4}
"""How much larger widths and how many more draws than in the small study."""


def attention_only(scale: str = "small", named: Sequence[str] = ()) -> list[Claim]:
    """Return all claims, measured now, on models of the package and on those `named`.

    `small` takes under a minute for each model.
    """
    if scale not in SCALES:
        raise ConfigError(f"`scale` must be one of {', '.join(SCALES)}, got `{scale}`.")
    size = SCALES[scale]
    with torch.no_grad():
        return [
            *neurons(size),
            *activations(),
            *linear(size),
            *masks(size),
            *products(size),
            *models(named),
            *selectors(size),
        ]
