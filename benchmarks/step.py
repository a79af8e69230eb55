"""Time of one training step of each trainable dictionary, beside the bf16 encoder product alone.

    python benchmarks/step.py [--d-in 512] [--n-latents 4096] [--batch 4096] [--k 32] [--repeats 15]
                              [--l0 30] [--only "topk bf16"] [--clock process]

`relu` is shown as it starts, with half of its latents positive, and with biases that leave `l0` of
them; the learning rate is zero, so that every repetition sees the same latents.

Every repetition runs all variants one after another, so that a busy moment of the machine meets all
of them; the ratio to the encoder product is the median of the ratios within repetitions. The lowest
time of each variant is shown too: the one that other processes disturbed least.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from monosem.dictionaries.base import Dictionary, TrainState, architectures
from monosem.runtime import matmul
from monosem.runtime.matmul import MatmulPolicy

Work = Callable[[], object]


def step_of(dictionary: Dictionary, policy: MatmulPolicy, x: torch.Tensor, n_dead: int) -> Work:
    """One whole training step: loss, gradients, projection, clipping, fused Adam, unit rows."""
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.0, fused=True)
    dead = torch.zeros(dictionary.n_latents, dtype=torch.bool, device=x.device)
    dead[:n_dead] = True
    silent = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=x.device)
    state = TrainState(1, 10**6, silent, dead, torch.Generator())

    def step() -> None:
        with matmul.scope(policy):
            optimizer.zero_grad()
            terms = dictionary.loss_terms(x, x, state)
            torch.stack(list(terms.values())).sum().backward()
        dictionary.before_step_()
        torch.nn.utils.clip_grad_norm_(dictionary.parameters(), 1.0)
        optimizer.step()
        dictionary.after_step_()

    return step


@torch.no_grad()
def thin_out_(dictionary: Dictionary, x: torch.Tensor, l0: int) -> None:
    """Lower the biases until about `l0` latents of a row are positive."""
    pre = (x[:512] - dictionary.centre) @ dictionary.W_enc
    highest = pre.flatten().topk(l0 * len(pre), sorted=True).values
    dictionary.b_enc.fill_(-float(highest[-1]))


def encoder_product(x: torch.Tensor, n_latents: int) -> Work:
    """The bf16 product that no encoder can do without."""
    weight = torch.randn(n_latents, x.shape[1]).to(x.device, torch.bfloat16).t()
    rounded = x.bfloat16()
    out = torch.empty(len(x), n_latents, dtype=torch.bfloat16, device=x.device)
    return lambda: torch.mm(rounded, weight, out=out)


def seconds(work: Work, device: torch.device, clock: Callable[[], float]) -> float:
    """Time of one call; `process` counts processor time of all threads, for a shared machine."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("d-in", 512), ("n-latents", 4096), ("batch", 4096), ("k", 32), ("l0", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="variants whose name begins so")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    given = parser.parse_args()
    clock = time.process_time if given.clock == "process" else time.perf_counter
    device = torch.device(given.device)
    x = torch.randn(given.batch, given.d_in).to(device)
    variants: dict[str, Work] = {"bf16 encoder product": encoder_product(x, given.n_latents)}
    for name, kind in architectures().items():
        if not kind.trainable:
            continue
        knobs = {"d_in": given.d_in, "n_latents": given.n_latents}
        knobs |= {"k": given.k} if hasattr(kind.config_type, "k") else {}
        cases = {"": 0}
        if name == "topk":
            cases |= {f", {n} dead": n for n in (given.n_latents // 32, given.n_latents // 4)}
        if name == "relu":
            cases[f", L0 {given.l0}"] = 0
        for policy in matmul.POLICIES:
            for case, n_dead in cases.items():
                label = f"{name} {policy}{case}"
                if not label.startswith(given.only):
                    continue
                dictionary = kind(kind.config_type(**knobs)).to(device)
                if "L0" in case:
                    thin_out_(dictionary, x, given.l0)
                variants[label] = step_of(dictionary, policy, x, n_dead)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repetition in range(given.repeats + 2):
        for name, work in variants.items():
            took = seconds(work, device, clock)
            if repetition >= 2:
                times[name].append(took)
    base = times["bf16 encoder product"]
    shape = f"{given.d_in} -> {given.n_latents}, batch {given.batch}, k {given.k}"
    print(f"{shape}, {torch.get_num_threads()} threads, {device}")
    print(f"{'':28s} {'min ms':>9s} {'median ms':>10s} {'ratio':>7s} {'min ratio':>10s}")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, base, strict=True))
        print(
            f"{name:28s} {min(taken) * 1e3:9.1f} {statistics.median(taken) * 1e3:10.1f} "
            f"{ratio:7.2f} {min(taken) / min(base):10.2f}"
        )


if __name__ == "__main__":
    main()
