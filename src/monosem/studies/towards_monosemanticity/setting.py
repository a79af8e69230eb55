"""What the study is run on: scale, model, text, and the dictionaries that all figures share."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.sparse import csr_array

from monosem.core.artifact import write_json
from monosem.core.config import Json, content_hash, to_json
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.relu import ReLUConfig
from monosem.features.database import FeatureDatabase
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.metrics.firing import Firing, count_firing
from monosem.metrics.record import weights_hash
from monosem.metrics.sample import Sample, draw, vertical
from monosem.metrics.stream import Place, on_device
from monosem.models.language_model import LanguageModel
from monosem.models.randomised import randomised
from monosem.studies.running import trained
from monosem.studies.towards_monosemanticity import evaluation
from monosem.studies.towards_monosemanticity.kinds import Nearest, nearest
from monosem.text.tokens import TokenStore
from monosem.training.optim import OptimConfig
from monosem.training.trainer import TrainConfig

VERSION = 6
"""Of the figures' contents: what was kept from another version is made again."""


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
    """The same of those wider than `main`, up to `WIDE`."""
    n_beyond: int
    """The same of those wider than `WIDE`."""
    batch: int
    """Of them in a step."""
    lr: float
    """Peak learning rate (`OptimConfig.lr`): short runs take a higher one."""
    lr_beyond: float
    """The same of those wider than `WIDE`."""
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
        n_beyond=100_000,
        batch=256,
        lr=5e-4,
        lr_beyond=5e-4,
        n_eval=8_192,
        n_density=40_000,
        n_units=8,
        n_described=20_000,
    ),
    "small": Scale(
        max_tokens=6_000_000,
        ratios=(1, 2, 8, 32),
        main=8,
        n_tokens=4_000_000,
        n_widest=2_000_000,
        n_beyond=500_000,
        batch=512,
        lr=1.5e-3,
        lr_beyond=5e-4,
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
        n_beyond=8_000_000_000,
        batch=8192,
        lr=5e-4,
        lr_beyond=5e-4,
        n_eval=1_048_576,
        n_density=100_000_000,
        n_units=400,
        n_described=100_000_000,
    ),
}
"""tiny: about a minute; small: an hour at most, on two cores; paper: its sizes, on any model."""
FIRINGS_SEEN = 10
"""Times that a latent of average density has to fire in the window in which the silent are called dead: in a
shorter one the living are silent too, and most of a wide dictionary would be resampled at once."""
L0 = 16.0
"""Latents that fire on a token, aimed at: of the paper's 10 to 20."""
ROWS_AT_ONCE = 65_536
WIDE = 32
"""Neurons, beyond which a dictionary costs more than all narrower ones together."""
OTHER_SEED = 1
"""Of the second dictionary, by which one seed's latents are found in another's."""


