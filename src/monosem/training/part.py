"""Part: the dictionaries that are trained at one site, with its scale; a run has one, a suite several."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.activations.blocks import BlockSource
from monosem.activations.scale import ScaledSource, scale_of
from monosem.activations.source import Batch
from monosem.core import artifact
from monosem.core.config import Json
from monosem.core.whereabouts import whereabouts
from monosem.dictionaries.base import Dictionary, DictionaryConfig, architecture
from monosem.dictionaries.sliced import sliced
from monosem.models.language_model import LanguageModel
from monosem.runtime.runlog import RunLog
from monosem.text.tokens import TokenStore
from monosem.training.learner import Learner, fill_
from monosem.training.objectives import objective
from monosem.training.run import KIND, LOG
from monosem.training.settings import TrainConfig
from monosem.training.sharing import BY_ITSELF, Sharing


class Part:
    """What is learnt at `config.site`, which has all of the source's `x` or one site's columns of it."""

    def __init__(
        self,
        config: TrainConfig,
        model: LanguageModel,
        source: BlockSource,
        *,
        of_several: bool,
        sharing: Sharing = BY_ITSELF,
        first: int = 0,
    ) -> None:
        """`first`: how many dictionaries there are in the parts before, where ranks share them out."""
        self.config, self._model, self._all, self._sharing = config, model, source, sharing
        self.site = _names(model, config.sites)
        self._columns = source.columns[self.site] if of_several else None
        self._prefix = f"{self.site}/" if of_several else ""
        own = source.widths if self._columns is None else ((model.width(self.site),),) * 2
        self._ins, self._outs = own
        self._same = source.same or of_several
        self._objective = objective(
            config.objective,
            model,
            _names(model, config.targets or config.sites),
            several=max(len(self._ins), len(self._outs)) > 1,
        )
        # made with its true scales once they are known
        self.set_scales([[1.0] * len(side) for side in own])
        self.learners: list[Learner] = []
        """Those of this rank, once training begins or goes on."""
        mine = [i for i in range(len(config.names)) if sharing.dictionaries.has(first + i)]
        self._made = {i: self._dictionary(i) for i in mine}

    def set_scales(self, scales: list[list[float]]) -> None:
        """Divide the activations of each site by its scale from now on: of those read, of those written."""
        self.scales = scales
        read, written = (
            self._divisor(*pair) for pair in zip(scales, (self._ins, self._outs), strict=True)
        )
        self.source = ScaledSource(self._all, read, self._columns, target_scale=written)
        self._objective.scale = written

    def begin(self, sample: Batch) -> None:
        """Measure scales on a sample of the unscaled source, and give it to all initial weights."""
        x = sample.x if self._columns is None else sample.x[:, self._columns].contiguous()
        read = [scale_of(part) for part in x.split(list(self._ins), 1)]
        written = (
            [scale_of(part) for part in sample.target.split(list(self._outs), 1)]
            if not self._same
            else read
        )
        self.set_scales([read, written])
        scaled = self.source.scaled(sample)
        for dictionary in self._made.values():
            device = dictionary.b_dec.device
            dictionary.initialise_(scaled.x.to(device), scaled.target.to(device))
        self._take_up()

    def go_on(self, scales: list[list[float]], tensors: Mapping[str, Tensor], step: int) -> None:
        """Go to where `step` steps had led, as a checkpoint says."""
        self.set_scales(scales)
        self._take_up()
        for learner in self.learners:
            learner.restore(tensors, step)

    def _divisor(self, scales: list[float], widths: tuple[int, ...]) -> float | Tensor:
        if len(scales) == 1:
            return scales[0]
        parts = [torch.full((width,), s) for width, s in zip(widths, scales, strict=True)]
        return torch.cat(parts).to(self._all.device)

    @property
    def independent(self) -> bool:
        """Whether its dictionaries learn from activations alone; the model is passed by one at a time."""
        return self._objective.single_pass

    def revive(self) -> None:
        """Give dead latents of its dictionaries a new start where that is due; after each batch."""
        for learner in self.learners:
            learner.revive(self.source)

    def observe(self, batch: Batch) -> Json:
        """Return what each dictionary measures on a batch of the unscaled source."""
        mine = self.source.scaled(batch)
        return {learner.name: learner.observe(mine) for learner in self.learners}

    @property
    def names(self) -> dict[str, str]:
        """The names of its dictionaries, those of other ranks too, and what the run log calls them."""
        return {name: f"{self._prefix}{name}" for name in self.config.names}

    def own(self, values: Json) -> Json:
        """Return the entries of its dictionaries, under their short names, and what is no dictionary's."""
        shared = {k: v for k, v in values.items() if not isinstance(v, dict)}
        return shared | {name: values[n] for name, n in self.names.items() if n in values}

    def configuration(self, index: int) -> DictionaryConfig:
        """Return that of one of its dictionaries, with the widths of the site."""
        return self.config.wired(self.config.dictionaries[index], self._ins, self._outs)

    def finished(self, index: int, saved: Mapping[str, Tensor] | None) -> Dictionary[Any]:
        """Return a dictionary as it was trained; from `saved`, where ranks have parts of it."""
        if saved is None:
            return self.learners[index].dictionary
        config, name = self.configuration(index), self.names[self.config.names[index]]
        dictionary = architecture(config.architecture)(config)
        fill_(dictionary, saved, name)
        return dictionary

    def write(
        self,
        path: Path,
        final: Path,
        store: TokenStore,
        record: Json,
        summary: Json,
        log: list[Json],
        saved: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write its training run at `path`, which will be read at `final`; `saved` as for `finished`."""
        config = self.config
        ins, outs = (tuple(side) for side in self.scales)
        inputs = {"model": self._model.hash, "tokens": store.hash}
        own: Json = {
            **summary,
            "dictionaries": self.own(summary["dictionaries"]),
            "input_scale": ins[0] if len(ins) == 1 else list(ins),
            "output_scale": outs[0] if len(outs) == 1 else list(outs),
            "tokens_at": whereabouts(store.path, final),
        }
        with artifact.writing(
            path, kind=KIND, config=record, inputs=inputs, seed=config.seed, summary=own
        ) as folder:
            for index, name in enumerate(config.names):
                made = self.finished(index, saved).folded(ins, outs)
                made.origin = dataclasses.replace(made.origin, context=store.context)
                made.save(
                    folder / name,
                    site=self.site,
                    target=_names(self._model, config.targets),
                    model=f"{self._model.name} {self._model.hash}",
                    tokens=store.hash,
                    metrics=own["dictionaries"][name],
                    inputs=inputs,
                )
            lines = RunLog(folder / LOG)
            for line in log:
                lines.write(**self.own(line))

    def _dictionary(self, index: int) -> Dictionary[Any]:
        """Return a new dictionary; one of which this rank keeps some latents alone is never on its device."""
        config = self.configuration(index)
        dictionary = architecture(config.architecture)(config)
        return dictionary if self._sharing.latents.size > 1 else dictionary.to(self._all.device)

    def _take_up(self) -> None:
        """Make learners of the dictionaries, or of this rank's latents of them."""
        ranks = self._sharing.latents
        for index in list(self._made):
            dictionary, span = self._made.pop(index), None
            if ranks.size > 1:
                dictionary, span = sliced(dictionary, ranks)
            learner = Learner(
                self.names[self.config.names[index]],
                dictionary.to(self._all.device),
                self.config.optim.of(index),
                n_steps=self.config.n_steps,
                dead_tokens=self.config.dead_tokens,
                objective=self._objective,
                sharing=self._sharing,
                span=span,
            )
            self.learners.append(learner)


def _names(model: LanguageModel, sites: tuple[str, ...]) -> str:
    """Return the sites' full names, joined as an artifact records them."""
    return ", ".join(str(model.check_site(site)) for site in sites)


def needed_bytes(source: BlockSource, config: TrainConfig, widths: list[int]) -> int:
    """Return the memory that training `config` at sites of these widths takes, the model apart.

    Activations of a block, weights with gradients and Adam's two moments, and a block of latents.
    """
    weights = sum(
        d.n_latents * (2 * width + 1) + width for d in config.dictionaries for width in widths
    )
    block = config.batch_size * max(d.n_latents for d in config.dictionaries)
    return source.block_bytes + 4 * torch.float32.itemsize * weights + 4 * block
