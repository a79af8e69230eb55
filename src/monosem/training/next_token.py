"""The next-token loss of a small language model, without ever holding all its logits."""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2LMHeadModel

from monosem.core.errors import ConfigError
from monosem.models.transformer import MonosemForCausalLM
from monosem.text.store import TokenStore

CHUNK = 1024
"""Positions whose logits exist at once."""
SmallModel = GPT2LMHeadModel | MonosemForCausalLM


def chunked_loss(
    model: SmallModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    bf16: bool,
) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats; with gradients enabled they are already added.

    Equal to cross-entropy on whole logits, in value and gradients, up to rounding.
    """
    kind = tokens.device.type
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
        hidden = model.transformer(tokens).last_hidden_state[:, :-1].flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    leaf = hidden.detach().requires_grad_(torch.is_grad_enabled())
    total = torch.zeros((), device=tokens.device)
    for start in range(0, len(targets), CHUNK):
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
            logits = model.lm_head(leaf[start : start + CHUNK])
        part = F.cross_entropy(logits.float(), targets[start : start + CHUNK], reduction="sum")
        part = part / len(targets)
        if torch.is_grad_enabled():
            part.backward()
        total += part.detach()
    if torch.is_grad_enabled():
        hidden.backward(leaf.grad)
    return total


def heldout_loss(model: SmallModel, store: TokenStore, *, n_tokens: int = 500_000) -> float:
    """Mean next-token loss in nats on the first `n_tokens` held-out tokens."""
    contexts = store.contexts("heldout")[: max(1, n_tokens // store.context)]
    if len(contexts) == 0:
        raise ConfigError(
            "The token store holds no held-out text. Make it with a `--heldout-share`."
        )
    total, count = 0.0, 0
    device = next(model.parameters()).device
    with torch.no_grad():
        for start in range(0, len(contexts), 32):
            part = store.tokens(contexts[start : start + 32])
            loss = chunked_loss(model, torch.from_numpy(part).to(device), bf16=False)
            total, count = total + float(loss) * len(part), count + len(part)
    return total / count
