"""Divergence: how far the language model's predictions move when a dictionary is put in place.

    kl           E[ Σ p log(p / q) ]        p: predictions as they are, q: with the dictionary; nats a token
    kl_zero      the same with zeros in its place; kl_mean with the training split's mean
    kl_recovered 1 - kl / kl_zero, and 1 - kl / kl_mean; void where the ablation moves less than 0.05 nats

At ordinary positions, as losses are (`heldout.py`), over predictions of ordinary tokens. A loss may stay
where the predictions have changed; this does not.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.core.progress import progress
from monosem.metrics.heldout import tokens_at_once
from monosem.metrics.loss_recovered import MINIMUM_GAP
from monosem.metrics.measure import Measure, bootstrap, mean
from monosem.metrics.stream import AnyDictionary, Block, Place, blocks, side_by_side

RUNS = ("kl", "kl_zero", "kl_mean")


@torch.no_grad()
def divergence(
    dictionary: AnyDictionary,
    place: Place,
    average: Float[Tensor, " d"],
    contexts: Int64[np.ndarray, " n_contexts"],
    *,
    batch: int = 4096,
    seed: int = 0,
) -> dict[str, Measure]:
    """Return the divergences by name, with intervals over `contexts`; `average` is of what it makes."""
    sums: dict[str, list[np.ndarray]] = {run: [] for run in RUNS}
    counts: list[np.ndarray] = []
    step = max(1, min(batch, tokens_at_once(place.model) // 2))
    with progress("divergence (contexts)", len(contexts)) as bar:
        for block in blocks(place.store, contexts, step):
            predicted = block.ordinary[:, 1:]
            counts.append(predicted.sum(1).double().numpy())
            for run, found in _block(dictionary, place, average, block).items():
                sums[run].append(torch.where(predicted, found.cpu().double(), 0.0).sum(1).numpy())
            bar.advance(len(block.tokens))
    n = np.concatenate(counts)
    whole = {run: np.concatenate(parts) for run, parts in sums.items()}
    found = {run: mean(total, weights=n, seed=seed) for run, total in whole.items()}
    for ablation in ("zero", "mean"):
        found[f"kl_recovered_{ablation}"] = _recovered(
            whole["kl"], whole[f"kl_{ablation}"], found[f"kl_{ablation}"], seed
        )
    return found


def kl(
    logits: Float[Tensor, "*batch vocab"], others: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, " *batch"]:
    """Return the divergence of `others` from `logits`, in nats.

    >>> kl(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])).round(decimals=4)
    tensor(0.1201)
    """
    p, q = logits.float().log_softmax(-1), others.float().log_softmax(-1)
    # what is impossible (a masked token) adds nothing, though its logarithm is infinite
    return torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1)


def _block(
    dictionary: AnyDictionary, place: Place, average: Float[Tensor, " d"], block: Block
) -> dict[str, Float[Tensor, "batch less"]]:
    model, chosen = place.model, block.ordinary.to(place.model.device)
    with model.capturing(place.sites) as seen:
        original = model.logits(block.tokens)[:, :-1]
    x = side_by_side(seen, place.reads)
    target = side_by_side(seen, place.writes)
    made = target.clone()
    rows = x[chosen]
    made[chosen] = dictionary.reconstruct(rows, dictionary.encode_sparse(rows)).to(made.dtype)
    values = {"kl": made, "kl_zero": torch.zeros_like(target), "kl_mean": average.to(target)}
    found: dict[str, Tensor] = {}
    for run, value in values.items():
        edited = torch.where(chosen.unsqueeze(-1), value.expand_as(target), target)
        parts = zip(place.writes, edited.split(place.written_widths, -1), strict=True)
        edits: dict[str, Callable[[Tensor], Tensor]] = {
            site: partial(_put, new=new) for site, new in parts
        }
        with model.replaced(edits):
            found[run] = kl(original, model.logits(block.tokens)[:, :-1])
    return found


def _put(old: Tensor, *, new: Tensor) -> Tensor:
    return new.reshape_as(old).to(old.dtype)


def _recovered(own: np.ndarray, ablated: np.ndarray, gap: Measure, seed: int) -> Measure:
    if gap.value is None:
        return gap
    if not gap.value >= MINIMUM_GAP:
        return Measure(value=None, void=f"divergence {gap.value:.3g} nats < {MINIMUM_GAP} nats")

    def share(drawn: np.ndarray) -> float:
        below = float(ablated[drawn].sum())
        return 1 - float(own[drawn].sum()) / below if below else float("nan")

    return bootstrap(share, len(own), seed=seed)
