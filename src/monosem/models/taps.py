"""Taps: functions that sit on sites and see, or change, what flows through.

A `Board` holds a stack of taps for each site, so that a context that ends takes away its own
taps and nobody else's. A `Place` knows how one site (or one group of sites in one module) is
reached, with plain PyTorch hooks; it is installed when its first tap arrives and removed with
its last, so a model without taps is untouched.

A tap that only reads never changes a value, not even in the last bit: where a site lies inside a
module (norm scale, attention pattern), the module's own output is kept and only the gradient is
routed through the explicit formula (`routed`).
"""

import abc
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monosem.core.errors import ShapeMismatchError
from monosem.models import norms
from monosem.models.site import Site

Edit = Callable[[Tensor], Tensor]
Remove = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Tap:
    """A function on a site; one that `edits` may return another value than it was given."""

    function: Edit
    edits: bool


class Place(abc.ABC):
    """How a group of sites in one module is reached."""

    @abc.abstractmethod
    def install(self, board: "Board") -> Remove:
        """Set the hooks that pass activations through `board`, and return what removes them."""


class Board:
    """The taps that are set on the sites of one model."""

    def __init__(self, places: dict[Site, Place]) -> None:
        """Know every site of `places`; nothing is hooked yet."""
        self.places = places
        self.lock = threading.RLock()
        """Held by a thread while it has taps, or passes the model: no other sees them."""
        self._taps: dict[Site, list[Tap]] = {}
        self._installed: dict[Place, Remove] = {}

    def add(self, site: Site, tap: Tap) -> None:
        """Put `tap` on top of the others on `site`."""
        place = self.places[site]
        if place not in self._installed:
            self._installed[place] = place.install(self)
        self._taps.setdefault(site, []).append(tap)

    def remove(self, site: Site, tap: Tap) -> None:
        """Take `tap` away; the hooks go when no tap needs them."""
        self._taps[site].remove(tap)
        if not self._taps[site]:
            del self._taps[site]
        place = self.places[site]
        if not any(self.places[other] is place for other in self._taps):
            self._installed.pop(place)()

    @property
    def tapped(self) -> bool:
        """Whether any site has a tap."""
        return bool(self._taps)

    def has(self, *sites: Site) -> bool:
        """Whether any of `sites` has a tap."""
        return any(site in self._taps for site in sites)

    def through(self, site: Site, x: Tensor) -> tuple[Tensor, bool]:
        """Return `x` after all taps of `site`, oldest first, and whether an edit replaced it."""
        edited = False
        for tap in tuple(self._taps.get(site, ())):
            y = tap.function(x)
            if y.shape != x.shape:
                raise ShapeMismatchError(
                    f"The replacement for `{site}` has shape {tuple(y.shape)}; the site has "
                    f"{tuple(x.shape)}. Return a tensor of the same shape."
                )
            edited = edited or (tap.edits and y is not x)
            x = y
        return x, edited


def routed(value: Tensor, explicit: Tensor) -> Tensor:
    """Return `value` bit for bit, with the gradient of `explicit`, which equals it but for rounding."""
    return value.detach() + (explicit - explicit.detach())


@dataclass(frozen=True, eq=False)
class InputPlace(Place):
    """The first input of a module; split into heads where `n_heads` > 0."""

    module: nn.Module
    site: Site
    n_heads: int = 0

    def install(self, board: Board) -> Remove:
        """Hook the module's input."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            new = _through_heads(board, self.site, x, self.n_heads)
            if new is x:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return self.module.register_forward_pre_hook(hook, with_kwargs=True).remove


@dataclass(frozen=True, eq=False)
class OutputPlace(Place):
    """The (first) output of a module; split into heads where `n_heads` > 0."""

    module: nn.Module
    site: Site
    n_heads: int = 0

    def install(self, board: Board) -> Remove:
        """Hook the module's output; some families return it in a tuple."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            new = _through_heads(board, self.site, x, self.n_heads)
            if new is x:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return self.module.register_forward_hook(hook).remove


@dataclass(frozen=True, eq=False)
class MiddlePlace(Place):
    """The residual stream between attention and MLP: the input of the second norm.

    The block adds the MLP's output to its own copy of that tensor, out of a hook's reach, so what a
    replacement changed is added to the block's output too.
    """

    norm: nn.Module
    block: nn.Module
    site: Site

    def install(self, board: Board) -> Remove:
        """Hook the norm's input, and the block's output before any other hook on it."""
        change: Tensor | None = None

        def enter(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            nonlocal change  # not of each thread: where anything is changed, one pass is made at a time
            new = board.through(self.site, args[0])[0]
            change = None if new is args[0] else new - args[0]
            return None if change is None else (new, *args[1:])

        def leave(_: nn.Module, __: Any, output: Any) -> Any:
            if change is None:
                return None
            if isinstance(output, tuple):
                return (output[0] + change, *output[1:])
            return output + change

        entering = self.norm.register_forward_pre_hook(enter)
        leaving = self.block.register_forward_hook(leave, prepend=True)

        def remove() -> None:
            entering.remove()
            leaving.remove()

        return remove


@dataclass(frozen=True, eq=False)
class PositionPlace(Place):
    """The output of a position embedding, given the batch axis that `transformers` leaves out."""

    base: nn.Module
    module: nn.Module
    site: Site

    def install(self, board: Board) -> Remove:
        """Hook the embedding, and the base model for the size of the batch."""
        of_pass = threading.local()  # passes may be made side by side

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
            of_pass.batch = next(x for x in given if isinstance(x, Tensor)).shape[0]

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return board.through(self.site, output.expand(of_pass.batch, -1, -1))[0]

        noting = self.base.register_forward_pre_hook(note, with_kwargs=True)
        hooking = self.module.register_forward_hook(hook)

        def remove() -> None:
            noting.remove()
            hooking.remove()

        return remove


@dataclass(frozen=True, eq=False)
class NormPlace(Place):
    """A norm layer: what it divides by, and what it puts out."""

    module: nn.Module
    scale: Site
    normalized: Site

    def install(self, board: Board) -> Remove:
        """Hook the norm's output; the scale is recomputed only where it is asked for."""

        def hook(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            y = output
            if board.has(self.scale):
                scale, edited = board.through(self.scale, norms.scale_of(norm, args[0]))
                if edited:
                    y = norms.rebuild(norm, args[0], scale)
                elif torch.is_grad_enabled() and scale.requires_grad:
                    y = routed(output, norms.rebuild(norm, args[0], scale))
            y, _ = board.through(self.normalized, y)
            return None if y is output else y

        return self.module.register_forward_hook(hook).remove


def _through_heads(board: Board, site: Site, x: Tensor, n_heads: int) -> Tensor:
    if not n_heads:
        return board.through(site, x)[0]
    # The view is put back into the graph; beside it, its gradient would be None.
    return board.through(site, x.unflatten(-1, (n_heads, -1)))[0].flatten(-2)
