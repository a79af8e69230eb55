"""A language model seen as one whose weights were processed: what its sites hold there, of the same pass.

Libraries rewrite a model so that the same function is easier to read. What a site holds in the rewritten
model is a function of what it holds here, so that nothing needs to be rewritten:

    centred               x - mean of x        in the residual stream, where the norms are LayerNorms: what
                                               is written there has its mean taken away, which they pass over
    layer_norm_folded     (x - c) / g          the output of a norm, whose gain g and bias c were moved into
                                               what reads it; where g is 0, what the norm makes before it
    value_biases_folded   x - v                values, and the heads' outputs z: the bias v was moved into
                                               that of the output; with folded norms so was c times the
                                               matrix of the values

`back` undoes each for what is put in place of x. `centred` leaves models with RMSNorms as they are, which
do see the mean: TransformerLens passes over them. Every other site holds the same in both models.

Source: TransformerLens 3.9.0, weight_processing.py (`process_weights`), which was read and not run: the
formulas are tested against a GPT-2 that is rewritten by hand (tests/activations/test_processing.py).
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from monosem.core.errors import ConfigError
from monosem.dictionaries.saving import PROCESSINGS, steps
from monosem.models import norms
from monosem.models.language_model import LanguageModel
from monosem.models.places import base_of, submodule
from monosem.models.site import RESIDUAL_POINTS, Site
from monosem.models.taps import Tap, routed

REFACTORED = "attention_refactored"
"""Queries, keys, values and z in other coordinates of each head, which nothing here computes."""


@dataclass(frozen=True)
class Centring:
    """The mean of each activation, taken away."""

    def there(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What the processed model has where this one has `x`."""
        return x - x.mean(-1, keepdim=True)

    def back(
        self, y: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch d"]:
        """What this model has where the processed one has `y`, in place of `x`."""
        return y + x.mean(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """An offset, and then a gain, taken away from each channel."""

    gain: Float[Tensor, " d"]
    offset: Float[Tensor, " d"]
    norm: nn.Module | None = None
    """The norm, whose input says what channels without a gain are."""

    @property
    def invertible(self) -> bool:
        """Whether the activation itself says what it is there: no gain is zero."""
        return not bool((self.gain == 0).any())

    def there(self, x: Tensor, entered: Tensor | None = None) -> Tensor:
        """What the processed model has where this one has `x`, of which the norm's input is `entered`."""
        gain, offset = (own.to(x).view(x.shape[2:]) for own in (self.gain, self.offset))
        found = (x - offset) / torch.where(gain == 0, 1.0, gain)
        if entered is None or self.norm is None:
            return found
        plain = norms.centred(self.norm, entered) / norms.scale_of(self.norm, entered)
        return torch.where(gain == 0, plain, found)

    def back(self, y: Tensor, x: Tensor) -> Tensor:
        """What this model has where the processed one has `y`, in place of `x`."""
        gain, offset = (own.to(x).view(x.shape[2:]) for own in (self.gain, self.offset))
        return y * gain + offset


Change = Centring | Scaling


def change(model: LanguageModel, site: str | Site, processing: str) -> Change | None:
    """What `processing` changes at `site` of `model`, None where it holds the same in both models."""
    done, found = steps(processing), model.check_site(site)
    for step in done:
        if step not in (*PROCESSINGS, REFACTORED):
            raise ConfigError(
                f"The dictionary was trained on a model whose weights were processed as `{step}`, which is "
                f"unknown. Known are none, {', '.join(PROCESSINGS)}; correct what it records."
            )
    inside = found.point in ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
    if inside and REFACTORED in done:
        raise ConfigError(
            f"The dictionary was trained on a model whose heads were refactored, and reads `{found}`, which "
            "has other coordinates there. Use one of the model as it is, or of another site."
        )
    if found.point in RESIDUAL_POINTS:
        sees_mean = not norms.is_centred(_last_norm(model))
        return Centring() if "centred" in done and not sees_mean else None
    if found.point.endswith("hook_normalized"):
        return _of_norm(model, found) if "layer_norm_folded" in done else None
    if found.point in ("attn.hook_v", "attn.hook_z") and "value_biases_folded" in done:
        offset = _value_biases(model, found, norm_too="layer_norm_folded" in done)
        return Scaling(gain=torch.ones_like(offset), offset=offset)
    return None


class ProcessedModel(LanguageModel):
    """A language model whose sites are read and replaced as if its weights had been processed.

    It is the same model, with the same weights, logits and hash; only `capture`, `capturing` and
    `replaced` see other activations.
    """

    concurrent = False  # a norm's input is noted for the site after it, of one pass at a time

    def __init__(self, model: LanguageModel, processing: str) -> None:
        """See `model` so; `processing` is what a dictionary's origin records."""
        # weights, places and the lock of the taps are the model's own, not copies
        self.__dict__.update(vars(model))
        self.processing = processing
        self._plain = model
        self._changes: dict[Site, Change | None] = {}

    @contextlib.contextmanager
    @override
    def _tapped(self, taps: Sequence[tuple[Site, Tap]]) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._board.lock)
            changed = [(site, self._seen(site, tap, stack)) for site, tap in taps]
            stack.enter_context(super()._tapped(changed))
            yield

    def _seen(self, site: Site, tap: Tap, stack: contextlib.ExitStack) -> Tap:
        """Return the tap that shows `tap` what the processed model has."""
        if site not in self._changes:
            self._changes[site] = change(self._plain, site, self.processing)
        found = self._changes[site]
        if found is None:
            return tap
        there: Callable[[Tensor], Tensor] = found.there
        if isinstance(found, Scaling) and found.norm is not None and not found.invertible:
            there = _with_input(found, found.norm, stack)

        def through(x: Tensor) -> Tensor:
            given = there(x)
            made = tap.function(given)
            on_graph = torch.is_grad_enabled() and made.requires_grad
            if made is given and (tap.edits or not on_graph):
                return x
            explicit = found.back(made, x)
            return explicit if tap.edits else routed(x, explicit)

        return Tap(through, tap.edits)


def _with_input(
    found: Scaling, norm: nn.Module, stack: contextlib.ExitStack
) -> Callable[[Tensor], Tensor]:
    entered: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        entered[:] = [args[0]]

    stack.callback(norm.register_forward_pre_hook(note).remove)
    return lambda x: found.there(x, entered[0])


def _of_norm(model: LanguageModel, site: Site) -> Scaling:
    if site.layer is None:
        norm = _last_norm(model)
    else:
        path = model.family.ln1 if site.point.startswith("ln1") else model.family.ln2
        norm = submodule(model.blocks[site.layer], path)
    gain = norms.gain(norm).detach()
    return Scaling(gain=gain, offset=_bias(norm, gain), norm=norm)


def _value_biases(model: LanguageModel, site: Site, *, norm_too: bool) -> Float[Tensor, " d"]:
    """The values of an input of zeros, or of the norm's bias: what attention adds to every z."""
    layer = site.layer or 0
    norm = submodule(model.blocks[layer], model.family.ln1)
    gain = norms.gain(norm).detach()
    bias = _bias(norm, gain) if norm_too else torch.zeros_like(gain)
    into, values = f"blocks.{layer}.ln1.hook_normalized", f"blocks.{layer}.attn.hook_v"
    with model.replaced({into: lambda x: bias.expand_as(x)}):
        found = model.capture(torch.zeros(1, 1, dtype=torch.int64), [values])[values][0, 0]
    if site.point == "attn.hook_z":  # several heads may share one head of values
        found = found.repeat_interleave(model.n_heads // len(found), 0)
    return found.flatten()


def _bias(norm: nn.Module, gain: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    bias = getattr(norm, "bias", None)
    return torch.zeros_like(gain) if bias is None else bias.detach()


def _last_norm(model: LanguageModel) -> nn.Module:
    return submodule(base_of(model.model, model.family), model.family.ln_final)
