"""Which arithmetic matrix products use: asked of the machine, used inside a scope, never globally.

    fp32     the library's own single precision
    onednn   single precision through oneDNN's other path (`mkldnn.matmul.fp32_precision`); on some
             processors twice as fast with the same error, on others rounded to bf16 and refused
    bf16     operands rounded to bfloat16, sums in single precision; the dictionaries choose where
             (encoder products with exact rescoring, autocast of dense ones) by asking `in_bf16()`
    int8     as bf16; but TopK's candidates are chosen by a product of 8-bit integers, where a bound of
             its error lets them (kernels/int8_cpu.py); on a CPU alone, and only where its sums are exact

Weights, gradients and optimiser states stay in fp32 under every policy.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor

from monosem.core.errors import ConfigError

MatmulPolicy = Literal["fp32", "onednn", "bf16", "int8"]
POLICIES: tuple[MatmulPolicy, ...] = get_args(MatmulPolicy)

TOLERANCE: dict[MatmulPolicy, float] = {"fp32": 1e-5, "onednn": 1e-6, "bf16": 1e-2, "int8": 3e-2}
"""Largest relative error against double precision that a policy may have."""
GAIN = 0.9
"""A policy is taken only where it needs at most this share of fp32's time."""
GAIN_OF_INT8 = 0.75
"""And `int8` only where it needs this share of bf16's, and bf16 would be taken: it searches longer."""
STEPS_OF_ONE = 24
"""How finely the measured product's factors, standard normal numbers, are rounded to 8 bits."""

_current: ContextVar[MatmulPolicy] = ContextVar("matmul_policy", default="fp32")


def current() -> MatmulPolicy:
    """Return the policy of the innermost `scope`, `fp32` outside of any."""
    return _current.get()


def in_bf16() -> bool:
    """Return whether large fp32 products are to be made of operands rounded to bfloat16."""
    return current() in ("bf16", "int8")


def int8_product(
    a: Int8[Tensor, "n d"], b: Int8[Tensor, "d m"], out: Int32[Tensor, "n m"] | None = None
) -> Int32[Tensor, "n m"]:
    """Return the exact product of 8-bit integers on the CPU."""
    if out is None:
        out = torch.empty(len(a), b.shape[1], dtype=torch.int32)
    return torch._int_mm(a, b, out=out)  # pyright: ignore[reportPrivateUsage]  (it has no public name)


@contextlib.contextmanager
def scope(policy: MatmulPolicy) -> Generator[None]:
    """Use `policy` for the matrix products inside the block; what was set before comes back after."""
    token = _current.set(check(policy))
    backend = cast(Any, torch.backends.mkldnn).matmul  # torch's stubs leave it out
    before = backend.fp32_precision
    try:
        if torch.backends.mkldnn.is_available():
            backend.fp32_precision = "bf16" if policy == "onednn" else "ieee"
        yield
    finally:
        if torch.backends.mkldnn.is_available():
            backend.fp32_precision = before
        _current.reset(token)


def check(policy: str) -> MatmulPolicy:
    """Return `policy` if it is one, and this build of torch has it."""
    if policy not in POLICIES:
        raise ConfigError(
            f"Unknown matmul policy `{policy}`. Choose one of: {', '.join(POLICIES)}."
        )
    if policy == "onednn" and not torch.backends.mkldnn.is_available():
        raise ConfigError("This build of torch has no oneDNN. Choose `fp32` or `bf16`.")
    if policy == "int8" and not has_int8():
        raise ConfigError(
            "This machine has no product of 8-bit integers whose sums are exact: torch lacks it, or the "
            "processor adds pairs in 16 bits. Choose `bf16`, or `auto`, which measures."
        )
    return policy


def choose(device: torch.device | str = "cpu", *, size: int = 512) -> MatmulPolicy:
    """Return the fastest policy whose error passes, measured on a product of `size`³ (about 0.1 s)."""
    device = torch.device(device)
    seconds, errors = measure(device, size=size)
    best: MatmulPolicy = "fp32"
    limit = GAIN * seconds["fp32"]
    passing: list[MatmulPolicy] = [
        policy for policy in seconds if errors[policy] <= TOLERANCE[policy]
    ]
    for policy in passing:
        if policy != "int8" and seconds[policy] <= min(limit, seconds[best]):
            best = policy
    if best == "bf16" and "int8" in passing and seconds["int8"] <= GAIN_OF_INT8 * seconds["bf16"]:
        return "int8"
    return best


def measure(
    device: torch.device, *, size: int = 512, repeats: int = 12
) -> tuple[dict[MatmulPolicy, float], dict[MatmulPolicy, float]]:
    """Return the best time in seconds of each policy this device has, and its relative error."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    a, b = a.to(device), b.to(device)
    seconds: dict[MatmulPolicy, float] = dict.fromkeys(_available(device), float("inf"))
    errors: dict[MatmulPolicy, float] = {}
    factors = {policy: _factors(policy, a, b) for policy in seconds}
    for policy in seconds:
        with scope(policy):
            product = _multiply(*factors[policy]).cpu().double()
        product /= STEPS_OF_ONE**2 if policy == "int8" else 1
        errors[policy] = float((product - exact).norm() / exact.norm())
    for _ in range(repeats):  # interleaved, so that a busy moment meets all of them
        for policy in seconds:
            with scope(policy):
                spent = _time(device, lambda p=policy: _multiply(*factors[p]))
            seconds[policy] = min(seconds[policy], spent)
    return seconds, errors


def _factors(
    policy: MatmulPolicy, a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]
) -> tuple[Tensor, Tensor]:
    """Both as the policy multiplies them; rounding costs next to nothing where products are large."""
    if policy == "bf16":
        return a.bfloat16(), b.bfloat16()
    if policy == "int8":
        rounded = [(x * STEPS_OF_ONE).round_().to(torch.int8) for x in (a, b)]
        return rounded[0], rounded[1]
    return a, b


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return int8_product(a, b) if a.dtype == torch.int8 else a @ b


def _available(device: torch.device) -> list[MatmulPolicy]:
    if device.type == "mps":
        return ["fp32"]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return ["fp32", "onednn", "bf16", *(["int8"] if has_int8() else [])]
    return ["fp32", "bf16"]


def has_int8() -> bool:
    """Return whether products of 8-bit integers are to be had here, and exact."""
    return torch.backends.mkldnn.is_available() and hasattr(torch, "_int_mm") and _is_exact()


@functools.cache
def _is_exact() -> bool:
    """Whether sums are: x86 processors without VNNI instructions saturate pairs of products at 16 bits."""
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randint(-128, 128, (64, 64), generator=generator, dtype=torch.int8) for _ in range(2)
    )
    return torch.equal(int8_product(a, b), a.int() @ b.int())


def _time(device: torch.device, work: Callable[[], Tensor]) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
