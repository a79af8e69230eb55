"""How a converted model differs from its original: size, logits, distributions, loss on the same tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from monosem.constructions.conversion import Converted


@dataclass(frozen=True, kw_only=True)
class Size:
    """What conversion adds."""

    heads_before: int
    """Attention heads of the original, all blocks."""
    heads_added: int
    """Heads of internal dimension 1 that stand for its neurons."""
    parameters_before: int
    """Numbers in the original, tied ones once."""
    parameters_after: int
    """Numbers in the attention-only model."""
    columns_added: int
    """Residual columns: a constant and a flag, and the scratch columns of gated MLPs."""
    rows_added: int
    """The bias row."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same tokens; divergences and losses in nats a token."""

    n_tokens: int
    """Positions compared."""
    largest_logit: float
    """The largest |logit| of the original."""
    largest_difference: float
    """The largest difference of a logit."""
    kl: float
    """Mean KL(original ‖ converted)."""
    argmax_agreement: float
    """Share of positions where both put the same token first."""
    loss_before: float
    """Mean next-token loss of the original."""
    loss_after: float
    """Mean next-token loss of the converted model."""

    @property
    def loss_difference(self) -> float:
        """Return loss after minus loss before."""
        return self.loss_after - self.loss_before


def size_of(original: PreTrainedModel, converted: Converted) -> Size:
    """Return what conversion added."""
    text = original.config.get_text_config()
    return Size(
        heads_before=int(text.num_hidden_layers) * int(text.num_attention_heads),
        heads_added=sum(b.n_heads for b in converted.blocks),
        parameters_before=_n_parameters(original),
        parameters_after=_n_parameters(converted.model),
        columns_added=2 + max(b.n_scratch for b in converted.blocks),
        rows_added=1,
    )


@torch.no_grad()
def compare(
    original: PreTrainedModel,
    converted: PreTrainedModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    batch_size: int = 8,
) -> Comparison:
    """Return how `converted` differs from `original` on `tokens`, a few rows at a time."""
    sums = torch.zeros(4, dtype=torch.float64)
    largest, gap = 0.0, 0.0
    for rows in tokens.to(original.device).split(batch_size):
        before, after = _logits(original, rows), _logits(converted, rows)
        largest = max(largest, float(before.abs().max()))
        gap = max(gap, float((after - before).abs().max()))
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        agree = (p.argmax(-1) == q.argmax(-1)).double().sum()
        kl = (p.exp() * (p - q)).sum()
        sums += torch.stack([kl, agree, _loss(p, rows), _loss(q, rows)]).cpu()
    n, n_losses = tokens.numel(), tokens.shape[0] * (tokens.shape[1] - 1)
    kl, agree, loss_before, loss_after = (float(x) for x in sums)
    return Comparison(
        n_tokens=n,
        largest_logit=largest,
        largest_difference=gap,
        kl=max(kl / n, 0.0),
        argmax_agreement=agree / n,
        loss_before=loss_before / max(n_losses, 1),
        loss_after=loss_after / max(n_losses, 1),
    )


def _logits(
    model: PreTrainedModel, rows: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos vocab"]:
    return model(input_ids=rows, use_cache=False).logits.double()


def _loss(log_p: Float[Tensor, "batch pos vocab"], rows: Int[Tensor, "batch pos"]) -> Tensor:
    return -log_p[:, :-1].gather(-1, rows[:, 1:].long().unsqueeze(-1)).sum()


def _n_parameters(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in model.parameters())
