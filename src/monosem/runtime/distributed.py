"""World: the ranks of one run, and what they tell each other; a run by itself is a world of one.

torchrun --nproc-per-node 2 -m monosem train …        starts two processes, ranks 0 and 1

`joined` is called once, where the command line begins. All ranks call the same methods in the same
order: a world is told nothing it does not wait for. In `ALONE`, a world of one, every method gives back
what it was given, and costs a comparison. On a CPU ranks talk by gloo, CUDA devices by NCCL.

A rank that ends, whatever ends it, cuts its connections, and the others stop with `RankLostError` at
their next word to each other. One that hangs is given up after `PATIENCE`; one that works by itself, as when
it writes what all have made, is waited for as long as it is there.
"""

import contextlib
import datetime
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from monosem.core.config import Json
from monosem.core.errors import ConfigError, MonosemError, RankLostError

PATIENCE = datetime.timedelta(minutes=10)
"""How long ranks wait for one that says nothing; whose process has ended is noticed at once."""
SIGN_SECONDS = 1.0
"""How often a rank that does something by itself says that it is still at it: such work has no limit."""
ROLL_CALL_SECONDS = 3.0
"""How long a rank that lost another one waits for who else is left, to say which one it was."""


class World:
    """Ranks that work together; tensors have the same shape on all of them."""

    def __init__(
        self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.size, self._group = rank, size, group

    def sum_(self, tensor: Tensor) -> Tensor:
        """Put the sum over all ranks into `tensor`, and return it."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def smallest_(self, tensor: Tensor) -> Tensor:
        """Put the smallest of all ranks into `tensor`, entry by entry, and return it."""
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """Put sums over all ranks into `tensors`, each contiguous, side by side."""
        if self.size == 1:
            return
        with self._word():
            pending = [dist.all_reduce(t, group=self._group, async_op=True) for t in tensors]
            for work in pending:
                if work is not None:
                    work.wait()

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks; its gradient is that of each rank's own part."""
        if self.size == 1:
            return tensor
        own = tensor.detach()
        return tensor - own + self.sum_(own.clone())

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over ranks; its gradient, averaged over ranks, is that of the mean."""
        if self.size == 1:
            return tensor
        own = tensor.detach()
        return tensor - own + self.sum_(own.clone()) / self.size

    def common(self, tensor: Tensor) -> Tensor:
        """Return `tensor`, which all ranks have alike; its gradient is the sum of all ranks'."""
        return tensor if self.size == 1 else _Common.apply(tensor, self)  # pyright: ignore[reportReturnType]

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Return what each rank has, in the order of ranks."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._word():
            dist.all_gather(found, tensor.contiguous(), group=self._group)
        return found

    def copy_(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Put what rank `source` has into `tensor`, which is contiguous, and return it."""
        if self.size > 1:
            with self._word():
                dist.broadcast(tensor, group=self._group, group_src=source)
        return tensor

    def heard(self, value: Any) -> list[Any]:
        """Return a JSON value of each rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        text = bytearray(json.dumps(value).encode())
        lengths = [int(n) for n in self.gathered(torch.tensor([len(text)]))]
        padded = torch.frombuffer(text.ljust(max(lengths)), dtype=torch.uint8)
        pairs = zip(self.gathered(padded), lengths, strict=True)
        return [json.loads(bytes(found[:n].tolist())) for found, n in pairs]

    def any_of(self, *asked: bool) -> list[bool]:
        """Return for each question whether any rank says yes."""
        if self.size == 1:
            return list(asked)
        return self.sum_(torch.tensor([int(each) for each in asked])).bool().tolist()

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.any_of(False)

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Return what `work` answers on rank 0, which alone does it; its error stops all ranks."""
        return self.all_do(work if self.rank == 0 else lambda: None)[0]

    def all_do(self, work: Callable[[], Any]) -> list[Any]:
        """Return what `work` answers on each rank; an error of one stops all, after all have tried.

        It may take as long as it likes, and must say nothing to other ranks by this world.
        """
        if self.size == 1:
            return [work()]
        told: Json = {}
        patience = _Patience(self)
        try:
            told = {"answer": work()}
        finally:
            patience.end()
            answers = self.heard(told or {"error": _words(sys.exception())})
        for rank, answer in enumerate(answers):
            if "error" in answer:
                raise RankLostError(
                    f"Rank {rank} of {self.size} has stopped, so rank {self.rank} stops too: "
                    f"{answer['error']}"
                )
        return [answer["answer"] for answer in answers]

    def share(self, n: int) -> slice:
        """Return which of `n` things in a row are this rank's; shares differ by one at most."""
        return self.shares(n)[self.rank]

    def shares(self, n: int) -> list[slice]:
        """Return which of `n` things in a row are each rank's."""
        each, more = divmod(n, self.size)
        firsts = [rank * each + min(rank, more) for rank in range(self.size + 1)]
        return [slice(*ends) for ends in itertools.pairwise(firsts)]

    def has(self, number: int) -> bool:
        """Whether thing `number` of a row is this rank's where they are dealt out one by one."""
        return number % self.size == self.rank

    def beside(self) -> "World":
        """Return the same ranks with connections of their own, for what runs in a thread beside."""
        if self.size == 1:
            return self
        group = dist.new_group(timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup), "every rank is in it"
        return World(self.rank, self.size, group)

    def _reduced(self, tensor: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            with self._word():
                dist.all_reduce(tensor, how, group=self._group)
        return tensor

    @contextlib.contextmanager
    def _word(self) -> Generator[None]:
        """What ranks say to each other; who does not answer has ended."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RankLostError:
        """Return the error that names the ranks that are gone."""
        gone = _roll_call(self.rank, self.size)
        which = " and ".join(str(rank) for rank in gone) or "unknown"
        return RankLostError(
            f"Rank {which} of {self.size} has ended or no longer answers, so rank {self.rank} stops too. "
            "Run the same command again: it goes on from the last checkpoint, on as many ranks as you "
            f"like. ({str(error).splitlines()[0][:200]})"
        )


class _Patience:
    """A thread that tells other ranks, while this one works, that it does; and hears when all are done."""

    def __init__(self, world: World) -> None:
        self._world, self._done = world, threading.Event()
        self._lost: RankLostError | None = None
        self._thread = threading.Thread(target=self._tell, name="ranks at work", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait until all ranks are done; `RankLostError` where one has ended."""
        self._done.set()
        self._thread.join()
        if self._lost is not None:
            raise self._lost

    def _tell(self) -> None:
        try:
            while self._world.any_of(not self._done.wait(SIGN_SECONDS))[0]:
                pass
        except RankLostError as error:
            self._lost = error


class _Common(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, None]:
        return ctx.world.sum_(grad_outputs[0].clone(memory_format=torch.contiguous_format)), None


ALONE = World()
"""The world of a run by itself."""


@contextlib.contextmanager
def joined() -> Generator[World]:
    """Yield the world that `torchrun` has begun; `ALONE` where it has not.

    Ranks other than the first print nothing but errors that the first one does not have too.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    rank = int(os.environ["RANK"])
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):  # ranks of one machine never leave it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"`WORLD_SIZE` is {size}, but nobody says where ranks meet (`MASTER_ADDR`). Start them with "
            "`torchrun`, or unset `WORLD_SIZE`."
        )
    kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(kinds, timeout=PATIENCE)
    try:
        with _silence() if rank else contextlib.nullcontext():
            yield World(rank, size)
        dist.destroy_process_group()
    except MonosemError as error:
        if not isinstance(error, RankLostError) and _said_by_first(rank, str(error)):
            raise SystemExit(2) from error
        raise


def device_of(world: World, name: str) -> str:
    """Return the name of the device that this rank has where all are told `name`."""
    kind = "cuda" if name == "auto" and torch.cuda.is_available() else name
    if world.size == 1 or kind in ("auto", "cpu"):
        return name
    own = int(os.environ["LOCAL_RANK"])
    if kind != "cuda":
        raise ConfigError(
            f"{world.size} ranks cannot have `{name}` each. Choose `cuda`, of which every rank takes its "
            "own, or `cpu`."
        )
    if own >= torch.cuda.device_count():
        raise ConfigError(
            f"There are {os.environ.get('LOCAL_WORLD_SIZE')} ranks here and {torch.cuda.device_count()} "
            "CUDA devices. Start one rank a device: `torchrun --nproc-per-node gpu …`."
        )
    torch.cuda.set_device(own)
    return f"cuda:{own}"


@contextlib.contextmanager
def _silence() -> Generator[None]:
    os.environ["MONOSEM_PROGRESS"] = "0"
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _roll_call(rank: int, size: int) -> list[int]:
    """Return the ranks that do not say within some seconds that they are there."""
    gone = [other for other in range(size) if other != rank]
    try:
        store = _store()
        store.set(f"here/{rank}", "yes")
        until = time.monotonic() + ROLL_CALL_SECONDS
        while gone and time.monotonic() < until:
            time.sleep(0.05)
            gone = [other for other in gone if not store.check([f"here/{other}"])]
    except RuntimeError:  # it is gone, and with it the rank that kept it
        return [0]
    return gone


def _words(error: BaseException | None) -> str:
    """Return what other ranks are told of an error."""
    return str(error) if isinstance(error, MonosemError) else repr(error)


def _said_by_first(rank: int, message: str) -> bool:
    """Whether rank 0 stops with the same message, and so says it for this one."""
    try:
        store = _store()
        store.set(f"stopped/{rank}", message)
        until = time.monotonic() + ROLL_CALL_SECONDS
        while rank and time.monotonic() < until:
            if store.check(["stopped/0"]):
                return store.get("stopped/0").decode() == message
            time.sleep(0.05)
    except RuntimeError:
        return False
    return False


def _store() -> dist.Store:
    """Return where ranks leave word for each other; under `torchrun` no rank's end is its end."""
    return dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
