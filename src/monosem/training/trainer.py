"""The trainer: N dictionaries on one stream of activations, in one pass.

    for each batch:  for each site:  for each dictionary:  loss = Σ of its named terms;  step;  count

Where the CPU has several threads these steps are taken side by side (crew.py).

It knows no architecture and no kind of source. Activations are divided by one measured scale a site,
which is folded into each dictionary at the end. A run is a function of its configuration, its inputs and
the machine's arithmetic: stopped at any moment, even by SIGKILL, the same call goes on from the
last checkpoint in `OUT.checkpoint` and ends with the same weights, bit for bit.
"""

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monosem.activations.blocks import BlockSource
from monosem.activations.source import Batch
from monosem.activations.store import ActivationStore
from monosem.core import artifact
from monosem.core.artifact import write_json
from monosem.core.config import Json, to_json
from monosem.core.progress import Bar, progress
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.runtime.checkpoint import Saved, open_checkpoint, save_checkpoint
from monosem.runtime.distributed import ALONE, World
from monosem.runtime.interruption import interruption
from monosem.runtime.lock import LOCK, only_writer
from monosem.runtime.runlog import RunLog, read_log
from monosem.runtime.tracking import Tracker, Tracking
from monosem.text.tokens import TokenStore
from monosem.training import suite as suites
from monosem.training.crew import Crew
from monosem.training.part import Part, needed_bytes
from monosem.training.resume import check_resumable, check_same, machine
from monosem.training.run import KIND, LOG, TrainingRun
from monosem.training.settings import TrainConfig
from monosem.training.sharing import BY_ITSELF, Parallel, Sharing, every, sharing_of
from monosem.training.sources import source_of
from monosem.training.suite import Suite

__all__ = ["Suite", "TrainConfig", "TrainingRun", "train", "train_suite"]

SAMPLE_ROWS = 32_768
"""Activations on which scale and initial weights are measured, or as many as the run trains on."""


def train(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    *,
    fresh: bool = False,
    checkpoint_seconds: float = 300.0,
    trackers: Sequence[Tracker] = (),
    activations: ActivationStore | None = None,
    device: str | None = None,
    world: World = ALONE,
    parallel: Parallel = "auto",
) -> TrainingRun:
    """Train the dictionaries of `config` on activations of `model`, and return the run at `out`.

    They are live, or read from `activations`, which were captured from the same model and tokens.
    Dictionaries are on `device`, the model's if None. All ranks of `world` call this
    alike; `parallel` is what they share out (sharing.py).

    A finished run of the same configuration and inputs is used again, an interrupted one goes on;
    `fresh` starts anew. Everything is checked before anything is captured. `trackers` are sent the
    lines of the log; they change nothing, and one that fails is dropped.
    """
    out = Path(out)
    artifact.check_target(out, KIND)
    where: dict[str, Any] = {"activations": activations, "device": device, "world": world}
    source = source_of(config, model, store, config.sites, **where)
    config.check_widths(*source.widths)
    shares = sharing_of(parallel, config, world)
    identity: Json = {"train": to_json(config), "model": model.hash, "tokens": store.hash}
    identity |= _read(activations)
    with _only_writer(out, world), contextlib.closing(source):
        if not world.by_first(lambda: _finished(out, KIND, identity, fresh)):
            part = Part(config, model, source, of_several=False, sharing=shares)
            _Training([part], source, identity, out, shares).go(store, checkpoint_seconds, trackers)
    return TrainingRun.open(out)


def train_suite(
    config: TrainConfig,
    sites: Sequence[str],
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    *,
    fresh: bool = False,
    checkpoint_seconds: float = 300.0,
    trackers: Sequence[Tracker] = (),
    activations: ActivationStore | None = None,
    device: str | None = None,
    world: World = ALONE,
    parallel: Parallel = "auto",
) -> Suite:
    """Train the dictionaries of `config` at each of `sites` in one pass of `model`; its site is not read.

    Each site has a scale of its own, and what `train` would leave of it in a folder of its name: bit for
    bit on one thread, on several as sums are rounded there.
    """
    out = Path(out)
    artifact.check_target(out, suites.KIND)
    names = suites.names(config, sites, model)
    where: dict[str, Any] = {"activations": activations, "device": device, "world": world}
    source = source_of(config, model, store, names, **where)
    configs = [dataclasses.replace(config, site=name) for name in source.columns]
    widths = suites.widths(config, list(source.columns), model)
    shares = sharing_of(parallel, config, world, n_sites=len(configs))
    identity: Json = {
        "train": to_json(configs[0]),
        "sites": list(source.columns),
        "model": model.hash,
        "tokens": store.hash,
        **_read(activations),
    }
    with _only_writer(out, world), contextlib.closing(source):
        if not world.by_first(lambda: _finished(out, suites.KIND, identity, fresh)):
            sys.stderr.write(
                f"{len(widths) * len(config.dictionaries)} dictionaries at {len(widths)} sites, in about "
                f"{needed_bytes(source, config, widths) / 2**30:.2f} GiB of memory beside the model: "
                f"{', '.join(source.columns)}\n"
            )
            each = len(config.dictionaries)
            parts = [
                Part(own, model, source, of_several=True, sharing=shares, first=each * i)
                for i, own in enumerate(configs)
            ]
            _Training(parts, source, identity, out, shares).go(store, checkpoint_seconds, trackers)
    return Suite.open(out)


