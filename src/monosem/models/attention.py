"""Sites inside attention: q, k, v, scores and pattern.

scores  = mask(softcap(q · kᵀ · scaling))   [batch n_heads query key]
pattern = softmax(scores)
z       = pattern · v

They are reached by one attention function, registered through `transformers`' public
`AttentionInterface` under a name of our own. An attention module with a tap gets a copy of its
configuration that names this function, for as long as the tap stays; the configuration itself,
which all modules of a model (and often several models) share, is never touched. What nobody edits
is computed by the model's own attention, so its numbers do not change.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from monosem.core.errors import UnsupportedModelError
from monosem.models.site import Site
from monosem.models.taps import Board, Place, Remove, routed

NAME = "monosem"

_TAPPED: "WeakKeyDictionary[nn.Module, _Tapped]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class AttentionPlace(Place):
    """One attention module that goes through `AttentionInterface`, in block `layer`."""

    module: nn.Module
    layer: int

    def install(self, board: Board) -> Remove:
        """Route this module's attention through `board`."""
        AttentionInterface.register(NAME, _attention)
        module = cast(Any, self.module)
        original = module.config
        outer = _TAPPED.get(module)  # another adapter on the same model
        own = outer or _own_attention(module)
        name = outer.implementation if outer else original._attn_implementation
        _TAPPED[module] = _Tapped(board, self.layer, own, name)
        module.config = copy.deepcopy(original)
        module.config._attn_implementation = NAME

        def remove() -> None:
            module.config = original
            if outer:
                _TAPPED[module] = outer
            else:
                del _TAPPED[module]

        return remove


@dataclass(frozen=True)
class _Tapped:
    board: Board
    layer: int
    own: Callable[..., tuple[Tensor, Tensor | None]]
    """The attention the model would run without us."""
    implementation: str

    def __call__(
        self,
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run attention with the taps of this layer."""
        q, k, v = self._heads("q", q), self._heads("k", k), self._heads("v", v)
        at_scores, at_pattern = self._site("attn_scores"), self._site("pattern")
        if not self.board.has(at_scores, at_pattern):
            return self.own(module, q, k, v, mask, **options)
        causal = self.implementation == "sdpa" and mask is None and q.shape[2] > 1
        scores, changed = self.board.through(at_scores, _scores(q, k, mask, causal, options))
        wide = torch.promote_types(q.dtype, torch.float32)
        pattern = scores.softmax(-1, dtype=wide).to(q.dtype)
        pattern, replaced = self.board.through(at_pattern, pattern)
        if changed or replaced:
            return _mix(module, pattern, v, options), pattern
        z, weights = self.own(module, q, k, v, mask, **options)
        if torch.is_grad_enabled() and pattern.requires_grad:
            z = routed(z, _mix(module, pattern, v, options))
        return z, weights

    def _heads(self, name: str, x: Tensor) -> Tensor:
        site = self._site(name)
        if not self.board.has(site):
            return x
        return self.board.through(site, x.transpose(1, 2))[0].transpose(1, 2)

    def _site(self, name: str) -> Site:
        return Site(self.layer, f"attn.hook_{name}")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    return _TAPPED[module](module, query, key, value, attention_mask, **options)


def _own_attention(module: Any) -> Callable[..., tuple[Tensor, Tensor | None]]:
    name = module.config._attn_implementation
    if name == "sdpa":
        return cast(Any, AttentionInterface())["sdpa"]
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if name != "eager" or eager is None:
        raise UnsupportedModelError(
            f"This model runs the attention implementation `{name}`; q, k, v, scores and pattern can "
            "be read from `sdpa` and `eager`. Load it with `attn_implementation='sdpa'`."
        )
    return eager


def _scores(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, options: dict[str, Any]
) -> Tensor:
    scaling, softcap = options.get("scaling"), options.get("softcap")
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _mix(module: nn.Module, pattern: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    dropped = nn.functional.dropout(pattern, options.get("dropout", 0.0), training=module.training)
    v = v.repeat_interleave(pattern.shape[1] // v.shape[1], dim=1)
    return (dropped @ v).transpose(1, 2).contiguous()
