"""Learner: one dictionary in training, with its optimiser, its counters and its random numbers.

A step never asks the device for a value; `observe` does, and is called only now and then.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations.source import ActivationSource, Batch
from monosem.core.config import Json
from monosem.core.errors import ConfigError
from monosem.dictionaries.base import Dictionary, TrainState
from monosem.dictionaries.sliced import Span
from monosem.kernels import workspace
from monosem.kernels.workspace import Workspace
from monosem.metrics.reconstruction import fvu
from monosem.runtime.checkpoint import Slice
from monosem.training.objectives import Objective, Reconstruction
from monosem.training.optim import OptimConfig, adam, step_clipped, stored
from monosem.training.sharing import BY_ITSELF, Sharing

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
OBSERVED_ROWS = 1024
"""Rows of the batch on which the logged FVU is computed."""


class Learner:
    """Trains `dictionary`; the trainer brings the batches."""

    def __init__(
        self,
        name: str,
        dictionary: Dictionary[Any],
        optim: OptimConfig,
        *,
        n_steps: int,
        dead_tokens: int,
        objective: Objective | None = None,
        sharing: Sharing = BY_ITSELF,
        span: Span | None = None,
    ) -> None:
        """With a `sharing` it is one of several ranks, that learn the same from their rows or latents.

        `span` says which latents of a wider dictionary those of `dictionary` are.
        """
        self.name, self.dictionary, self._optim = name, dictionary, optim
        self._sharing, self._span = sharing, span
        self._objective = Reconstruction() if objective is None else objective
        self._dead_tokens = dead_tokens
        self.optimizer = adam(dictionary.parameters(), optim)
        self._workspace = Workspace(dictionary.parameters())
        device = dictionary.W_dec.device
        silent = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=device)
        self.state = TrainState(
            step=0,
            n_steps=n_steps,
            tokens_since_fired=silent,
            dead=torch.zeros_like(silent, dtype=torch.bool),
            generator=torch.Generator().manual_seed(dictionary.config.seed),
            ranks=sharing.batch,
        )
        self._terms: dict[str, Float[Tensor, ""]] = {}

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        n_latents = self.dictionary.n_latents if self._span is None else self._span.n_latents
        size = n_latents, self.dictionary.d_read
        return self._optim.lr_at(self.state.step, self.state.n_steps, *size)

    def step(self, batch: Batch, source: ActivationSource) -> None:
        """Learn from one batch, and revive dead latents from `source` if that is due."""
        self.learn(batch)
        self.revive(source)

    def learn(self, batch: Batch) -> None:
        """Learn from one batch, or this rank's rows; it touches nothing that other dictionaries touch."""
        dictionary, state = self.dictionary, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        dictionary.schedule_(state)
        self.optimizer.zero_grad(set_to_none=True)
        with self._memory():
            terms = self._objective.terms(dictionary, batch, state)
            torch.stack(list(terms.values())).sum().backward()
        self._workspace.deliver_()
        self._average_()
        dictionary.before_step_()
        step_clipped(self.optimizer, self._optim.clip, self._norm())
        dictionary.after_step_()
        self._terms = {name: term.detach() for name, term in terms.items()}
        self._count(len(batch) * state.ranks.size)
        state.step += 1

    def revive(self, source: ActivationSource) -> None:
        """Give dead latents a new start from `source`, if one is due; after each batch."""
        self.dictionary.revive_(self.state, self.optimizer, source)

    def observe(self, batch: Batch) -> Json:
        """Return the newest step's terms, `loss`, `l0`, `fvu`, `n_dead` and `lr` as numbers.

        `batch` is the whole of it, on every rank.
        """
        values = self._sharing.batch.mean(torch.stack(list(self._terms.values()))).tolist()
        terms = dict(zip(self._terms, values, strict=True))
        loss = sum(terms.values())
        if not abs(loss) < float("inf"):
            raise ConfigError(
                f"The loss of `{self.name}` is {loss} after {self.state.step} steps: training has "
                "diverged. Lower the learning rate (`--lr`)."
            )
        x, target = batch.x[:OBSERVED_ROWS], batch.target[:OBSERVED_ROWS]
        with torch.no_grad():
            error = fvu(target, self.dictionary(x))
        latents = self._sharing.latents
        return {
            "loss": loss,
            **terms,
            "l0": float(latents.sum_(self.dictionary.firing.sum())) / len(batch),
            "fvu": error,
            "n_dead": int(latents.sum_(self.state.dead.sum())),
            "lr": self.optimizer.param_groups[0]["lr"],
            **self._workspace.remarks,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return everything a checkpoint needs to go on, by name."""
        tensors = {f"weight.{k}": v for k, v in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            tensors |= {f"{m}.{name}": self.optimizer.state[parameter][m] for m in MOMENTS}
        tensors["tokens_since_fired"] = self.state.tokens_since_fired
        tensors["generator"] = self.state.generator.get_state()
        return {f"{self.name}.{k}": v for k, v in tensors.items()}

    def slices(self) -> dict[str, Slice]:
        """Return which of these tensors are this rank's slice of one."""
        span = self._span
        if span is None:
            return {}
        axes = {name: span.axis(name, tensor) for name, tensor in self.tensors().items()}
        return {name: Slice(axis, span.start) for name, axis in axes.items() if axis is not None}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go back to what `tensors` returned after `step` steps."""
        fill_(self.dictionary, tensors, self.name, self._span)
        for name, parameter in self.dictionary.named_parameters():
            for moment in MOMENTS:
                saved = _own(tensors, f"{self.name}.{moment}.{name}", self._span)
                self.optimizer.state[parameter][moment].copy_(saved)
        since = _own(tensors, f"{self.name}.tokens_since_fired", self._span)
        self.state.tokens_since_fired.copy_(since)
        self.state.generator.set_state(tensors[f"{self.name}.generator"])
        self.state.dead = self.state.tokens_since_fired >= self._dead_tokens
        self.state.step = step

    def _memory(self) -> AbstractContextManager[None]:
        """The workspace, where the dictionary computes once; what is lent twice would be overwritten."""
        once = self._objective.single_pass
        return workspace.scope(self._workspace) if once else nullcontext()

    def _average_(self) -> None:
        """Make gradients, and how often latents fired, those of the whole batch."""
        ranks = self.state.ranks
        if ranks.size == 1:
            return
        gradients: list[Tensor] = []
        for parameter in self.dictionary.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(stored(parameter.grad))
        ranks.sum_all_([*gradients, self.dictionary.firing])
        for gradient in gradients:
            gradient.div_(ranks.size)

    def _norm(self) -> Float[Tensor, ""] | None:
        """The gradient's norm, of the latents of all ranks; None where those are all here."""
        latents, span = self._sharing.latents, self._span
        if span is None:
            return None
        squares = {True: list[Tensor](), False: list[Tensor]()}
        for name, parameter in self.dictionary.named_parameters():
            if parameter.grad is not None:
                shared = span.axis(name, parameter) is not None
                squares[shared].append(torch.linalg.vector_norm(parameter.grad).square())
        return (
            latents.sum_(torch.stack(squares[True]).sum()) + torch.stack(squares[False]).sum()
        ).sqrt()

    def _count(self, n_tokens: int) -> None:
        since = self.state.tokens_since_fired
        since.add_(n_tokens).masked_fill_(self.dictionary.firing > 0, 0)
        self.state.dead = since >= self._dead_tokens


@torch.no_grad()
def fill_(
    dictionary: Dictionary[Any], tensors: Mapping[str, Tensor], name: str, span: Span | None = None
) -> None:
    """Copy the weights that a learner called `name` left in `tensors`, or those of the latents of `span`."""
    for key, weight in dictionary.state_dict().items():
        weight.copy_(_own(tensors, f"{name}.weight.{key}", span))


def _own(tensors: Mapping[str, Tensor], name: str, span: Span | None) -> Tensor:
    return tensors[name] if span is None else span.of(name, tensors[name])
