"""What the study is run on: scale, model, text, and the dictionaries that all figures share."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.config import content_hash, to_json
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.tied import TiedConfig
from monosem.metrics.baselines import BASELINES, Fitted, sample
from monosem.metrics.evaluate import MOST_LASSO
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import randomised
from monosem.studies.running import trained
from monosem.text.tokens import TokenStore
from monosem.training.run import TrainingRun
from monosem.training.sources import source_of
from monosem.training.trainer import TrainConfig

BATCH = 4096
"""Activations that are captured or encoded at once."""
N_SHUFFLES = 2
"""Models that have learnt nothing, of as many seeds."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is."""

    max_tokens: int
    """Tokens of text, where the study makes its own; 0: all."""
    n_tokens: int
    """Activations that a dictionary is trained on."""
    batch: int
    """Of them in a step."""
    ratios: tuple[float, ...]
    """Sizes, in widths of the site."""
    l0s: tuple[float, ...]
    """Latents that fire in a token, of the dictionaries on the curve."""
    n_eval: int
    """Held-out tokens of losses and errors."""
    n_density: int
    """Tokens over which firings are counted."""
    n_fit: int
    """Training activations that baselines are fitted to."""
    n_cases: int
    """Latents whose tokens are shown."""
    baselines: tuple[str, ...]
    """What stands beside the dictionaries."""
    most_atoms: int
    """Atoms of classical dictionary learning, where the dictionary has more latents than that."""
    most_lasso: int
    """Vectors times the square of the atoms, up to which LASSO codes are solved for at a site."""


EVERY = ("neurons", "identity-relu", *BASELINES)
SCALES: dict[str, Scale] = {
    "tiny": Scale(
        max_tokens=250_000,
        n_tokens=100_000,
        batch=256,
        ratios=(1.0, 2.0),
        l0s=(8.0, 24.0),
        n_eval=4_096,
        n_density=20_000,
        n_fit=2_048,
        n_cases=3,
        baselines=("neurons", "identity-relu", "random", "pca", "pca-first", "pca-one"),
        most_atoms=128,
        most_lasso=0,
    ),
    "small": Scale(
        max_tokens=3_000_000,
        n_tokens=1_000_000,
        batch=1024,
        ratios=(0.5, 1.0, 2.0, 4.0),
        l0s=(4.0, 8.0, 16.0, 32.0),
        n_eval=16_384,
        n_density=300_000,
        n_fit=16_384,
        n_cases=6,
        baselines=EVERY,
        most_atoms=1024,
        most_lasso=MOST_LASSO,
    ),
    "paper": Scale(
        max_tokens=0,
        n_tokens=50_000_000,
        batch=2048,
        ratios=(0.5, 1.0, 2.0, 4.0, 8.0),
        l0s=(10.0, 20.0, 40.0, 80.0, 160.0),
        n_eval=262_144,
        n_density=5_000_000,
        n_fit=262_144,
        n_cases=10,
        baselines=EVERY,
        most_atoms=4096,
        most_lasso=16 * MOST_LASSO,
    ),
}
"""tiny: about a minute; small: an hour at most, on two cores; paper: its sizes, on any model."""
MIDDLE_L0 = 2
"""Which of the l0s the dictionaries of several sizes have; the last, where there are fewer."""


