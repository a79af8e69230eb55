"""What the study is run on: scale, model, text, and the dictionaries that all figures share."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.sparse import csr_array

from monosem.core.artifact import write_json
from monosem.core.config import Json, content_hash, to_json
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.relu import ReLUConfig
from monosem.features.database import FeatureDatabase
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.metrics.firing import Firing, count_firing
from monosem.metrics.sample import Sample, draw, vertical
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import randomised
from monosem.studies.running import trained
from monosem.studies.towards_monosemanticity.kinds import Nearest, nearest
from monosem.text.tokens import TokenStore
from monosem.training.trainer import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is."""

    max_tokens: int
    """Tokens of text, where the study makes its own; 0: all."""
    ratios: tuple[int, ...]
    """Widths of the dictionaries, in neurons."""
    main: int
    """Which of them is looked at closely."""
    n_tokens: int
    """Activations that each is trained on."""
    n_widest: int
    """The same of those wider than `main`."""
    batch: int
    """Of them in a step."""
    l0: float
    """Latents that fire in a token, aimed at."""
    n_eval: int
    """Held-out tokens of losses, and of samples that are looked at."""
    n_density: int
    """Tokens over which firings are counted."""
    n_units: int
    """Units drawn for polysemanticity."""
    n_described: int
    """Tokens from which the features of each dictionary are described."""


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        max_tokens=250_000,
        ratios=(1, 2),
        main=2,
        n_tokens=100_000,
        n_widest=100_000,
        batch=256,
        l0=16.0,
        n_eval=8_192,
        n_density=40_000,
        n_units=8,
        n_described=20_000,
    ),
    "small": Scale(
        max_tokens=6_000_000,
        ratios=(1, 2, 8, 32),
        main=8,
        n_tokens=800_000,
        n_widest=150_000,
        batch=512,
        l0=16.0,
        n_eval=65_536,
        n_density=150_000,
        n_units=60,
        n_described=50_000,
    ),
    "paper": Scale(
        max_tokens=0,
        ratios=(1, 2, 8, 32, 64, 256),
        main=8,
        n_tokens=8_000_000_000,
        n_widest=8_000_000_000,
        batch=8192,
        l0=16.0,
        n_eval=1_048_576,
        n_density=100_000_000,
        n_units=400,
        n_described=100_000_000,
    ),
}
"""tiny: about a minute; small: an hour at most, on two cores; paper: its sizes, on any model."""
ROWS_AT_ONCE = 65_536
OTHER_SEED = 1
"""Of the second dictionary, by which one seed's latents are found in another's."""


WritePage = Callable[[FeatureDatabase, Json, Path, str], object]
"""Writes the page of a dictionary: from its features and measures, to a file, under a title."""


@dataclass(frozen=True)
class Setting:
    """One model, its text, one scale; and a second model, where there is one."""

    scale: Scale
    model: LanguageModel
    store: TokenStore
    site: str
    out: Path
    seed: int = 0
    second: LanguageModel | None = None
    write_page: WritePage | None = None
    fresh: bool = False
    """Measure and describe anew what is kept; dictionaries are used again."""

    @property
    def key(self) -> str:
        """A hash of what all figures hang on: of two models, the first."""
        parts = [to_json(self.scale), self.model.hash, self.store.hash, self.site, self.seed]
        return content_hash(parts)

    @property
    def key_of_both(self) -> str:
        """The same for figures that look at the second model too."""
        return content_hash([self.key, self.second.hash if self.second else ""])

    @property
    def place(self) -> Place:
        """The site of the model, reading the text."""
        return Place(self.model, self.store, self.site)

    @property
    def measuring(self) -> EvaluateConfig:
        """How much text measures read."""
        s = self.scale
        return EvaluateConfig(
            n_loss_tokens=s.n_eval,
            n_mean_tokens=s.n_eval,
            n_density_tokens=s.n_density,
            seed=self.seed,
        )

    @cached_property
    def widths(self) -> dict[int, Dictionary[Any]]:
        """The dictionaries by their width in neurons, trained on one stream from its beginning."""
        return {
            ratio: self.main if ratio == self.scale.main else self._trained(self.model, ratio)
            for ratio in self.scale.ratios
        }

    @cached_property
    def main(self) -> Dictionary[Any]:
        """The dictionary that is looked at closely."""
        return self._trained(self.model, self.scale.main)

    @cached_property
    def other(self) -> Dictionary[Any]:
        """One of the same width: of the second model, or of another seed where there is none."""
        return self._trained(self.second or self.model, self.scale.main, self.seed + OTHER_SEED)

    @cached_property
    def shuffled(self) -> LanguageModel:
        """The model with the entries of its matrices in another order."""
        return randomised(self.model, self.seed)

    @cached_property
    def of_shuffled(self) -> Dictionary[Any]:
        """The same dictionary, trained on the shuffled model."""
        return self._trained(self.shuffled, self.scale.main)

    @cached_property
    def firings(self) -> dict[int, Firing]:
        """On how many tokens each latent fires, by the dictionary's width."""
        found = count_firing(
            {str(ratio): dictionary for ratio, dictionary in self.widths.items()},
            self.place,
            n_tokens=self.scale.n_density,
            seed=self.seed,
            batch=self.measuring.batch_tokens,
            policy="fp32",
        )
        return {ratio: found[str(ratio)] for ratio in self.scale.ratios}

    @cached_property
    def evaluated(self) -> dict[int, Json]:
        """What each dictionary explains and costs, by its width; kept in `out` for all figures."""
        kept = self.out / f"evaluation-{self.key[:8]}.json"
        if kept.is_file() and not self.fresh:
            rows: Json = json.loads(kept.read_text(encoding="utf-8"))
        else:
            names = {str(ratio): dictionary for ratio, dictionary in self.widths.items()}
            where = self.model, self.store, self.measuring
            firing = {str(ratio): counts for ratio, counts in self.firings.items()}
            rows = evaluate_many(names, *where, site=self.site, neurons=False, firing=firing)
            write_json(kept, rows)
        return {ratio: rows[str(ratio)] for ratio in self.scale.ratios}

    @cached_property
    def basis(self) -> Sample:
        """What the neurons themselves make of the same text."""
        sample = self.sample
        parts = [csr_array(part.clamp(min=0).numpy()) for part in sample.x.split(ROWS_AT_ONCE)]
        return Sample(sample.text, sample.x, vertical(parts))

    @cached_property
    def sample(self) -> Sample:
        """What the main dictionary makes of held-out text."""
        return draw(self.main, self.place, n_tokens=self.scale.n_eval, seed=self.seed)

    @cached_property
    def nearest(self) -> dict[str, Nearest]:
        """Kinds of text, each with the latent of the main dictionary that follows it most closely."""
        return nearest(self.sample, self.store, self.seed)

    def n_tokens(self, ratio: int) -> int:
        """Activations that a dictionary of this width is trained on."""
        return self.scale.n_widest if ratio > self.scale.main else self.scale.n_tokens

    def _trained(
        self, model: LanguageModel, ratio: int, seed: int | None = None
    ) -> Dictionary[Any]:
        kind = ReLUConfig(
            n_latents=ratio * model.width(self.site),
            l0=self.scale.l0,
            seed=self.seed if seed is None else seed,
        )
        config = TrainConfig(
            site=self.site,
            dictionaries=(kind,),
            n_tokens=self.n_tokens(ratio),
            batch_size=self.scale.batch,
            seed=self.seed,
        )
        run = trained(config, model, self.store, self.out, name=f"{ratio}x")
        return run[run.names[0]]
