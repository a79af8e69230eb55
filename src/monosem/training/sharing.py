"""Sharing: what the ranks of a run share out among them.

    data      rows of each batch: every rank has all weights, gradients are averaged
    latents   latents of each dictionary: every rank has its slice of weights, gradients and moments,
              sees all rows, and adds its part to their reconstructions
    sweep     dictionaries: every rank has some of them, sees all rows, and trains them by itself

Three worlds say so, of which two are `ALONE`; nobody asks which it is. Whatever is shared, the ranks see
the same batches as one process would, share out the passes of the language model, and leave what one
process would leave, up to the order in which numbers are added.

What ranks tell each other in a step is, in numbers: of `data` each weight once, of `latents` about two
reconstructions of the batch, of `sweep` nothing. So `auto` shares out dictionaries where there is one
for every rank, else latents where there are more than `WIDE` times as many as rows in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from monosem.activations.source import Batch
from monosem.core.errors import ConfigError
from monosem.dictionaries.config import DictionaryConfig
from monosem.dictionaries.sliced import unsliced
from monosem.runtime.distributed import ALONE, World
from monosem.training.settings import TrainConfig

Parallel = Literal["auto", "data", "latents", "sweep"]
WIDE = 4
"""How many times as many latents as rows in a batch make `auto` share them out."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who has what."""

    kind: str = "alone"
    """`data`, `latents` or `sweep`, for the record."""
    everyone: World = ALONE
    """All ranks of the run."""
    batch: World = ALONE
    """Ranks that share out the rows of each batch."""
    latents: World = ALONE
    """Ranks that share out the latents of each dictionary."""
    dictionaries: World = ALONE
    """Ranks that share out the dictionaries."""

    @property
    def steps_together(self) -> bool:
        """Whether ranks speak to each other within a step, which then cannot be one of several at a time."""
        return self.batch.size > 1 or self.latents.size > 1

    def writes(self, number: int) -> bool:
        """Whether this rank writes tensor `number` of those that all have, so that each is written once."""
        return self.batch.has(number) and self.latents.has(number)


BY_ITSELF = Sharing()
"""That of a single process."""


def every(batch: Batch, ranks: World) -> Batch:
    """Return this rank's rows: every `size`-th, so that the first rows of the batch are the first of all."""
    if ranks.size == 1:
        return batch
    x, rows = batch.x[ranks.rank :: ranks.size].contiguous(), batch.rows[ranks.rank :: ranks.size]
    same = batch.target is batch.x
    return Batch(x, x if same else batch.target[ranks.rank :: ranks.size].contiguous(), rows)


def sharing_of(asked: Parallel, config: TrainConfig, world: World, *, n_sites: int = 1) -> Sharing:
    """Return how `world` shares out the run; `ConfigError` where it cannot."""
    if world.size == 1:
        return BY_ITSELF
    n_dictionaries = n_sites * len(config.dictionaries)
    kind = asked if asked != "auto" else _chosen(config, world, n_dictionaries)
    if kind == "sweep":
        if n_dictionaries < world.size:
            raise ConfigError(
                f"{world.size} ranks cannot share out {n_dictionaries} dictionaries. Train more of them, "
                "start fewer ranks, or choose `data` or `latents`."
            )
        return Sharing(kind=kind, everyone=world, dictionaries=world)
    if config.objective.kind != "reconstruction":
        raise ConfigError(
            f"The objective `{config.objective.kind}` runs the language model on whole contexts, which "
            f"{world.size} ranks do not share out. Train several dictionaries with `sweep`, or one in a "
            "single process."
        )
    if kind == "latents":
        _check_latents(config.dictionaries, world)
        return Sharing(kind=kind, everyone=world, latents=world)
    if config.batch_size % world.size:
        raise ConfigError(
            f"A batch of {config.batch_size:,} rows cannot be shared out evenly among {world.size} ranks. "
            f"Choose a `batch_size` of {config.batch_size // world.size * world.size:,}."
        )
    return Sharing(kind=kind, everyone=world, batch=world)


def _chosen(config: TrainConfig, world: World, n_dictionaries: int) -> Parallel:
    if n_dictionaries >= world.size and n_dictionaries > 1:
        return "sweep"
    wide = all(d.n_latents > WIDE * config.batch_size for d in config.dictionaries)
    return "latents" if wide and not _unshared(config.dictionaries, world) else "data"


def _check_latents(dictionaries: Sequence[DictionaryConfig], world: World) -> None:
    found = _unshared(dictionaries, world)
    if found:
        raise ConfigError(f"{found} Choose `data`, or `sweep` for several dictionaries.")


def _unshared(dictionaries: Sequence[DictionaryConfig], world: World) -> str:
    """Return why the latents of `dictionaries` cannot be shared out, nothing where they can."""
    return next(filter(None, (unsliced(config, world.size) for config in dictionaries)), "")