@dataclass(frozen=True)
class Setting:
    """One model, its text, one scale."""

    scale: Scale
    model: LanguageModel
    store: TokenStore
    residual: str
    """Residual site."""
    mlp: str
    """Site of MLP neurons."""
    out: Path
    seed: int = 0
    fresh: bool = False
    """Train anew what is refused; good dictionaries are used."""
    kept: dict[str, object] = field(default_factory=dict[str, object], repr=False, compare=False)
    """What one figure has measured and another needs too, by name."""

    @property
    def key(self) -> str:
        """A hash of all that the figures hang on."""
        parts = [to_json(self.scale), self.model.hash, self.store.hash, self.residual, self.mlp]
        return content_hash([*parts, self.seed])

    @property
    def l0(self) -> float:
        """The l0 of the dictionaries of several sizes."""
        return self.scale.l0s[min(MIDDLE_L0, len(self.scale.l0s) - 1)]

    @cached_property
    def curve(self) -> dict[float, Dictionary[Any]]:
        """Tied dictionaries at the residual site, as wide as it is times the largest ratio, by their l0."""
        return self._tied("residual-l0", self.model)

    @cached_property
    def shuffled(self) -> dict[int, LanguageModel]:
        """The model with the entries of its matrices in another order, by the seed of that."""
        seeds = range(self.seed, self.seed + N_SHUFFLES)
        return {seed: randomised(self.model, seed) for seed in seeds}

    @cached_property
    def of_shuffled(self) -> dict[int, dict[float, Dictionary[Any]]]:
        """The same dictionaries as `curve`, trained on each of the shuffled models."""
        return {seed: self._tied("shuffled", model) for seed, model in self.shuffled.items()}

    @cached_property
    def vectors(self) -> Float[Tensor, "sample d_in"]:
        """Activations of the residual site, of the training split: what baselines are fitted to."""
        place = Place(self.model, self.store, self.residual)
        return sample(place, self.scale.n_fit, self.seed, BATCH)

    def fitted(self, n_latents: int) -> Fitted:
        """Return baselines of the residual site beside so many latents, fitted once for all figures."""
        if n_latents not in self._fits:
            self._fits[n_latents] = Fitted(
                self.vectors, n_latents=n_latents, seed=self.seed, most_atoms=self.scale.most_atoms
            )
        return self._fits[n_latents]

    @cached_property
    def _fits(self) -> dict[int, Fitted]:
        return {}

    def met(self, n: int) -> Float[Tensor, "first d_in"]:
        """Return the first vectors that the dictionaries of `curve` were trained on: `n`, or all."""
        config = self._config(self.residual, self._kinds())
        n_steps = min(math.ceil(n / config.batch_size), config.n_steps)
        with contextlib.closing(source_of(config, self.model, self.store, config.sites)) as source:
            parts = [batch.x.cpu().clone() for batch in islice(source, n_steps)]
        return torch.cat(parts)[:n]

    @cached_property
    def sizes(self) -> dict[float, Dictionary[Any]]:
        """Tied dictionaries at the residual site with the same l0, by their size in widths."""
        kinds = [
            TiedConfig(n_latents=self._wide(self.residual, r), l0=self.l0, seed=self.seed)
            for r in self.scale.ratios
        ]
        run = self._train("residual-sizes", self.model, self.residual, kinds)
        return dict(zip(self.scale.ratios, (run[name] for name in run.names), strict=True))

    @cached_property
    def neurons(self) -> dict[float, Dictionary[Any]]:
        """Dictionaries at MLP neurons by their l0: not tied, as in the paper, where tied ones lose."""
        n = self._wide(self.mlp, min(self.scale.ratios[-1], 2.0))
        kinds = [ReLUConfig(n_latents=n, l0=l0, seed=self.seed) for l0 in self.scale.l0s]
        run = self._train("mlp-l0", self.model, self.mlp, kinds)
        return dict(zip(self.scale.l0s, (run[name] for name in run.names), strict=True))

    def _tied(self, name: str, model: LanguageModel) -> dict[float, Dictionary[Any]]:
        run = self._train(name, model, self.residual, self._kinds())
        return dict(zip(self.scale.l0s, (run[each] for each in run.names), strict=True))

    def _kinds(self) -> list[TiedConfig]:
        n = self._wide(self.residual, self.scale.ratios[-1])
        return [TiedConfig(n_latents=n, l0=l0, seed=self.seed) for l0 in self.scale.l0s]

    def _wide(self, site: str, ratio: float) -> int:
        return max(1, round(ratio * self.model.width(site)))

    def _train(
        self, name: str, model: LanguageModel, site: str, kinds: Sequence[Any]
    ) -> TrainingRun:
        config = self._config(site, kinds)
        return trained(config, model, self.store, self.out, name=name, fresh=self.fresh)

    def _config(self, site: str, kinds: Sequence[Any]) -> TrainConfig:
        return TrainConfig(
            site=site,
            dictionaries=tuple(kinds),
            n_tokens=self.scale.n_tokens,
            batch_size=self.scale.batch,
            seed=self.seed,
        )
