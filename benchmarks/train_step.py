"""Time and memory of one training step of each architecture, beside the encoder product and other libraries.

    python benchmarks/train_step.py [--quick] [--json]
        [--only topk relu] [--d-in 512] [--n-latents 8192] [--batch 2048] [--k 32] [--repeats 9]
        [--dead 0.02] [--peer-dead 0] [--policy auto] [--device cpu] [--clock process]
        [--against eai-sparsify] [--no-peers] [--no-memory] [--profile]

A step is the trainer's: loss with the dead latents' term, gradients, clipping, fused Adam, norms, dead
counts. Peers are timed without a term for dead latents: `--dead 0` leaves ours out too, `--peer-dead
0.02` gives eai-sparsify its own. The learning rate is next to nothing, so that each repetition sees the
same latents. Kinds with a penalty start with `k` active latents a row; as `relu, dense` they start as in
the papers, with half of all latents active, which no quick run shows.

The floor of a step is the encoder product, 2 · batch · d_in · n_latents operations, in bf16 or fp32.
Every repetition runs everything one after another, two steps each of which the second is timed (peers in
a quick run, whose steps are long: one), so that a busy moment of the machine meets all; a ratio is the
median of the ratios within repetitions. On a machine that others keep busy all the time,
`OMP_NUM_THREADS=1` and `--clock process` count the processor's time instead.

`peak_mb` is what a process that makes only this step needs above what it needs after importing, and
`bound_mb` parameters, gradients, moments and one block of encoder products.

`make bench-peers` installs the other libraries (benchmarks/peers.py) beside this one and runs this.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import Shape, steps
from torch.profiler import ProfilerActivity, profile

from monosem.activations.source import Batch, TensorSource
from monosem.dictionaries.base import Dictionary, architectures
from monosem.runtime import matmul
from monosem.training.learner import Learner
from monosem.training.optim import OptimConfig

Work = Callable[[], object]
STILL = OptimConfig(lr=1e-12)
SMALL = Shape(d_in=512, n_latents=8192, batch=2048, k=32)
LARGE = Shape(d_in=768, n_latents=32_768, batch=4096, k=32)
POOL = 4
"""Batches that take turns."""
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
OWN = ("bf16", "fp32", "ours")
DENSE_L1 = 0.004
"""A penalty that is given, not steered: with it training starts as in the papers."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    architecture: str
    d_in: int
    n_latents: int
    batch: int
    k: int
    policy: str
    ms: float
    ours_over_matmul_bf16: float
    ours_over_matmul_fp32: float
    peer_over_ours: dict[str, float]
    peak_mb: float | None
    bound_mb: float


