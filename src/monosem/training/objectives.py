"""Objectives: what a dictionary is trained for besides what its own loss terms say.

    reconstruction  loss = Σ terms
    kl              loss = Σ terms + weight * mean over tokens of KL(p_original ‖ p_spliced)
    ce              loss = Σ terms + weight * mean over tokens of CE_spliced(next token)

p is what the language model predicts, in nats; spliced: x̂ in place of the activation at every ordinary
position, the reconstruction error *not* kept. Other positions keep their activation. KL is of the
predictions at ordinary positions, CE that of ordinary targets.

x̂ = dictionary(x), in raw units. These are the latents of `encode`: where an architecture trains with
others (`batch_topk` and `matryoshka` with the largest of a batch), it is the threshold they leave, which
has just learnt from the same batch. A threshold's own gradient, where there is one (`jumprelu`), comes
from the dictionary's terms alone.

The gradient with respect to x̂ is taken through the later layers and handed on to the dictionary; the
model's weights are given none. Original logits come with the batch; the spliced pass starts at the
embedding. Sources: Braun et al. 2024, "Identifying Functionally Important Features with End-to-End
Sparse Dictionary Learning", section 2; Karvonen 2025, "Revisiting End-To-End Sparse Autoencoder Training".
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.activations.sequence import SequenceBatch
from monosem.activations.source import Batch
from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries.base import Dictionary, TrainState
from monosem.models.language_model import LanguageModel

ObjectiveKind = Literal["reconstruction", "kl", "ce"]
Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is added to the loss terms of every dictionary of a run."""

    kind: ObjectiveKind = "reconstruction"
    """`kl` or `ce` of the language model with the reconstruction in place; `reconstruction`: nothing."""
    weight: float = 1.0
    """What the added term is multiplied by."""
    keep_reconstruction: bool = True
    """Whether the dictionary's own `mse` stays beside it; sparsity and auxiliary terms always do."""
    start_share: float = 0.0
    """Share of the run after which the term begins; until then only the dictionary's own are trained."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"`weight` of the objective must be above 0, got {self.weight}.")
        if not 0 <= self.start_share < 1:
            raise ConfigError(f"`start_share` must be in [0, 1), got {self.start_share}.")
        own = (self.weight, self.keep_reconstruction, self.start_share)
        if self.kind == "reconstruction" and own != (1.0, True, 0.0):
            raise ConfigError(
                "The objective `reconstruction` has no weight, no start and no term to leave out. "
                "Choose `kl` or `ce`, or leave those out."
            )


class Objective(abc.ABC):
    """Makes the terms whose sum is the loss of a dictionary on a batch."""

    single_pass = True
    """Whether the dictionary computes once a step, so that its kernels may share one workspace."""

    def __init__(self) -> None:
        self.scale: float | Float[Tensor, " d_out"] = 1.0
        """What the target's activations were divided by."""

    @abc.abstractmethod
    def terms(self, dictionary: Dictionary[Any], batch: Batch, state: TrainState) -> Terms:
        """Return the named, weighted terms."""


class Reconstruction(Objective):
    """The dictionary's own terms, and nothing else."""

    def terms(self, dictionary: Dictionary[Any], batch: Batch, state: TrainState) -> Terms:
        """Return the dictionary's terms."""
        return dictionary.terms(batch.x, batch.target, state)


