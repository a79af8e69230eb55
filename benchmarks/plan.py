"""What `monosem train --plan` says of the demo's training, against what it then takes.

    python benchmarks/plan.py [--quick] [--repeats N] [--json]

The demo's own configuration: topk and relu, 4,096 latents each, 1.2 million tokens of 1L-a's neurons on the
Python sources of this machine. Goal: both estimates are wrong by less than 30 %. Time is the processor's,
so that what else a machine does spoils it less; memory is that of the whole process. `--quick` plans and
makes a run of a fifth of the demo's tokens, once unless `--repeats` says more, in about two minutes.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from memory import peak, peak_begins

from monosem.cli.demo import CONTEXT, DEAD_AFTER_SHARE, LR, SITE
from monosem.dictionaries.relu import ReLUConfig
from monosem.dictionaries.topk import TopKConfig
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training.optim import OptimConfig
from monosem.training.plan import plan
from monosem.training.trainer import TrainConfig, train

CONFIG = TrainConfig(
    site=SITE,
    dictionaries=(TopKConfig(n_latents=4096, k=16), ReLUConfig(n_latents=4096)),
    n_tokens=1_200_000,
    optim=OptimConfig(lr=LR),
    dead_after_share=DEAD_AFTER_SHARE,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The plan of the demo's training and the training."
    )
    parser.add_argument("--repeats", type=int, help="three, or one with --quick")
    parser.add_argument("--quick", action="store_true", help="a fifth of the tokens")
    parser.add_argument("--json", action="store_true")
    given, rows, config = parser.parse_args(), [], CONFIG
    if given.quick:
        config = dataclasses.replace(CONFIG, n_tokens=CONFIG.n_tokens // 5)
    repeats = given.repeats or (1 if given.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        wanted = TokensConfig(corpora=("python",), tokenizer="1L-a", context=CONTEXT)
        store = build_token_store(wanted, Path(folder) / "tokens")
        model = LanguageModel.load("1L-a", device="cpu")
        for number in range(repeats):
            out = Path(folder) / str(number)
            found = plan(config, model, store, out=out, clock=time.process_time)
            peak_begins()
            started, wall = time.process_time(), time.perf_counter()
            train(config, model, store, out)
            taken = time.process_time() - started
            rows.append(
                {
                    "planned_cpu_seconds": found.seconds,
                    "taken_cpu_seconds": taken,
                    "planned_over_taken": found.seconds / taken,
                    "taken_seconds": time.perf_counter() - wall,
                    "planned_mb": found.peak_bytes / 2**20,
                    "taken_mb": peak(),
                }
            )
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
