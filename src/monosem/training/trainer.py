"""The trainer: N dictionaries on one stream of activations, in one pass.

    for each batch:  for each dictionary:  loss = Σ of its named terms;  step;  count what fired

It knows no architecture and no kind of source. Activations are divided by one measured scale, which
is folded into each dictionary at the end. A run is a function of its configuration, its inputs and
the machine's arithmetic: stopped at any moment, even by SIGKILL, the same call goes on from the
last checkpoint in `OUT.checkpoint` and ends with the same weights, bit for bit.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from monosem.activations.capture import CaptureSource
from monosem.activations.scale import ScaledSource, scale_of
from monosem.activations.source import ActivationSource, Batch
from monosem.core import artifact
from monosem.core.config import Json, to_json
from monosem.core.errors import ArtifactKindError, ResumeError
from monosem.core.progress import Bar, progress
from monosem.core.whereabouts import whereabouts
from monosem.dictionaries.base import architecture
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.runtime.checkpoint import load_checkpoint, save_checkpoint
from monosem.runtime.interruption import interruption
from monosem.runtime.runlog import RunLog
from monosem.runtime.tracking import Tracker, Tracking
from monosem.text.tokens import TokenStore
from monosem.training.learner import Learner
from monosem.training.run import KIND, LOG, TrainingRun
from monosem.training.settings import TrainConfig

__all__ = ["TrainConfig", "TrainingRun", "train"]

SAMPLE_ROWS = 32_768
"""Activations on which scale and initial weights are measured, or as many as the run trains on."""


def train(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    *,
    fresh: bool = False,
    checkpoint_seconds: float = 60.0,
    trackers: Sequence[Tracker] = (),
) -> TrainingRun:
    """Train the dictionaries of `config` on live activations of `model`, and return the run at `out`.

    A finished run of the same configuration and inputs is used again, an interrupted one goes on;
    `fresh` starts anew. Everything is checked before anything is captured. `trackers` are sent the
    lines of the log; they change nothing, and one that fails is dropped.
    """
    out = Path(out)
    artifact.check_target(out, KIND)
    target = config.target or None
    source = CaptureSource(
        model,
        store,
        config.site,
        target,
        batch_size=config.batch_size,
        buffer_tokens=config.buffer_tokens,
        n_rows=config.n_steps * config.batch_size,
        seed=config.seed,
    )
    for dictionary in config.dictionaries:
        dictionary.with_widths(source.d_in, source.d_out)
    identity = {
        "train": to_json(config),
        "model": model.hash,
        "tokens": store.hash,
    }
    checkpoints = out.with_name(f"{out.name}.checkpoint")
    if fresh and checkpoints.exists():
        shutil.rmtree(checkpoints)
    if not fresh and artifact.is_artifact(out, KIND):
        _check_same(out, identity)
        if checkpoints.exists():  # killed between finishing and tidying up
            shutil.rmtree(checkpoints)
        sys.stderr.write(f"`{out}` is already there; used again.\n")
        return TrainingRun.open(out)
    training = _Training(config, source, model, identity, checkpoints)
    with Tracking(trackers, training.log, out, identity) as tracking:
        with matmul.scope(training.policy):
            training.run(checkpoint_seconds)
        training.finish(out, store)
        run = TrainingRun.open(out)
        tracking.summary = run.summary
    return run


class _Training:
    """One run in progress."""

    def __init__(
        self,
        config: TrainConfig,
        source: ActivationSource,
        model: LanguageModel,
        identity: Json,
        folder: Path,
    ) -> None:
        self.config, self.model, self.folder, self.identity = config, model, folder, identity
        self.policy: matmul.MatmulPolicy = "fp32"
        self.step, self.seconds, self.last = 0, 0.0, dict[str, Json]()
        self.learners = [
            self._learner(name, index, source) for index, name in enumerate(config.names)
        ]
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            chosen = matmul.choose(model.device) if config.matmul == "auto" else config.matmul
            self.policy = matmul.check(chosen)
            self.source = self._begin(source)
        else:
            tensors, state = checkpoint
            self._check_resumable(state)
            self.policy = matmul.check(state["machine"]["matmul"])
            self.source = ScaledSource(source, state["scale"])
            self.source.load_state_dict(state["source"])
            self.step, self.seconds, self.last = state["step"], state["seconds"], state["last"]
            for learner in self.learners:
                learner.restore(tensors, self.step)
        self.log = RunLog(folder / LOG, resume_step=self.step)

    def run(self, checkpoint_seconds: float) -> None:
        """Go to the last step; save now and then, and when interrupted."""
        n_steps, every = self.config.n_steps, self.config.log_every
        before = self.seconds
        saved = started = time.monotonic()
        with interruption() as interrupted, progress("training", n_steps) as bar:
            bar.advance(self.step)
            batches = iter(self.source)
            while self.step < n_steps:
                batch = next(batches)
                for learner in self.learners:
                    learner.step(batch, self.source)
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - started
                if self.step % every == 0 or self.step == n_steps:
                    self._note(batch, bar)
                else:
                    bar.advance()
                if interrupted():
                    self._save()
                    raise KeyboardInterrupt
                if now - saved > checkpoint_seconds and self.step < n_steps:
                    self._save()
                    saved = now

    def finish(self, out: Path, store: TokenStore) -> None:
        """Write the artifact and remove the checkpoints."""
        config, scale = self.config, self.source.scale
        inputs = {"model": self.model.hash, "tokens": store.hash}
        summary: Json = {
            "dictionaries": self.last,
            "input_scale": scale,
            "n_steps": config.n_steps,
            "n_tokens": config.n_steps * config.batch_size,
            "epochs": self.source.epoch,
            "dead_tokens": config.dead_tokens,
            "seconds": round(self.seconds, 1),
            "tokens_at": whereabouts(store.path, out),
        }
        record = {**self.identity, "machine": self._machine()}
        with artifact.writing(
            out, kind=KIND, config=record, inputs=inputs, seed=config.seed, summary=summary
        ) as folder:
            for learner in self.learners:
                learner.dictionary.folded(scale).save(
                    folder / learner.name,
                    site=self.model.check_site(config.site).name,
                    target=self.model.check_site(config.target).name if config.target else "",
                    model=f"{self.model.name} {self.model.hash}",
                    tokens=store.hash,
                    metrics=self.last[learner.name],
                    inputs=inputs,
                )
            shutil.copyfile(self.folder / LOG, folder / LOG)
        shutil.rmtree(self.folder)

    def _learner(self, name: str, index: int, source: ActivationSource) -> Learner:
        config = self.config.dictionaries[index].with_widths(source.d_in, source.d_out)
        dictionary = architecture(config.architecture)(config).to(self.model.device)
        return Learner(
            name,
            dictionary,
            self.config.optim.of(index),
            n_steps=self.config.n_steps,
            dead_tokens=self.config.dead_tokens,
        )

    def _begin(self, source: ActivationSource) -> ScaledSource:
        started = time.monotonic()
        with matmul.scope(self.policy):
            sample = source.sample(min(SAMPLE_ROWS, self.config.n_steps * self.config.batch_size))
            scaled = ScaledSource(source, scale_of(sample.x))
            sample = scaled.scaled(sample)
            for learner in self.learners:
                learner.dictionary.initialise_(sample.x, sample.target)
        self.seconds = time.monotonic() - started  # of which most is capturing what is learnt first
        return scaled

    def _note(self, batch: Batch, bar: Bar) -> None:
        """Write one line of the log: the only place where values are asked of the device."""
        self.last = {learner.name: learner.observe(batch) for learner in self.learners}
        self.log.write(
            step=self.step,
            tokens=self.step * self.config.batch_size,
            epoch=round(self.source.epoch, 4),
            seconds=round(self.seconds, 2),
            **self.last,
        )
        shown = {"loss": "loss", "l0": "L0", "n_dead": "dead"}
        values = {
            f"{name} {label}": float(self.last[name][key])
            for name in self.last
            for key, label in shown.items()
        }
        bar.advance(1, **values)

    def _save(self) -> None:
        tensors = {k: v for learner in self.learners for k, v in learner.tensors().items()}
        state = {
            "identity": self.identity,
            "machine": self._machine(),
            "step": self.step,
            "seconds": self.seconds,
            "scale": self.source.scale,
            "source": self.source.state_dict(),
            "last": self.last,
        }
        save_checkpoint(self.folder, tensors, state)

    def _machine(self) -> Json:
        """Return what bit-equality depends on."""
        threads = torch.get_num_threads()
        return {
            "matmul": self.policy,
            "device": self.model.device.type,
            "threads": threads,
            "torch": torch.__version__,
        }

    def _check_resumable(self, state: Json) -> None:
        where = f"`{self.folder}` holds an interrupted run"
        for name, value in self.identity.items():
            if state["identity"][name] != value:
                raise ResumeError(
                    f"{where} with {_difference(name, state['identity'][name], value)}. Go on with its "
                    "own settings and inputs, or pass `--fresh` to throw it away."
                )
        policy = self.config.matmul
        recorded = state["machine"]
        self.policy = matmul.check(recorded["matmul"])
        if policy not in ("auto", self.policy):
            raise ResumeError(f"{where} with matmul `{self.policy}`, not `{policy}`. Use the same.")
        for name, value in self._machine().items():
            if recorded[name] != value:
                raise ResumeError(
                    f"{where} made with {name} {recorded[name]}; here it is {value}, so it would not go "
                    f"on bit for bit. Use the same {name}, or pass `--fresh` to start again."
                )


def _check_same(out: Path, identity: Json) -> None:
    found = artifact.read(out, KIND).config
    for name, value in identity.items():
        if found[name] != value:
            raise ArtifactKindError(
                f"`{out}` holds a finished run with {_difference(name, found[name], value)}. Choose "
                "another `--out`, or pass `--fresh` to replace it."
            )


def _difference(name: str, there: object, here: object) -> str:
    """Say in words how two values of one part of a run's identity differ."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return f"another {name} ({there}, not {here})"
    before, now = _settings("", there), _settings("", here)
    if before.keys() != now.keys():
        fields = [k for k in here if there.get(k) != here[k]]
        return ", ".join(f"another `{k}`" for k in fields)
    return ", ".join(f"`{k}` {before[k]} instead of {now[k]}" for k in now if before[k] != now[k])


def _settings(path: str, value: object) -> dict[str, object]:
    """Return the single settings in `value` by path, such as `dictionaries[0].k`."""
    if isinstance(value, dict):
        inner = [(f"{path}.{k}".removeprefix("."), v) for k, v in cast(Json, value).items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        inner = [(f"{path}[{i}]", v) for i, v in enumerate(cast(list[object], value))]
    else:
        return {path: value}
    return {k: v for path, each in inner for k, v in _settings(path, each).items()}