def sizes(scale: str, ratios: Sequence[int] = ()) -> Scale:
    """Return the sizes of a scale, with other widths where `ratios` names some."""
    found = SCALES[scale]
    if not ratios:
        return found
    given = " ".join(str(r) for r in ratios)
    if min(ratios) < 1 or len(set(ratios)) < len(ratios):
        raise ConfigError(
            f"`--ratios {given}` must be whole numbers from 1 on, each once: widths of dictionaries, in "
            f"neurons. Those of scale `{scale}` are {' '.join(str(r) for r in found.ratios)}."
        )
    if found.main not in ratios or min(ratios) == found.main:
        raise ConfigError(
            f"`--ratios {given}` must hold {found.main}, the width that is looked at closely at scale "
            f"`{scale}`, and a narrower one, which stands beside it on the map. Add what is lacking."
        )
    return dataclasses.replace(found, ratios=tuple(sorted(ratios)))


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
    """Measure and describe anew what is kept, and train anew what is refused; good dictionaries are used."""

    @property
    def key(self) -> str:
        """A hash of what all figures hang on: of two models, the first; of widths, the main one."""
        rest = {name: size for name, size in to_json(self.scale).items() if name != "ratios"}
        parts = [rest, self.model.hash, self.store.hash, self.site, self.seed]
        return content_hash(parts)

    @property
    def key_of_widths(self) -> str:
        """The same for figures that look at all widths."""
        return content_hash([self.key, list(self.scale.ratios)])

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

    def of_width(self, ratio: int) -> Dictionary[Any]:
        """Return one of the dictionaries; the main one does not bring the others with it."""
        return self.main if ratio == self.scale.main else self.widths[ratio]

    def fired(self, ratios: Collection[int]) -> dict[int, Firing]:
        """Return on how many tokens each latent fires, by the dictionary's width; counted once."""
        names = {str(r): self.of_width(r) for r in ratios if r not in self._fired}
        if names:
            found = count_firing(
                names,
                self.place,
                n_tokens=self.scale.n_density,
                seed=self.seed,
                batch=self.measuring.batch_tokens,
                policy="fp32",
            )
            self._fired.update({int(name): counts for name, counts in found.items()})
        return {ratio: self._fired[ratio] for ratio in ratios}

    def evaluated(self, ratios: Collection[int]) -> dict[int, Json]:
        """Return what dictionaries explain and cost, by width; kept in `out` for all figures."""
        places = {r: self._evaluation(r) for r in ratios if r not in self._rows}
        for ratio, place in places.items():
            if place.is_file() and not self.fresh:
                self._rows[ratio] = evaluation.read(place)
        names = {str(r): self.of_width(r) for r in places if r not in self._rows}
        if names:
            firing = {str(r): counts for r, counts in self.fired([int(n) for n in names]).items()}
            where = self.model, self.store, self.measuring
            rows = evaluate_many(names, *where, site=self.site, neurons=False, firing=firing)
            for name, row in rows.items():
                write_json(places[int(name)], row)
                self._rows[int(name)] = row
        return {ratio: self._rows[ratio] for ratio in ratios}

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
        s = self.scale
        if ratio > s.main:
            return s.n_widest if ratio <= WIDE else s.n_beyond
        return s.n_tokens

    def lr(self, ratio: int) -> float:
        """Peak learning rate of a dictionary of this width, before its width divides it."""
        return self.scale.lr if ratio <= WIDE else self.scale.lr_beyond

    def resamples(self, ratio: int) -> bool:
        """Whether dead latents are resampled: where the living have time to fire in the window."""
        window = ReLUConfig.resample_window * self.n_tokens(ratio)
        return window * L0 / (ratio * self.model.width(self.site)) >= FIRINGS_SEEN

    @cached_property
    def _fired(self) -> dict[int, Firing]:
        return {}

    @cached_property
    def _rows(self) -> dict[int, Json]:
        return {}

    def _evaluation(self, ratio: int) -> Path:
        weights = weights_hash(self.of_width(ratio))
        whose = [self.model.hash, self.store.hash, self.site, weights]
        return evaluation.place_of(
            self.out, ratio, [evaluation.VERSION, *whose, to_json(self.measuring)]
        )

    def _trained(
        self, model: LanguageModel, ratio: int, seed: int | None = None
    ) -> Dictionary[Any]:
        n_latents = ratio * model.width(self.site)
        kind = ReLUConfig(n_latents=n_latents, l0=L0, seed=self.seed if seed is None else seed)
        if not self.resamples(ratio):
            kind = dataclasses.replace(kind, resample_at=())
        config = TrainConfig(
            site=self.site,
            dictionaries=(kind,),
            n_tokens=self.n_tokens(ratio),
            batch_size=self.scale.batch,
            optim=OptimConfig(lr=self.lr(ratio)),
            seed=self.seed,
        )
        where = model, self.store, self.out
        run = trained(config, *where, name=f"{ratio}x", fresh=self.fresh)
        return on_device(run[run.names[0]], model.device)
