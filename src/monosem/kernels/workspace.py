"""Workspace: memory that a training step uses again and again.

A page of memory takes longer to touch for the first time than to fill, and autograd takes new memory
for every gradient and for every sum of two. Inside `scope(workspace)`, which is entered once a step,
kernels take from it what is large and does not outlive the step, and add the gradients of large
weights up in its own memory, where they stay; autograd then hears nothing of them, and `deliver_`
hands them to the optimiser. Outside of a scope, and for weights that are not its own, everything is
as autograd wants it.
"""

import contextlib
from collections.abc import Generator, Iterable
from contextvars import ContextVar

import numpy as np
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn


class Gradient:
    """Gradient of one weight, added up where it stays; `rows` are those of its memory."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.transposed = not weight.is_contiguous()
        self._make_room(weight.numel() * weight.dtype.itemsize)
        self._begun, self._few = False, list[tuple[Tensor, Tensor]]()
        self._lent_to, self._held = "", False

    def lend(self, name: str, n: int, m: int, kind: torch.dtype) -> Tensor | None:
        """An `[n, m]` in its memory, while that is free and belongs to no other `name`."""
        n_bytes, free = n * m * kind.itemsize, not (self._begun or self._held)
        if not free or self._lent_to not in ("", name) or n_bytes > len(self._memory):
            return None
        self._lent_to = name
        return self._memory[:n_bytes].view(kind).view(n, m)

    def hold(self, n: int, m: int, kind: torch.dtype) -> Tensor | None:
        """An `[n, m]` in its memory, enlarged if need be, that nobody else is given before `release`."""
        if self._begun or self._held:
            return None
        n_bytes = n * m * kind.itemsize
        if n_bytes > len(self._memory):
            self._make_room(n_bytes)
        self._held = True
        return self._memory[:n_bytes].view(kind).view(n, m)

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` is what it holds."""
        return self._held and self._memory.data_ptr() == tensor.data_ptr()

    def release(self) -> None:
        """Take back what it holds, which nobody needs any more."""
        self._held = False

    def add(self, blocks: Iterable[Float[Tensor, "some m"]]) -> None:
        """Add what comes in blocks of rows, all rows in turn."""
        if self._held:  # another's gradient comes first: what is held stays where it is
            self._make_room(len(self._memory))
            self._held = False
        first = 0
        for block in blocks:
            rows = self.rows[first : first + len(block)]
            first += len(block)
            if self._begun:
                rows.add_(block)
            else:
                rows.copy_(block)
        self._begun = True

    def add_at(self, places: Int64[Tensor, " some"], rows: Float[Tensor, "some m"]) -> None:
        """Add to some rows only; which costs what they cost, if all rows are added too."""
        self._few.append((places, rows))

    def deliver_(self) -> None:
        """Make the sum the weight's gradient, together with what autograd brought."""
        if not self._begun and not self._few:
            return
        if not self._begun:
            self.rows.zero_()
        for places, rows in self._few:
            self.rows.index_add_(0, places, rows)
        self._begun, self._few = False, []
        gradient = self.rows.t() if self.transposed else self.rows
        self.weight.grad = gradient if self.weight.grad is None else gradient.add_(self.weight.grad)

    def _make_room(self, n_bytes: int) -> None:
        n, m = self.weight.t().shape if self.transposed else self.weight.shape
        self._memory = large_empty(1, n_bytes, torch.uint8)[0]
        own = n * m * self.weight.dtype.itemsize
        self.rows: Float[Tensor, "n m"] = self._memory[:own].view(self.weight.dtype).view(n, m)


