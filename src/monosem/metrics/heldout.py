"""The held-out pass: reconstructions, and the language model's losses with them in place.

For each block of contexts the model runs once as it is, which gives the activations and the loss;
each dictionary encodes and decodes them once, which gives reconstruction errors and what is
spliced; then the model runs once for each splice and each ablation.

Which positions: dictionaries are trained on ordinary tokens, and reconstructions and ablations are
put in place *at ordinary positions only*; BOS, first positions and special tokens keep their
activation in all runs (as SAEBench's `exclude_special_tokens_from_reconstruction` and Gemma Scope's
evaluations do). A few massive activations at the first position would otherwise decide every loss.
Which losses: those of all ordinary *targets*, whatever position they are predicted from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.progress import progress
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.metrics.stream import AnyDictionary, Block, Place, blocks, vectors
from monosem.models.language_model import LanguageModel

LOGITS_AT_ONCE = {"cpu": 2**22}
"""Numbers of the logits of one block: 16 MiB in float32 keep a CPU's memory warm."""
LOGITS_ELSEWHERE = 2**27


@dataclass
class Losses:
    """Losses per ordinary target, paired: entry i is the same token in every run."""

    parts: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])

    def add(self, run: str, losses: Float[Tensor, " tokens"]) -> None:
        """Take in the losses of one block in the run of that name."""
        self.parts.setdefault(run, []).append(losses.cpu().double())

    def __getitem__(self, run: str) -> Float[Tensor, " tokens"]:
        return torch.cat(self.parts[run])


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What the pass leaves: losses of each run, and sums of each dictionary."""

    unspliced: Losses
    """Runs `original`, `zero` and `mean`."""
    spliced: Losses
    """One run a dictionary, under its name."""
    ordinary: dict[str, ReconstructionSums]
    special: dict[str, ReconstructionSums]


@torch.no_grad()
def held_out(
    dictionaries: Mapping[str, AnyDictionary],
    place: Place,
    mean: Float[Tensor, " d"],
    contexts: Int64[np.ndarray, " n_contexts"],
    batch: int,
) -> HeldOut:
    """Run `contexts` through the model as it is, spliced with each dictionary, and ablated."""
    result = HeldOut(
        unspliced=Losses(),
        spliced=Losses(),
        ordinary={name: ReconstructionSums(mean=mean) for name in dictionaries},
        special={name: ReconstructionSums(mean=mean) for name in dictionaries},
    )
    step = min(batch, tokens_at_once(place.model))
    with progress("held-out losses", len(contexts)) as bar:
        for block in blocks(place.store, contexts, step):
            _measure(result, dictionaries, place, mean, block)
            bar.advance(len(block.tokens))
    return result


def tokens_at_once(model: LanguageModel) -> int:
    """Return how many tokens may have logits at the same time."""
    return LOGITS_AT_ONCE.get(model.device.type, LOGITS_ELSEWHERE) // model.vocab_size


def ordinary_losses(
    losses: Float[Tensor, "batch pos_but_one"], block: Block
) -> Float[Tensor, " tokens"]:
    """Return the losses on the ordinary targets: position t of `losses` predicts token t + 1."""
    return losses[block.ordinary[:, 1:].to(losses.device)]


def _measure(
    result: HeldOut,
    dictionaries: Mapping[str, AnyDictionary],
    place: Place,
    mean: Float[Tensor, " d"],
    block: Block,
) -> None:
    model, chosen = place.model, block.ordinary.to(place.model.device)
    with model.capturing([place.site]) as seen:
        original = model.losses(block.tokens)
    x = vectors(seen[place.site])
    result.unspliced.add("original", ordinary_losses(original, block))
    for name, dictionary in dictionaries.items():
        x_hat = _reconstruct(result, name, dictionary, x, chosen)
        result.spliced.add(name, _losses_with(place, block, x, x_hat, chosen))
    for name, value in (("zero", torch.zeros_like(x)), ("mean", mean.to(x).expand_as(x))):
        result.unspliced.add(name, _losses_with(place, block, x, value, chosen))


def _reconstruct(
    result: HeldOut,
    name: str,
    dictionary: AnyDictionary,
    x: Float[Tensor, "batch pos d"],
    chosen: Tensor,
) -> Float[Tensor, "batch pos d"]:
    x_hat = torch.empty_like(x)
    for sums, mask in ((result.ordinary[name], chosen), (result.special[name], ~chosen)):
        if not bool(mask.any()):
            continue
        latents = dictionary.encode_sparse(x[mask])
        x_hat[mask] = dictionary.decode(latents)
        sums.add(x[mask], x_hat[mask], len(latents.active()))
    return x_hat


def _losses_with(
    place: Place,
    block: Block,
    x: Float[Tensor, "batch pos d"],
    value: Float[Tensor, "batch pos d"],
    chosen: Tensor,
) -> Float[Tensor, " tokens"]:
    """Return the losses with `value` in place of `x` at the chosen positions."""
    edited = torch.where(chosen.unsqueeze(-1), value, x)

    def put(old: Tensor) -> Tensor:
        return edited.view_as(old).to(old.dtype)

    with place.model.replaced({place.site: put}):
        return ordinary_losses(place.model.losses(block.tokens), block)