class Spliced(Objective):
    """The dictionary's terms, and what its reconstruction makes of the model's predictions."""

    single_pass = False

    def __init__(self, config: ObjectiveConfig, model: LanguageModel, site: str) -> None:
        super().__init__()
        self.config, self._model, self._site = config, model, site

    def terms(self, dictionary: Dictionary[Any], batch: Batch, state: TrainState) -> Terms:
        """Return the dictionary's terms, and `kl` or `ce` once it has begun."""
        own = dictionary.terms(batch.x, batch.target, state)
        config = self.config
        if state.step < config.start_share * state.n_steps:
            return own
        if not config.keep_reconstruction:
            if "mse" not in own:
                raise ConfigError(
                    f"`{dictionary.architecture}` has no term `mse` to leave out (it has "
                    f"{', '.join(own)}). Keep the reconstruction."
                )
            own = {name: term for name, term in own.items() if name != "mse"}
        # after the terms, from which a running threshold learns
        added = self.measure(dictionary(batch.x) * self.scale, batch)
        return {**own, config.kind: config.weight * added}

    def measure(self, x_hat: Float[Tensor, "batch d_out"], batch: Batch) -> Float[Tensor, ""]:
        """Return the KL or CE in nats a token with `x_hat`, in raw units, in place; unweighted."""
        if not isinstance(batch, SequenceBatch):
            raise ConfigError(
                f"The objective `{self.config.kind}` needs whole contexts, not single activations. "
                "Train on a `SequenceSource`."
            )
        # The model's weights must stay out of the graph that `backward` walks.
        leaf = x_hat.detach().requires_grad_()
        with torch.enable_grad(), self._model.replaced({self._site: _into(leaf, batch.places)}):
            value = self._of_logits(self._model.logits(batch.tokens).flatten(0, 1), batch)
        (gradient,) = torch.autograd.grad(value, leaf)
        path = (x_hat * gradient).sum()
        return value.detach() + (path - path.detach())

    def _of_logits(
        self, logits: Float[Tensor, "all vocab"], batch: SequenceBatch
    ) -> Float[Tensor, ""]:
        if self.config.kind == "ce":
            tokens = batch.tokens.to(logits.device).flatten()
            # an ordinary token is never the first of its context
            at = _wide(logits[batch.places - 1])
            return torch.nn.functional.cross_entropy(at, tokens[batch.places])
        if batch.logits is None:
            raise ConfigError("The batch has no logits. Make its source with `logits=True`.")
        original = _wide(batch.logits.flatten(0, 1)[batch.places]).log_softmax(-1)
        spliced = _wide(logits[batch.places]).log_softmax(-1)
        total = torch.nn.functional.kl_div(spliced, original, reduction="sum", log_target=True)
        return total / len(batch)


def objective(
    config: ObjectiveConfig, model: LanguageModel, site: str, *, several: bool = False
) -> Objective:
    """Return the objective for dictionaries that write `site`; `several`: that the wiring has more sites."""
    if config.kind == "reconstruction":
        return Reconstruction()
    if several:
        raise ConfigError(
            f"The objective `{config.kind}` puts one reconstruction in place, but the wiring has several "
            "sites. Read and write one site, or choose `reconstruction`."
        )
    _check_influence(model, site)
    return Spliced(config, model, site)


def _check_influence(model: LanguageModel, site: str) -> None:
    """Raise unless the logits depend on the activation at `site`, seen on a few tokens."""
    model.width(site)
    n = min(8, model.context)
    tokens = torch.arange(n)[None] % model.vocab_size
    with torch.enable_grad(), model.capturing([site], gradients=True) as seen:
        # A sum of logits may not depend on a norm's input; that of squares does.
        total = model.logits(tokens).float().square().sum()
    x = seen[next(iter(seen))]
    found = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if x.shape[:2] != tokens.shape or found is None or not bool(found.any()):
        raise ConfigError(
            f"What is put in place at `{site}` of `{model.name}` does not change the model's predictions: "
            "nothing to learn from. Choose another site."
        )


def _into(x_hat: Tensor, places: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that puts `x_hat` in place of the activations at `places`."""

    def put(x: Tensor) -> Tensor:
        flat = x.flatten(2).flatten(0, 1)
        if flat.shape[1] != x_hat.shape[1]:
            raise ShapeMismatchError(
                f"The reconstruction has width {x_hat.shape[1]}; the site has {flat.shape[1]}. "
                "Train on the site that is replaced."
            )
        return flat.index_copy(0, places, x_hat.to(flat.dtype)).view(x.shape)

    return put


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