class Workspace:
    """Buffers by name, and the gradients of `parameters` that are matrices on the CPU.

    Until the backward pass the memory of the gradients is free, and lent to what fits in.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] = ()) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._taken = 0
        self.remarks: dict[str, float] = {}
        """What kernels had to say of the newest step, for its log."""
        self._gradients = [Gradient(weight) for weight in parameters if _is_dense_matrix(weight)]

    def empty(self, name: str, n: int, m: int, kind: torch.dtype) -> Num[Tensor, "{n} {m}"]:
        """An uninitialised `[n, m]`; the same memory each time, so not for what must outlive a call."""
        for gradient in self._gradients:
            lent = gradient.lend(name, n, m, kind)
            if lent is not None:
                return lent
        return self._buffer(name, n, m, kind)

    def empty_for_the_step(self, n: int, m: int, kind: torch.dtype) -> Float[Tensor, "{n} {m}"]:
        """An uninitialised `[n, m]` that nobody else is given before the next step begins."""
        self._taken += 1
        return self._buffer(f"the step's {self._taken}", n, m, kind)

    def empty_beside(self, weight: Tensor, n: int, m: int, kind: torch.dtype) -> Tensor:
        """An uninitialised `[n, m]` until it is released, where no gradient of `weight` will be."""
        others = [gradient for gradient in self._gradients if gradient.weight is not weight]
        largest = max(others, key=lambda gradient: gradient.weight.numel(), default=None)
        held = None if largest is None else largest.hold(n, m, kind)
        return self.empty_for_the_step(n, m, kind) if held is None else held

    def release(self, tensor: Tensor) -> None:
        """Take back what was given beside a weight."""
        for gradient in self._gradients:
            if gradient.holds(tensor):
                gradient.release()

    def begin_step(self) -> None:
        """Give what was for the last step to this one."""
        self._taken = 0
        for gradient in self._gradients:
            gradient.release()

    def gradient(self, weight: Tensor, *, transposed: bool) -> Gradient | None:
        """Where to add the gradient of `weight`, if it is ours and lies in memory as said."""
        for gradient in self._gradients:
            if gradient.weight is weight and gradient.transposed == transposed:
                return gradient
        return None

    def deliver_(self) -> None:
        """Make the sums the gradients of their weights."""
        for gradient in self._gradients:
            gradient.deliver_()

    def _buffer(self, name: str, n: int, m: int, kind: torch.dtype) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != (n, m) or buffer.dtype != kind:
            buffer = self._buffers[name] = large_empty(n, m, kind)
        return buffer.detach()  # autograd may write on the tensor, not on the buffer


_current: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


@contextlib.contextmanager
def scope(workspace: Workspace) -> Generator[None]:
    """Let kernels use `workspace` inside the block, which is one step."""
    workspace.begin_step()
    token = _current.set(workspace)
    try:
        yield
    finally:
        _current.reset(token)


def empty(name: str, n: int, m: int, kind: torch.dtype) -> Num[Tensor, "{n} {m}"]:
    """An uninitialised `[n, m]` on the CPU, from the workspace where there is one."""
    workspace = _current.get()
    return large_empty(n, m, kind) if workspace is None else workspace.empty(name, n, m, kind)


def empty_for_the_step(n: int, m: int, kind: torch.dtype) -> Float[Tensor, "{n} {m}"]:
    """An uninitialised `[n, m]` on the CPU that lives at least to the end of the step."""
    workspace = _current.get()
    if workspace is None:
        return torch.empty(n, m, dtype=kind)
    return workspace.empty_for_the_step(n, m, kind)


def empty_beside(weight: Tensor, n: int, m: int, kind: torch.dtype) -> Float[Tensor, "{n} {m}"]:
    """The same until it is released, in memory that gradients of other weights than `weight` need later."""
    workspace = _current.get()
    if workspace is None:
        return torch.empty(n, m, dtype=kind)
    return workspace.empty_beside(weight, n, m, kind)


def release(tensor: Tensor) -> None:
    """Take back what was given beside a weight."""
    workspace = _current.get()
    if workspace is not None:
        workspace.release(tensor)


def remark(name: str, value: float) -> None:
    """Say something of this step, if anyone listens."""
    workspace = _current.get()
    if workspace is not None:
        workspace.remarks[name] = value


def gradient(weight: Tensor, *, transposed: bool = False) -> Gradient | None:
    """Where to add the gradient of `weight`, whose rows (or columns) are contiguous; None: return it."""
    workspace = _current.get()
    return None if workspace is None else workspace.gradient(weight, transposed=transposed)


def large_empty(n: int, m: int, kind: torch.dtype) -> Num[Tensor, "{n} {m}"]:
    """An uninitialised `[n, m]` on the CPU, cheap to touch for the first time.

    NumPy asks the kernel for huge pages, torch's allocator does not: first touching 32 MB in pages of
    4 kB costs a fifth of the product that fills them.
    """
    return torch.from_numpy(np.empty((n, m), dtype=f"i{kind.itemsize}")).view(kind)


def _is_dense_matrix(weight: nn.Parameter) -> bool:
    contiguous = weight.dim() == 2 and (weight.is_contiguous() or weight.t().is_contiguous())
    return contiguous and weight.device.type == "cpu" and weight.requires_grad
