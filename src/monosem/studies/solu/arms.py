"""Four arms of one shape, one text and the same seeds, and what is measured of each model.

    relu, gelu     the non-linearity alone
    solu           x · softmax(x)
    solu-norm      LayerNorm(x · softmax(x)), as the paper has it

Of every model: its held-out loss; in how many kinds of context its neurons fire (`metrics/polysemanticity`,
in one space of contexts for all); and how much of the loss that the MLP recovers, over its mean output, is
left when of each token only the activations of largest size are kept, the others put to their means
(on the training split). A gain under 0.05 nats has no shares. What the
paper says of LayerNorm, that it lets small activations through again, would show there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from torch import Tensor

from monosem.core.artifact import write_json
from monosem.core.config import content_hash, from_json, to_json
from monosem.core.errors import ConfigError
from monosem.core.progress import progress
from monosem.metrics.context_space import ContextSpace
from monosem.metrics.loss_recovered import share as share_of
from monosem.metrics.polysemanticity import of_units
from monosem.metrics.sample import Sample, Text, read_text
from monosem.metrics.stream import Block, blocks, enough, visit
from monosem.models.language_model import LanguageModel
from monosem.models.small import SmallModelConfig
from monosem.text.store import TokenStore
from monosem.training.pretrain import PretrainConfig, pretrain

ARMS: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "solu": {"activation": "solu"},
    "solu-norm": {"activation": "solu", "mlp_norm": True},
}
"""What each arm changes of the shape."""
KEPT = (0.01, 0.03, 0.1, 0.3)
"""Shares of the neurons of a token that are kept, the largest."""
BATCH = 4096
VERSION = 2
"""Of what is measured: a file of another version is made anew."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How large the arms are, and how well they are measured."""

    n_layers: int = 1
    """Blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads."""
    d_mlp: int = 512
    """Neurons of each MLP."""
    n_tokens: int = 50_000_000
    """Tokens that each model is trained on."""
    batch_contexts: int = 32
    """Contexts a step: fewer make more steps of the same tokens."""
    lr: float = 3e-3
    """Peak learning rate."""
    init_std: float = 0.02
    """Standard deviation of the first weights."""
    n_seeds: int = 3
    """Models of each arm."""
    n_measured: int = 65_536
    """Held-out tokens that each model is measured on."""
    n_units: int = 100
    """Neurons of a model whose contexts are looked at."""

    def __post_init__(self) -> None:
        """Refuse what gives no interval."""
        if self.n_seeds < 2:
            raise ConfigError(f"`n_seeds` must be at least 2, for intervals, got {self.n_seeds}.")

    def shape(self, arm: str, context: int) -> SmallModelConfig:
        """Return the shape of one arm."""
        names = ("n_layers", "d_model", "n_heads", "d_mlp", "init_std")
        own = {name: getattr(self, name) for name in names}
        return SmallModelConfig(**own, context=context, **ARMS[arm])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was measured of one model."""

    loss: float
    """Held-out, in nats a token."""
    effective: float | None
    """Median over neurons of the effective number of kinds of context; None if no neuron fires enough."""
    largest: float | None
    """Median over neurons of the share of the heaviest kind."""
    chance: float | None
    """The same share for tokens drawn from anywhere."""
    recovered: tuple[float | None, ...]
    """For each of `KEPT`, share of the MLP's gain over its mean that is left; None of under 0.05 nats."""


def train_arms(
    out: Path, store: TokenStore, setup: Setup, *, device: torch.device | None = None
) -> dict[str, list[Path]]:
    """Train every arm with every seed into `out/models`, and return the folders of each arm.

    What is finished is used again, what was interrupted goes on.
    """
    found: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for seed in range(setup.n_seeds):
        for arm in ARMS:
            config = PretrainConfig(
                model=setup.shape(arm, store.context),
                n_tokens=setup.n_tokens,
                batch_contexts=setup.batch_contexts,
                lr=setup.lr,
                seed=seed,
                keep_checkpoints=0,
                precision="fp32",
            )
            folder = out / "models" / f"{arm}-{seed}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            found[arm].append(pretrain(config, store, folder, device=device))
    return found


