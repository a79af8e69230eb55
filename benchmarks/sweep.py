"""What a sweep of several small dictionaries costs against as many runs of one.

    python benchmarks/sweep.py [--repeats 3] [--n-tokens 400000] [--n-latents 1024] [--quick] [--json]

Both are `monosem train` in processes of their own, so everything counts: starting, loading, capturing,
the sample, initial weights, training, saving. Of a repetition the sweep comes first, then the runs.
Processor time is what is compared, as it says most on a busy machine; seconds by the clock beside it.
The weights of every dictionary must be the same both ways, bit for bit.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from monosem.text.tokens import TokensConfig, build_token_store

KS = (4, 6, 8, 12, 16, 24, 32, 48)


def main() -> None:
    given = arguments()
    ks = KS[:: 2 if given.quick else 1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokens = given.tokens or made(folder / "tokens")
        together, apart = [], []
        for _ in range(given.repeats):
            together.append(trained(given, tokens, folder / "sweep", ks))
            each = [trained(given, tokens, folder / f"run{k}", (k,)) for k in ks]
            apart.append(tuple(sum(times) for times in zip(*each, strict=True)))
            same = all(
                (folder / "sweep" / f"topk-k{k}" / "weights.safetensors").read_bytes()
                == (folder / f"run{k}" / "topk" / "weights.safetensors").read_bytes()
                for k in ks
            )
            for made_here in folder.glob("[sr][wu]*"):
                shutil.rmtree(made_here)
    report(given, ks, together, apart, same)


def made(folder: Path) -> Path:
    """A token store of the embedded text, as the demo reads it."""
    config = TokensConfig(corpora=("python",), tokenizer="1L-a", max_tokens=1_000_000)
    build_token_store(config, folder)
    return folder


def trained(
    given: argparse.Namespace, tokens: Path, out: Path, ks: tuple[int, ...]
) -> tuple[float, float]:
    """Processor and clock seconds of one `monosem train`."""
    words = f"--model 1L-a --tokens {tokens} --out {out} --n-tokens {given.n_tokens} --device cpu"
    words += f" --n-latents {given.n_latents} --matmul {given.matmul} --k {' '.join(map(str, ks))}"
    command = [sys.executable, "-c", "from monosem.cli import main; main()", "train"]
    environment = {**os.environ, "MONOSEM_PROGRESS": "0", "OMP_NUM_THREADS": str(given.threads)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, *words.split()], check=True, env=environment, capture_output=True)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def report(
    given: argparse.Namespace,
    ks: tuple[int, ...],
    together: list[tuple[float, float]],
    apart: list[tuple[float, float]],
    same: bool,
) -> None:
    """Print medians and the median ratio."""
    row = {
        "dictionaries": len(ks),
        "n_latents": given.n_latents,
        "n_tokens": given.n_tokens,
        "sweep_processor_s": statistics.median(t[0] for t in together),
        "runs_processor_s": statistics.median(t[0] for t in apart),
        "sweep_clock_s": statistics.median(t[1] for t in together),
        "runs_clock_s": statistics.median(t[1] for t in apart),
        "sweep_over_runs": statistics.median(
            a[0] / b[0] for a, b in zip(together, apart, strict=True)
        ),
        "same_weights": same,
    }
    if given.json:
        print(json.dumps({"rows": [row]}))
        return
    for name, value in row.items():
        print(f"{name:20} {value:.3g}" if isinstance(value, float) else f"{name:20} {value}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-tokens", type=int, default=400_000)
    parser.add_argument("--n-latents", type=int, default=1024)
    parser.add_argument("--matmul", default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=Path, help="a token store of 1L-a's tokenizer")
    parser.add_argument(
        "--quick", action="store_true", help="four dictionaries, once, fewer tokens"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.repeats, given.n_tokens = 1, min(given.n_tokens, 100_000)
    return given


if __name__ == "__main__":
    main()
