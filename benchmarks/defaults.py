"""What each architecture makes of two sites when nothing but `n_latents` is set.

    OMP_NUM_THREADS=1 MONOSEM_TEST_DATA=… python benchmarks/defaults.py [--json]
        [--only relu gated …] [--sites neurons residual] [--n-steps 1000] [--n-latents 4096]

    neurons    `blocks.0.mlp.hook_post` of the embedded 1L-a, on the standard library
    residual   `blocks.2.hook_resid_post` of stories260k, on tinystories (both in MONOSEM_TEST_DATA)

For each: the l0 that its default aims at and the l0 it has, fvu, and how many latents are dead (never
fire) or dense (fire on more than a tenth), all on activations that it has not been trained on.
Training is the library's: `Learner` on a `TensorSource`, with the defaults of `TrainConfig`.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.activations.capture import CaptureSource
from monosem.activations.scale import scale_of
from monosem.activations.source import TensorSource
from monosem.dictionaries.base import Dictionary, architectures
from monosem.metrics.reconstruction import ReconstructionSums
from monosem.models.language_model import LanguageModel
from monosem.runtime import matmul
from monosem.text.tokens import TokensConfig, build_token_store
from monosem.training.learner import Learner
from monosem.training.settings import TrainConfig

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jumprelu, tanh": ("jumprelu", {"sparsity": "tanh"}),
}
"""Other defaults than an architecture's first: name, architecture, what is set."""
SITES = {
    "neurons": ("1L-a", "python", "blocks.0.mlp.hook_post", 128),
    "residual": ("stories260k", "tinystories", "blocks.2.hook_resid_post", 256),
}
"""Model, text, site, tokens a context; where the embedded model is not meant, folders of the test data."""
BATCH, SAMPLE, HELD_OUT = 2048, 32_768, 200_000
"""Activations a step; of the sample that weights start from; that are measured on."""
DENSE = 0.1
"""Share of activations above which a latent counts as dense."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    architecture: str
    site: str
    n_steps: int
    target: float
    l0: float
    fvu: float
    dead: int
    dense: int
    seconds: float
    """Processor seconds of the training."""


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for site in given.sites:
        x, held_out = captured(site, given.n_steps * BATCH)
        for name in given.only:
            rows.append(measured(name, site, x, held_out, given))
            if not given.json:
                print(line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))


def captured(site: str, n: int) -> tuple[Tensor, Tensor]:
    """Scaled activations: `n` to train on, or what an epoch has if that is fewer, and held-out ones."""
    name, text, where, context = SITES[site]
    if name != "1L-a":
        root = Path(os.environ["MONOSEM_TEST_DATA"])
        name, text = str(root / "models" / name), str(root / "corpora" / text)
    model = LanguageModel.load(name)
    with tempfile.TemporaryDirectory() as folder:
        config = TokensConfig(corpora=(text,), tokenizer=name, context=context)
        store = build_token_store(config, Path(folder) / "tokens")
        parts: list[Tensor] = []
        source = CaptureSource(model, store, where, batch_size=BATCH)
        for batch in source:
            parts.append(batch.x)
            if source.epoch > 0.99 or len(parts) * BATCH >= n + HELD_OUT:
                break
    x = torch.cat(parts)
    x /= scale_of(x[:SAMPLE])
    return x[:-HELD_OUT], x[-HELD_OUT:]


def measured(name: str, site: str, x: Tensor, held_out: Tensor, given: argparse.Namespace) -> Row:
    """Train one dictionary and measure it."""
    architecture, own = VARIANTS.get(name, (name, {}))
    kind = architectures()[architecture]
    config = replace(kind.config_type(), n_latents=given.n_latents, **own)
    dictionary = kind(config.with_widths(x.shape[1], x.shape[1]))
    run = TrainConfig(site=SITES[site][2], dictionaries=(config,), n_tokens=given.n_steps * BATCH)
    learner = Learner(name, dictionary, run.optim, n_steps=run.n_steps, dead_tokens=run.dead_tokens)
    source = TensorSource(x, batch_size=BATCH)
    start = time.process_time()
    with matmul.scope(matmul.choose(torch.device("cpu"))):
        sample = source.sample(SAMPLE)
        dictionary.initialise_(sample.x, sample.target)
        for _, batch in zip(range(run.n_steps), source, strict=False):
            learner.step(batch, source)
    seconds = time.process_time() - start
    target = float(getattr(config, "k", 0) or getattr(config, "l0", 0))
    return Row(name, site, run.n_steps, target, *on(held_out, dictionary, x.mean(0)), seconds)


@torch.no_grad()
def on(
    held_out: Tensor, dictionary: Dictionary[Any], mean: Tensor
) -> tuple[float, float, int, int]:
    """l0, fvu, and numbers of dead and dense latents."""
    sums = ReconstructionSums(mean=mean)
    firing = torch.zeros(dictionary.n_latents, dtype=torch.int64)
    for x in held_out.split(4096):
        latents = dictionary.encode_sparse(x)
        active = latents.active()
        firing += torch.bincount(active, minlength=dictionary.n_latents)
        sums.add(x, dictionary.decode(latents), len(active))
    found = sums.measures()
    dense = firing > DENSE * len(held_out)
    return found["l0"], found["fvu"], int((firing == 0).sum()), int(dense.sum())


def line(row: Row) -> str:
    """A row of a Markdown table."""
    values = f"{row.l0:.1f} | {row.fvu:.3f} | {row.dead:,} | {row.dense:,} | {row.seconds:.0f}"
    return f"| {row.architecture} | {row.site} | {row.n_steps:,} | {row.target:g} | {values} |"


def parse() -> argparse.Namespace:
    """What was asked for."""
    trainable = [name for name, kind in architectures().items() if kind.trainable]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=sorted([*trainable, *VARIANTS]))
    parser.add_argument("--sites", nargs="*", default=list(SITES), choices=list(SITES))
    parser.add_argument("--n-steps", type=int, default=1000)
    parser.add_argument("--n-latents", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