def read_arms(
    out: Path, store: TokenStore, setup: Setup, folders: Mapping[str, Sequence[Path]]
) -> dict[str, list[Reading]]:
    """Return what is measured of each model; each is kept in `out/readings` when it is done."""
    contexts = enough(visit(store, "heldout", 0), store, setup.n_measured)
    text = read_text(store, contexts)
    train = enough(visit(store, "train", 0), store, 16 * setup.n_measured)
    parts = (store.tokens(train[i : i + 64]) for i in range(0, len(train), 64))
    space = ContextSpace.fit(parts, text, store.vocab_size)
    (out / "readings").mkdir(exist_ok=True)
    found: dict[str, list[Reading]] = {arm: [] for arm in folders}
    with progress("arms", sum(map(len, folders.values()))) as bar:
        for arm, models in folders.items():
            for folder in models:
                model = LanguageModel.load(folder, device="cpu")
                kept = out / "readings" / f"{folder.parent.name}.json"
                make = partial(read_model, model, store, text, space, setup.n_units)
                found[arm].append(_kept(kept, [VERSION, model.hash, store.hash, setup], make))
                bar.advance(1)
    return found


@torch.no_grad()
def read_model(
    model: LanguageModel, store: TokenStore, text: Text, space: ContextSpace, n_units: int
) -> Reading:
    """Return what is measured of one model on one text."""
    site = f"blocks.{model.n_layers - 1}.mlp.hook_post"
    active, vectors = _activations(model, store, text.contexts, site)
    trained = enough(visit(store, "train", 0), store, int(text.ordinary.sum()))
    mean = _activations(model, store, trained, site)[1].double().mean(0).to(vectors)
    known = of_units(Sample(text, vectors, active), space, n_units=n_units)
    full = _loss(model, store, text.contexts, site, None)
    without = _loss(model, store, text.contexts, site, lambda x: mean.expand_as(x))
    recovered: list[float | None] = []
    for share in KEPT:
        left = _loss(
            model, store, text.contexts, site, partial(keep_largest, mean=mean, share=share)
        )
        recovered.append(share_of(left - full, without - full).value)
    return Reading(
        loss=full,
        effective=known.effective.value,
        largest=known.largest.value,
        chance=known.largest.null,
        recovered=tuple(recovered),
    )


def keep_largest(
    x: Float[Tensor, "*batch d"], mean: Float[Tensor, " d"], share: float
) -> Float[Tensor, "*batch d"]:
    """Return `x` with all but the `share` of each token's activations of largest size at their means.

    >>> keep_largest(torch.tensor([[0.0, 0.4, -3.0]]), torch.tensor([9.0, 0.1, 0.0]), 0.6)
    tensor([[ 9.0000,  0.4000, -3.0000]])
    """
    k = max(1, round(share * x.shape[-1]))
    kept = torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.abs().topk(k, -1).indices, True)
    return torch.where(kept, x, mean.to(x))


def _activations(
    model: LanguageModel, store: TokenStore, contexts: Int64[np.ndarray, " n"], site: str
) -> tuple[csr_array, Float[Tensor, "tokens d"]]:
    parts = [
        model.capture(block.tokens, [site])[site].float()[block.ordinary]
        for block in blocks(store, contexts, BATCH)
    ]
    whole = torch.cat(parts)
    return csr_array(whole.clamp_min(0).numpy()), whole


def _loss(
    model: LanguageModel,
    store: TokenStore,
    contexts: Int64[np.ndarray, " n"],
    site: str,
    change: Any,
) -> float:
    """Return the mean loss on ordinary targets, with ordinary positions at `site` changed."""
    total, count = 0.0, 0
    for block in blocks(store, contexts, BATCH):
        losses = _block_losses(model, block, site, change)[block.ordinary[:, 1:]]
        total, count = total + float(losses.double().sum()), count + losses.numel()
    return total / max(count, 1)


def _block_losses(model: LanguageModel, block: Block, site: str, change: Any) -> Tensor:
    if change is None:
        return model.losses(block.tokens)

    def changed(x: Tensor) -> Tensor:
        return torch.where(block.ordinary[..., None], change(x), x)

    with model.replaced({site: changed}):
        return model.losses(block.tokens)


def _kept(path: Path, inputs: list[Any], make: Any) -> Reading:
    key = content_hash([to_json(x) for x in inputs])
    if path.is_file():
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data["key"] == key:
            return from_json(Reading, data["reading"])
    reading: Reading = make()
    write_json(path, {"key": key, "reading": to_json(reading)})
    return reading