def _read(activations: ActivationStore | None) -> Json:
    """Return what identifies the activations that are read from a disk, nothing where they are live."""
    return {} if activations is None else {"activations": activations.hash}


def _finished(out: Path, kind: str, identity: Json, fresh: bool) -> bool:
    """Whether the same artifact lies at `out` already; checkpoints that are of no use are removed."""
    checkpoints = _checkpoints(out)
    done = not fresh and artifact.is_artifact(out, kind)
    if done:
        check_same(out, kind, identity)
        sys.stderr.write(f"`{out}` is already there; used again.\n")
    if done or fresh:  # what is there was killed between finishing and tidying up, or is not wanted
        _clear(checkpoints)
    return done


@contextlib.contextmanager
def _only_writer(out: Path, world: World) -> Generator[None]:
    """Let no other process train to `out` meanwhile; `ArtifactBusyError` where one does."""
    folder = _checkpoints(out)
    with contextlib.ExitStack() as stack:
        world.by_first(lambda: stack.enter_context(only_writer(folder)))
        if world.rank == 0:
            stack.callback(_remove_empty, folder)
        yield


def _clear(folder: Path) -> None:
    """Remove what a folder holds, but not the lock that this process has on it."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove a folder in which there is nothing but this process's lock."""
    if [path.name for path in folder.iterdir()] == [LOCK]:
        shutil.rmtree(folder)


def _checkpoints(out: Path) -> Path:
    return out.with_name(f"{out.name}.checkpoint")