def activations(shape: Shape, n: int) -> torch.Tensor:
    """Sparse sums of unit directions with noise: what a dictionary is for; E‖x‖² = d_in."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4 * shape.d_in, shape.d_in, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    chosen = torch.randint(0, len(rows), (n, 24), generator=generator)
    weights = torch.rand(n, 24, generator=generator)
    x = torch.nn.functional.embedding_bag(chosen, rows, per_sample_weights=weights, mode="sum")
    x += 0.02 * torch.randn(x.shape, generator=generator)
    return (x * (shape.d_in**0.5 / x.norm(dim=1).square().mean().sqrt())).to(shape.device)


def dictionary_of(label: str, shape: Shape, x: torch.Tensor) -> Dictionary:
    """A dictionary as a run begins with it: by default with `k` latents a row, or with half of all."""
    architecture, dense = label.partition(",")[0], label.endswith("dense")
    kind = architectures()[architecture]
    knobs: dict[str, Any] = {"d_in": shape.d_in, "n_latents": shape.n_latents}
    fields = {f.name for f in dataclasses.fields(kind.config_type)}
    knobs |= {"k": shape.k} if "k" in fields else {}
    knobs |= {"l0": float(shape.k)} if "l0" in fields else {}
    knobs |= {"l1": DENSE_L1} if dense else {}
    dictionary = kind(kind.config_type(**knobs)).to(shape.device)
    dictionary.initialise_(x, x)
    return dictionary


def our_step(dictionary: Dictionary, pool: list[torch.Tensor], dead: float, policy: str) -> Work:
    """One step of a learner, `dead` of whose latents have been silent for long."""
    learner = Learner("it", dictionary, STILL, n_steps=10**6, dead_tokens=10**6)
    n_dead = round(dead * dictionary.n_latents)
    learner.state.tokens_since_fired[:n_dead] = 10**7
    source = TensorSource(pool[0], batch_size=len(pool[0]), seed=0)
    batches = [Batch(x, x, torch.arange(len(x))) for x in pool]
    made = 0

    def step() -> None:
        nonlocal made
        learner.state.step = 1000  # nothing that a schedule does now and then
        learner.state.tokens_since_fired[:n_dead] = 10**7
        learner.state.dead = learner.state.tokens_since_fired >= 10**6
        with matmul.scope(matmul.check(policy)):
            learner.step(batches[made % len(batches)], source)
        made += 1

    return step


def product(shape: Shape, kind: torch.dtype) -> Work:
    """The encoder product alone, into memory that is there."""
    x = torch.randn(shape.batch, shape.d_in).to(shape.device, kind)
    weight = torch.randn(shape.n_latents, shape.d_in).to(shape.device, kind).t()
    out = torch.empty(shape.batch, shape.n_latents, dtype=kind, device=shape.device)
    return lambda: torch.mm(x, weight, out=out)


def seconds(work: Work, device: str, clock: Callable[[], float]) -> float:
    """Time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def rows_of(
    label: str, shape: Shape, given: argparse.Namespace, peak_mb: float | None
) -> tuple[Row, dict[str, str]]:
    """Time one architecture beside products and peers; say which peers are missing, and why."""
    x = activations(shape, POOL * shape.batch)
    pool = list(x.split(shape.batch))
    dictionary = dictionary_of(label, shape, x[:8192])
    work: dict[str, Work] = {
        "bf16": product(shape, torch.bfloat16),
        "fp32": product(shape, torch.float32),
        "ours": our_step(dictionary, pool, given.dead, given.policy),
    }
    missing: dict[str, str] = {}
    if given.peers and not (given.quick and shape == LARGE):
        for name, step in steps(label.partition(",")[0], shape, pool).items():
            if given.against and name not in given.against:
                continue
            if isinstance(step, str):
                missing[name] = step
            else:
                work[name] = step
    times: dict[str, list[float]] = {name: [] for name in work}
    n_repeats = min(3, given.repeats) if given.quick and shape == LARGE else given.repeats
    for repetition in range(n_repeats):
        for name, step in work.items():
            if name not in OWN and repetition >= given.peer_repeats:
                continue
            if name in OWN or not given.quick:
                step()  # after another's, caches and memory are not as in a run
            times[name].append(seconds(step, shape.device, CLOCKS[given.clock]))

    def ratio(above: str, below: str) -> float:
        pairs = zip(times[above], times[below], strict=False)  # peers may have fewer
        return round(statistics.median(a / b for a, b in pairs), 3)

    row = Row(
        architecture=label,
        d_in=shape.d_in,
        n_latents=shape.n_latents,
        batch=shape.batch,
        k=shape.k,
        policy=given.policy,
        ms=round(statistics.median(times["ours"]) * 1e3, 1),
        ours_over_matmul_bf16=ratio("ours", "bf16"),
        ours_over_matmul_fp32=ratio("ours", "fp32"),
        peer_over_ours={n: ratio(n, "ours") for n in work if n not in OWN},
        peak_mb=peak_mb,
        bound_mb=bound(dictionary, shape, given.policy),
    )
    return row, missing


def bound(dictionary: Dictionary, shape: Shape, policy: str) -> float:
    """MB of parameters, gradients, two moments, and one block of encoder products."""
    parameters = sum(p.numel() for p in dictionary.parameters() if p.requires_grad)
    block = shape.batch * shape.n_latents * (2 if policy in ("bf16", "int8") else 4)
    return round((4 * 4 * parameters + block) / 1e6, 1)


