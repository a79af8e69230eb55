"""Pretraining of small language models: tokens in, an ordinary Hugging Face folder out.

    loss  = mean over contexts and positions of -log p(token[t+1] | token[0..t])
    lr(s) = lr * min(s / warmup, 0.5 (1 + cos(pi (s - warmup) / (n_steps - warmup))))   (down to lr/20)

The unembedding and its softmax are the larger part of a small model's step, so they run in chunks
of positions; gradients are those of the plain loss. Contexts are visited in a fresh seeded
permutation each epoch: a run is a function of its step, and a resumed one is the same run.
"""

import itertools
import math
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.core.artifact import is_artifact, read, writing
from monosem.core.config import Json, content_hash, to_json
from monosem.core.errors import ArtifactKindError, ConfigError
from monosem.core.progress import progress
from monosem.metrics.abilities import abilities
from monosem.metrics.language import evaluate_language_model
from monosem.models.language_model import LanguageModel
from monosem.models.loading import no_bar
from monosem.models.small import SmallModelConfig, build, preset
from monosem.runtime.checkpoint import load_checkpoint, save_checkpoint
from monosem.runtime.interruption import interruption
from monosem.runtime.runlog import RunLog
from monosem.text.genres.vocabulary import Vocabulary
from monosem.text.store import TokenStore
from monosem.training.beginning import READING, begins_alike, check_state, check_store
from monosem.training.growing import copy_weights
from monosem.training.next_token import chunked_loss, heldout_loss
from monosem.training.reading import Reader, ReadingConfig
from monosem.training.schedule import context_order, log_spaced

KIND = "language model"
KEPT = "checkpoints"
"""Folder of the log-spaced checkpoints, in the run's own."""
ABILITY_POINTS = 48
"""Log-spaced steps at which abilities are measured, save the first hundredth of the run."""
WEIGHT_DECAY = 0.01
"""AdamW's weight decay, on matrices only."""
CLIP = 1.0
"""Largest norm of the gradient."""
LOG_EVERY = 20
"""Steps between two lines of the run log."""
BASELINE_TOKENS = 262_144
"""Held-out tokens on which the finished model is measured."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    model: SmallModelConfig = field(default_factory=SmallModelConfig)
    """Shape of the transformer."""
    n_tokens: int = 50_000_000
    """Tokens to train on, repeats counted."""
    batch_contexts: int = 32
    """Contexts a step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises."""
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    """How text is read: in pieces at first, with drills in its place, with names renamed."""
    keep_checkpoints: int = 8
    """Log-spaced checkpoints of the model kept beside the final one, each a Hugging Face folder."""
    ability_cases: int = 0
    """Cases on which each ability is measured at log-spaced steps, for the run's log; 0: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` times one step of each on this machine and keeps the faster."""
    seed: int = 0
    """Seed of the weights and of the order of contexts."""
    start: str = ""
    """Language model with whose weights the run begins, of as many layers or fewer, with the same MLPs or
    none (`growing.copy_weights`); left empty: random ones."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("n_tokens", "batch_contexts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"`warmup` must be in [0, 1), got {self.warmup}.")
        if self.lr <= 0:
            raise ConfigError(f"`lr` must be positive, got {self.lr}.")

    def n_steps(self, context: int) -> int:
        """Steps of the run on contexts of `context` tokens."""
        return max(1, self.n_tokens // (self.batch_contexts * context))

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of `step` (from 0)."""
        rise = max(1, round(self.warmup * n_steps))
        if step < rise:
            return self.lr * (step + 1) / rise
        fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise)))
        return self.lr * max(0.05, fall)


ZOO_CASES = 200
PEOPLE: dict[str, dict[str, Any]] = {
    "3L-attn-only": {
        "n_tokens": 70_000_000,
        "reading": ReadingConfig(
            short=1.0, pieces=(32, 32), whole=0.2, drill=0.2, rename=0.85, named=0.3
        ),
    },
    "4L": {
        "n_tokens": 44_000_000,
        "lr": 1.5e-3,
        "start": "3L-attn-only",
        "reading": ReadingConfig(short=1.0, pieces=(32, 32), whole=0.2, drill=0.08, rename=0.7),
    },
}
"""Presets that are trained to follow people in sentences: mostly short pieces, most names renamed. `4L` grows
from the packaged three layers, whose own recipe has not been run to its end (docs/zoo.md)."""