class _Training:
    """One run, or suite of runs, in progress."""

    def __init__(
        self,
        parts: list[Part],
        source: BlockSource,
        identity: Json,
        out: Path,
        sharing: Sharing = BY_ITSELF,
    ) -> None:
        self.parts, self.source, self.identity, self.out = parts, source, identity, out
        self.sharing, self.world = sharing, sharing.everyone
        self.config, self.folder = parts[0].config, _checkpoints(out)
        self.device = source.device
        self.policy: matmul.MatmulPolicy = "fp32"
        self.step, self.seconds, self.last = 0, 0.0, dict[str, Json]()
        checkpoint = open_checkpoint(self.folder, self.world)
        if checkpoint is None:
            own = self.config.matmul
            chosen = (
                self.world.by_first(lambda: matmul.choose(self.device)) if own == "auto" else own
            )
            self.policy = matmul.check(chosen)
            self._begin()
        else:
            self._resume(*checkpoint)
        self.log = (
            RunLog(self.folder / LOG, resume_step=self.step) if self.world.rank == 0 else None
        )

    def go(self, store: TokenStore, checkpoint_seconds: float, trackers: Sequence[Tracker]) -> None:
        """Train to the end and write the artifact."""
        with contextlib.ExitStack() as stack:
            tracking = None
            if self.log is not None:
                followed = Tracking(trackers, self.log, self.out, self.identity)
                tracking = stack.enter_context(followed)
            with matmul.scope(self.policy):
                self.run(checkpoint_seconds)
            if self.world.size > 1:  # what ranks have of dictionaries, for the first to write
                self._save()
            summary = self.world.by_first(lambda: self.finish(store))
            if tracking is not None:
                tracking.summary = summary

    def run(self, checkpoint_seconds: float) -> None:
        """Go to the last step; save now and then, and when interrupted."""
        n_steps, every = self.config.n_steps, self.config.log_every
        before = self.seconds
        saved = started = time.monotonic()
        with (
            interruption() as interrupted,
            progress("training", n_steps) as bar,
            self._crew() as crew,
        ):
            bar.advance(self.step)
            batches = iter(self.source)
            while self.step < n_steps:
                batch = next(batches)
                self._learn(batch, crew)
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - started
                if self.step % every == 0 or self.step == n_steps:
                    self._note(batch, bar)
                else:
                    bar.advance()
                due = now - saved > checkpoint_seconds and self.step < n_steps
                stop, due = self.world.any_of(interrupted(), due)
                if stop or due:
                    self._save()
                    saved = now
                if stop:
                    raise KeyboardInterrupt

    def _crew(self) -> Crew:
        alone = self.device.type != "cpu" or not all(part.independent for part in self.parts)
        alone = alone or self.sharing.steps_together
        n_learners = sum(len(part.learners) for part in self.parts)
        return Crew(n_learners, 1 if alone else torch.get_num_threads())

    def _learn(self, batch: Batch, crew: Crew) -> None:
        """Let every dictionary learn from a batch, or from this rank's rows of it."""
        mine = every(batch, self.sharing.batch)
        lessons = [
            (learner, scaled)
            for part in self.parts
            for scaled in (part.source.scaled(mine),)
            for learner in part.learners
        ]
        lessons.sort(key=lambda each: -each[0].dictionary.n_latents)  # the longest first
        crew.run([partial(learner.learn, scaled) for learner, scaled in lessons])
        for part in self.parts:
            part.revive()

    def finish(self, store: TokenStore) -> Json:
        """Write the artifact, remove the checkpoints, and return the summary."""
        summary: Json = {
            "dictionaries": self.last,
            "n_steps": self.config.n_steps,
            "n_tokens": self.config.n_steps * self.config.batch_size,
            "epochs": self.source.epoch,
            "dead_tokens": self.config.dead_tokens,
            "seconds": round(self.seconds, 1),
        }
        log = read_log(self.folder / LOG)
        record = {**self.identity, "machine": machine(self.policy, self.device.type, self.sharing)}
        found = open_checkpoint(self.folder) if self.world.size > 1 else None
        saved = None if found is None else found[0]
        if "sites" not in self.identity:
            self.parts[0].write(self.out, self.out, store, record, summary, log, saved)
        else:
            self._write_suite(store, record, summary, log, saved)
        _clear(self.folder)
        return summary

    def _write_suite(
        self, store: TokenStore, record: Json, summary: Json, log: list[Json], saved: Saved | None
    ) -> None:
        inputs = {"model": self.identity["model"], "tokens": store.hash}
        with artifact.writing(
            self.out,
            kind=suites.KIND,
            config=record,
            inputs=inputs,
            seed=self.config.seed,
            summary=summary,
        ) as folder:
            for part in self.parts:
                own = {k: v for k, v in record.items() if k != "sites"}
                own["train"] = to_json(part.config)
                places = folder / part.site, self.out / part.site
                part.write(*places, store, own, summary, log, saved)
            write_json(folder / suites.INDEX, suites.index(self.parts, self.last))

    def _begin(self) -> None:
        started = time.monotonic()
        with matmul.scope(self.policy):
            n = min(SAMPLE_ROWS, self.config.n_steps * self.config.batch_size)
            sample = self.source.sample(n)
            for part in self.parts:
                part.begin(sample)
        self.seconds = time.monotonic() - started  # of which most is capturing what is learnt first

    def _note(self, batch: Batch, bar: Bar) -> None:
        """Write one line of the log: the only place where values are asked of the device."""
        mine = {k: v for part in self.parts for k, v in part.observe(batch).items()}
        told = {k: v for each in self.sharing.dictionaries.heard(mine) for k, v in each.items()}
        self.last = {k: told[k] for part in self.parts for k in part.names.values()}
        if self.log is not None:
            self.log.write(
                step=self.step,
                tokens=self.step * self.config.batch_size,
                epoch=round(self.source.epoch, 4),
                seconds=round(self.seconds, 2),
                **self.last,
            )
        bar.advance(1, **_shown(self.last))

    def _resume(self, tensors: Saved, state: Json) -> None:
        """Go to where a checkpoint was saved, by however many ranks."""
        asked = self.config.matmul, self.device.type, self.sharing
        self.policy = check_resumable(self.folder, state, self.identity, *asked)
        self.source.load_state_dict(state["source"])
        self.step, self.seconds, self.last = state["step"], state["seconds"], state["last"]
        for part, scales in zip(self.parts, state["scales"], strict=True):
            part.go_on(scales, tensors, self.step)

    def _save(self) -> None:
        learners = [learner for part in self.parts for learner in part.learners]
        tensors = {k: v for own in learners for k, v in own.tensors().items()}
        shared = {k: v for own in learners for k, v in own.slices().items()}
        everywhere = [name for name in tensors if name not in shared]
        for number, name in enumerate(everywhere):
            if not self.sharing.writes(number):
                del tensors[name]
        state = {
            "identity": self.identity,
            "machine": machine(self.policy, self.device.type, self.sharing),
            "step": self.step,
            "seconds": self.seconds,
            "scales": [part.scales for part in self.parts],
            "source": self.source.state_dict(),
            "last": self.last,
        }
        save_checkpoint(self.folder, tensors, state, slices=shared, world=self.world)


def _shown(last: dict[str, Json]) -> dict[str, float]:
    """Return what the progress bar shows: each dictionary's numbers, or the range of many."""
    if len(last) > 3:
        fvus = [float(each["fvu"]) for each in last.values()]
        dead = sum(float(each["n_dead"]) for each in last.values())
        return {"fvu from": min(fvus), "to": max(fvus), "dead": dead}
    shown = {"loss": "loss", "l0": "L0", "n_dead": "dead"}
    return {
        f"{name} {label}": float(last[name][key]) for name in last for key, label in shown.items()
    }