def peaks(chosen: list[tuple[str, Shape]], given: argparse.Namespace) -> list[float | None]:
    """MB that a process needs for a few steps of each, above what importing needs."""
    if not given.memory:
        return [None] * len(chosen)
    asked = json.dumps([[label, dataclasses.asdict(shape)] for label, shape in chosen])
    command = [sys.executable, __file__, "--peaks-of", asked, "--policy", given.policy]
    found = subprocess.run([*command, "--dead", str(given.dead)], capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return json.loads(found.stdout)


def print_peaks(given: argparse.Namespace) -> None:
    """Print the peak of each in a process of its own, which has imported everything and done nothing."""
    start = "fork" if sys.platform.startswith("linux") else "spawn"
    found: list[float] = []
    for label, shape in json.loads(given.peaks_of):
        with multiprocessing.get_context(start).Pool(1) as alone:
            found.append(alone.apply(peak, (label, Shape(**shape), given.dead, given.policy)))
    print(json.dumps(found))


def peak(label: str, shape: Shape, dead: float, policy: str) -> float:
    """MB that this process needs for a few steps, above importing and the data.

    A tiny step comes first, and a product of each kind: libraries import and prepare much when they are
    used for the first time.
    """
    x = activations(shape, shape.batch)
    tiny = Shape(d_in=8, n_latents=64, batch=16, k=2)
    few = activations(tiny, tiny.batch)
    our_step(dictionary_of("topk", tiny, few), [few], dead, policy)()
    matmul.measure(torch.device("cpu"), size=64, repeats=1)
    before = forget_peak()
    dictionary = dictionary_of(label, shape, x[:2048])
    step = our_step(dictionary, [x], dead, policy)
    for _ in range(3):
        step()
    return round((peak_kb() - before) * 1024 / 1e6, 1)


def forget_peak() -> int:
    """KB in use; where the system lets a process forget its peak (Linux), it does."""
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kb()


def peak_kb() -> int:
    """Highest resident size of this process so far, in KB."""
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def print_profile(given: argparse.Namespace, shape: Shape) -> None:
    """Print which operators a step of each architecture spends its time in."""
    for label in given.only or ["topk"]:
        x = activations(shape, POOL * shape.batch)
        step = our_step(
            dictionary_of(label, shape, x[:8192]),
            list(x.split(shape.batch)),
            given.dead,
            given.policy,
        )
        for _ in range(4):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(given.repeats):
                step()
        spent = {e.key: e.self_cpu_time_total for e in seen.key_averages()}
        total = sum(spent.values())
        print(
            f"{label}, {shape.d_in}→{shape.n_latents}, {shape.batch}: {total / given.repeats / 1e3:.0f} ms"
        )
        for name, time_spent in sorted(spent.items(), key=lambda pair: -pair[1])[:16]:
            print(f"  {100 * time_spent / total:5.1f} %  {name}")


def cases(given: argparse.Namespace) -> list[tuple[str, Shape]]:
    """What is timed: every architecture at one shape, and in a quick run topk at a large one too."""
    names = ("d_in", "n_latents", "batch", "k", "device", "peer_dead")
    shape = Shape(**{name: getattr(given, name) for name in names})
    kinds = [name for name, kind in architectures().items() if kind.trainable]
    labels = [
        label
        for name in kinds
        for label in (name, f"{name}, dense")
        if (not given.only or name in given.only)
        and (label == name or (not given.quick and can_start_dense(name)))
    ]
    chosen = [(label, shape) for label in labels]
    if given.quick and shape == SMALL and (not given.only or "topk" in given.only):
        chosen.append(("topk", LARGE))
    return chosen


def can_start_dense(architecture: str) -> bool:
    """Whether it has a penalty that can be given instead of steered."""
    fields = dataclasses.fields(architectures()[architecture].config_type)
    return any(f.name == "l1" for f in fields) and architecture != "jumprelu"


def table(rows: list[Row], missing: dict[str, dict[str, str]]) -> str:
    """The rows as text, and what is missing from them."""
    head = f"{'':22s} {'shape':>22s} {'ms':>8s} {'/bf16':>7s} {'/fp32':>7s} {'peak MB':>8s}"
    lines = [f"{head} {'bound':>7s}  peers / ours"]
    for row in rows:
        shape = f"{row.d_in}→{row.n_latents}, {row.batch}"
        others = ", ".join(f"{name} {value:.1f}" for name, value in row.peer_over_ours.items())
        lines.append(
            f"{row.architecture:22s} {shape:>22s} {row.ms:8.1f} {row.ours_over_matmul_bf16:7.2f} "
            f"{row.ours_over_matmul_fp32:7.2f} {row.peak_mb or 0:8.0f} {row.bound_mb:7.0f}  {others}"
        )
    for label, reasons in missing.items():
        lines += [f"{label}: {library} {why}." for library, why in reasons.items()]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("d_in", "n_latents", "batch", "k"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(SMALL, name))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--repeats", type=int, default=0, help="0: 9, or 5 in a quick run, 2 of them with peers"
    )
    parser.add_argument("--dead", type=float, default=0.02, help="share of latents that are dead")
    parser.add_argument(
        "--peer-dead", type=float, default=0.0, help="the same in eai-sparsify; 0: without its term"
    )
    parser.add_argument("--policy", default="auto", choices=("auto", *matmul.POLICIES))
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions; topk at 768 → 32,768 too, alone"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--against", nargs="*", default=[], help="these peers alone")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    parser.add_argument("--peaks-of", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.policy == "auto":
        given.policy = matmul.choose(given.device)
    given.repeats = given.repeats or (5 if given.quick else 9)
    given.peer_repeats = 2 if given.quick else given.repeats
    return given


def main() -> None:
    """Time everything and print it."""
    given = parse()
    if given.peaks_of:
        print_peaks(given)
        return
    if given.profile:
        print_profile(given, cases(given)[0][1])
        return
    rows: list[Row] = []
    missing: dict[str, dict[str, str]] = {}
    chosen = cases(given)
    for (label, shape), peak_mb in zip(chosen, peaks(chosen, given), strict=True):
        row, reasons = rows_of(label, shape, given, peak_mb)
        rows.append(row)
        if reasons:
            missing[label] = reasons
        sys.stderr.write(table([row], {}).splitlines()[1] + "\n")
    if given.json:
        print(json.dumps({"rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows, missing))


if __name__ == "__main__":
    main()