def recipe(name: str) -> PretrainConfig:
    """Return the settings of a preset of `models/small.py`, for tokens of its context.

    `1L-b` is `1L-a` with another seed. What is trained on `generated` text keeps more checkpoints
    and logs its abilities.
    """
    shape = preset(name)
    if name in ("tiny", "1L", "2L", "1L-a"):
        return PretrainConfig(model=shape)
    if shape.n_layers == 1:
        return PretrainConfig(model=shape, seed=1 if name == "1L-b" else 0)
    zoo = PretrainConfig(
        model=shape,
        batch_contexts=16,
        keep_checkpoints=16,
        ability_cases=ZOO_CASES,
        reading=ReadingConfig(short=0.6, drill=0.5),
    )
    if name not in PEOPLE:
        return zoo
    return replace(zoo, keep_checkpoints=24, **PEOPLE[name])


def pretrain(
    config: PretrainConfig,
    store: TokenStore,
    out: Path,
    *,
    device: torch.device | None = None,
    fresh: bool = False,
    checkpoint_seconds: float = 300.0,
) -> Path:
    """Train and return the Hugging Face folder, `out/model`.

    A finished run of the same settings on the same tokens is returned as it is. An interrupted one
    goes on from its last checkpoint in `OUT.checkpoint`.
    """
    out = Path(out)
    identity = content_hash([to_json(config), store.hash])
    check_store(store, config.model.context, config.reading.drill)
    checkpoints = out.with_name(f"{out.name}.checkpoint")
    if fresh and checkpoints.exists():
        shutil.rmtree(checkpoints)
    if not fresh and is_artifact(out, KIND):
        summary = read(out, KIND).summary
        same = summary["identity"] == identity
        if same and begins_alike(config.start, summary["start"]) is not False:
            if checkpoints.exists():  # killed between finishing and tidying up
                shutil.rmtree(checkpoints)
            sys.stderr.write(f"`{out}` is already there; used again.\n")
            return out / "model"
        raise ArtifactKindError(
            f"`{out}` already holds a language model of other settings or tokens. "
            "Choose another folder, or pass `--fresh` to replace it."
        )
    run = _Run(config, store, out, device or torch.device("cpu"), identity)
    run.train(checkpoint_seconds)
    return run.finish()


