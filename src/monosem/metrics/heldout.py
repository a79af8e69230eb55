"""The held-out pass: reconstructions, and the language model's losses with them in place.

For each block of contexts the model runs once as it is, which gives the activations and the loss;
each dictionary encodes and decodes them once, which gives reconstruction errors and what is
spliced; then the model runs once for each splice and each ablation.

Which positions: dictionaries are trained on ordinary tokens, and reconstructions and ablations are
put in place *at ordinary positions only*; BOS, first positions and special tokens keep their
activation in all runs (as SAEBench's `exclude_special_tokens_from_reconstruction` and Gemma Scope's
evaluations do). A few massive activations at the first position would otherwise decide every loss.
A dictionary that makes other sites than it reads, or several, is put in place at all that it makes,
together, from what the model without it had where it reads.
Which losses: those of all ordinary *targets*, whatever position they are predicted from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.progress import progress
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.metrics.stream import AnyDictionary, Block, Place, blocks, side_by_side
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
    by_site: dict[str, dict[str, ReconstructionSums]]
    """Sums of each dictionary at each of several sites that it makes; empty where it makes one."""


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
        by_site={name: _sums_by_site(place, mean) for name in dictionaries},
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
    with model.capturing(place.sites) as seen:
        original = model.losses(block.tokens)
    x = side_by_side(seen, place.reads)
    target = side_by_side(seen, place.writes) if place.target else x
    result.unspliced.add("original", ordinary_losses(original, block))
    for name, dictionary in dictionaries.items():
        made = _reconstruct(result, name, dictionary, x, target, chosen)
        _add_by_site(result.by_site[name], place, target[chosen], made[chosen])
        result.spliced.add(name, _losses_with(place, block, target, made, chosen))
    zero, average = torch.zeros_like(target), mean.to(target).expand_as(target)
    for name, value in (("zero", zero), ("mean", average)):
        result.unspliced.add(name, _losses_with(place, block, target, value, chosen))


def _sums_by_site(place: Place, mean: Float[Tensor, " d"]) -> dict[str, ReconstructionSums]:
    if len(place.writes) == 1:
        return {}
    means = zip(place.writes, mean.split(place.written_widths), strict=True)
    return {site: ReconstructionSums(mean=own) for site, own in means}


def _add_by_site(
    sums: dict[str, ReconstructionSums],
    place: Place,
    target: Float[Tensor, "tokens d"],
    made: Float[Tensor, "tokens d"],
) -> None:
    if not sums:
        return
    widths = place.written_widths
    for site, x, x_hat in zip(
        place.writes, target.split(widths, 1), made.split(widths, 1), strict=True
    ):
        sums[site].add(x, x_hat, 0)


def _reconstruct(
    result: HeldOut,
    name: str,
    dictionary: AnyDictionary,
    x: Float[Tensor, "batch pos d_in"],
    target: Float[Tensor, "batch pos d"],
    chosen: Tensor,
) -> Float[Tensor, "batch pos d"]:
    x_hat = torch.empty_like(target)
    for sums, mask in ((result.ordinary[name], chosen), (result.special[name], ~chosen)):
        if not bool(mask.any()):
            continue
        latents = dictionary.encode_sparse(x[mask])
        x_hat[mask] = dictionary.reconstruct(x[mask], latents)
        sums.add(target[mask], x_hat[mask], len(latents.active()))
    return x_hat


def _losses_with(
    place: Place,
    block: Block,
    x: Float[Tensor, "batch pos d"],
    value: Float[Tensor, "batch pos d"],
    chosen: Tensor,
) -> Float[Tensor, " tokens"]:
    """Return the losses with `value` in place of `x` at the chosen positions, at all sites together."""
    edited = torch.where(chosen.unsqueeze(-1), value, x)
    parts = zip(place.writes, edited.split(place.written_widths, -1), strict=True)

    def putting(new: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda old: new.reshape_as(old).to(old.dtype)

    with place.model.replaced({site: putting(new) for site, new in parts}):
        return ordinary_losses(place.model.losses(block.tokens), block)