class _Run:
    """State of one run: model, optimiser, step, log."""

    def __init__(
        self,
        config: PretrainConfig,
        store: TokenStore,
        out: Path,
        device: torch.device,
        identity: str,
    ) -> None:
        self.config, self.store, self.out, self.identity = config, store, out, identity
        self.device = device
        self.folder = out.with_name(f"{out.name}.checkpoint")
        policy = store.policy
        self.model = build(
            config.model,
            vocab_size=store.vocab_size,
            bos=policy.bos,
            eos=policy.separator,
            seed=config.seed,
        )
        cast(nn.Module, self.model).to(device)
        self.n_steps = config.n_steps(store.context)
        points = log_spaced(self.n_steps, ABILITY_POINTS if config.ability_cases else 0)
        self.measured = {step for step in points if step >= self.n_steps // 100}
        self.vocabulary = Vocabulary(store.vocab_size, store.tokenizer)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        self.step, self.seconds = 0, 0.0
        self.bf16, self.start, self.compared = False, "", True
        state = load_checkpoint(self.folder)
        if state is None:
            if config.start:
                self.start = copy_weights(config.start, self.model, store.tokenizer.get_vocab())
            self.bf16 = self._choose_precision()
        else:
            self._restore(*state)
        self.read = Reader(config.reading, store, config.seed, self.n_steps)
        self.log = RunLog(self.folder / "log.jsonl", resume_step=self.step)

    def train(self, checkpoint_seconds: float) -> None:
        """Run to the last step; an interruption saves first."""
        train = self.store.contexts("train")
        order = context_order(len(train), self.config.seed)
        skip = self.step * self.config.batch_contexts
        next(itertools.islice(order, skip, skip), None)
        kept = set(log_spaced(self.n_steps, self.config.keep_checkpoints))
        saved = started = time.monotonic()
        before = self.seconds
        with interruption() as interrupted, progress("pretraining", self.n_steps) as bar:
            bar.advance(self.step)
            while self.step < self.n_steps:
                chosen = [train[i] for i in itertools.islice(order, self.config.batch_contexts)]
                loss = self._one_step(chosen)
                self.step += 1
                self.seconds = before + time.monotonic() - started
                if self.step % LOG_EVERY == 0 or self.step in {1, self.n_steps, *self.measured}:
                    bar.advance(0 if self.step % LOG_EVERY else LOG_EVERY, loss=self._note(loss))
                if self.step in kept:
                    self._write_model(self.folder / KEPT / f"step-{self.step:07d}")
                if interrupted():
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def finish(self) -> Path:
        """Write the artifact from the finished run and remove the checkpoint."""
        n_read = self.n_steps * self.config.batch_contexts * (1 - self.config.reading.drill)
        summary: Json = {
            "identity": self.identity,
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "n_steps": self.n_steps,
            "n_tokens": self.n_steps * self.config.batch_contexts * self.store.context,
            "epochs": n_read / len(self.store.contexts("train")),
            "precision": "bf16" if self.bf16 else "fp32",
            "seconds": round(self.seconds, 1),
            "start": self.start,
            "start_compared": self.compared,
            "corpora": list(self.store.config.corpora),
            "weights": list(self.store.config.weights),
            "licences": self.store.summary["licences"],
        }
        inputs = {"tokens": self.store.hash}
        with writing(
            self.out,
            kind=KIND,
            config=self.config,
            inputs=inputs,
            seed=self.config.seed,
            summary=summary,
        ) as folder:
            self._write_model(folder / "model")
            summary |= evaluate_language_model(
                LanguageModel.load(folder / "model"), self.store, n_tokens=BASELINE_TOKENS
            )
            shutil.copyfile(self.folder / "log.jsonl", folder / "log.jsonl")
            if (self.folder / KEPT).is_dir():
                shutil.copytree(self.folder / KEPT, folder / KEPT)
        shutil.rmtree(self.folder)
        return self.out / "model"

    def _one_step(self, contexts: list[int]) -> Float[Tensor, ""]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(self.step, self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss = chunked_loss(
            self.model, self.read(contexts, self.step).to(self.device), bf16=self.bf16
        )
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss

    def _note(self, loss: Float[Tensor, ""]) -> float:
        value = float(loss)
        values: dict[str, Any] = {
            "step": self.step,
            "tokens": self.step * self.config.batch_contexts * self.store.context,
            "loss": round(value, 5),
            "lr": self.config.lr_at(self.step - 1, self.n_steps),
            "seconds": round(self.seconds, 1),
        }
        if self.step == self.n_steps or (self.step // LOG_EVERY) % 25 == 0:
            values["heldout_loss"] = round(heldout_loss(self.model, self.store, n_tokens=65_536), 5)
        if self.config.ability_cases and self.step in {*self.measured, self.n_steps}:
            model = LanguageModel(self.model, self.store.tokenizer)
            found = abilities(model, n=self.config.ability_cases, vocabulary=self.vocabulary)
            values["abilities"] = {
                name: None if m.share is None else round(m.share, 4) for name, m in found.items()
            }
        self.log.write(**values)
        return value

    def _choose_precision(self) -> bool:
        if self.config.precision != "auto":
            return self.config.precision == "bf16"
        if self.device.type == "mps":
            return False
        contexts = self.store.contexts("train")[: self.config.batch_contexts]
        tokens = torch.from_numpy(self.store.tokens(contexts)).to(self.device)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for bf16 in (False, True) * 3:
            self.model.zero_grad(set_to_none=True)
            started = time.perf_counter()
            float(chunked_loss(self.model, tokens, bf16=bf16))
            seconds[bf16].append(time.perf_counter() - started)
        self.model.zero_grad(set_to_none=True)
        return min(seconds[True]) < 0.9 * min(seconds[False])

    def _save(self) -> None:
        tensors = {f"model.{k}": v.detach() for k, v in self.model.named_parameters()}
        names = {id(p): n for n, p in self.model.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{key}.{names[id(parameter)]}"] = state[key]
        save_checkpoint(
            self.folder,
            tensors,
            {
                "identity": self.identity,
                "step": self.step,
                "seconds": self.seconds,
                "bf16": self.bf16,
                "start": self.start,
                "reading": READING,
            },
        )

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.compared = check_state(
            self.folder,
            state,
            self.identity,
            self.config.start,
            read_apart=not self.config.reading.plain,
        )
        self.step, self.seconds = state["step"], state["seconds"]
        self.bf16, self.start = state["bf16"], state["start"]
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                if f"exp_avg.{name}" not in tensors:
                    continue
                keys = ("exp_avg", "exp_avg_sq", "step")
                moments = {key: tensors[f"{key}.{name}"] for key in keys}
                for key in ("exp_avg", "exp_avg_sq"):
                    moments[key] = moments[key].to(self.device)
                self.optimizer.state[parameter] = moments

    def _write_model(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with no_bar():
            self.model.save_pretrained(folder)
        cast(Any, self.store.tokenizer).save_pretrained(folder)
