"""What int8 costs: the vectors kept in it, the language model, and dictionaries trained from them.

    MONOSEM_TEST_DATA=… python benchmarks/activations_int8.py [--quick] [--json]

fvu          of rounding: share of the variance lost, on held-out tokens
delta_ce     nats a token, with the rounded vectors put back into the language model
overlap      of the latents that are active on the vectors as they are, the share that is active on the
             rounded ones too; mean over held-out tokens, of dictionaries trained from float32
fvu_ratio    held-out FVU of dictionaries trained from int8 over that of those trained from float32, in the
             same order from the same initial weights; each is measured on the vectors as they are
dead         latents that ended dead, of all, trained from float32 and from int8

The vectors are the residual streams of two trained models after their third block, and the same with
outlier channels (synthetic: four channels moved away by 200 standard deviations, two made 100 times as
loud), which a language model is given back without them. Three initial weights of TopK each.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from quality_data import SETS, Data
from torch import Tensor

from monosem.activations.capture import CaptureSource
from monosem.activations.codec import Channels, measured, packed, unpack_
from monosem.activations.store import ActivationStore
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.dictionaries.topk import TopKConfig
from monosem.metrics.loss_recovered import delta_ce
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train

FAR, LOUD = 200.0, 100.0
"""Standard deviations by which channels are moved, and how much louder others are made."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class Injection:
    """What is done to each channel, and undone."""

    gain: Tensor
    offset: Tensor

    def there(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset

    def back(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.gain


class Injected(LanguageModel):
    """A model whose activations at every site that is captured are injected with outlier channels."""

    concurrent = False

    def __init__(self, model: LanguageModel, injection: Injection) -> None:
        super().__init__(model.model, model.tokenizer, name=f"{model.name} with outlier channels")
        self.injection = injection

    def capture(
        self, tokens: Tensor, sites: Sequence[str], *, gradients: bool = False
    ) -> dict[str, Tensor]:
        found = super().capture(tokens, sites, gradients=gradients)
        return {site: self.injection.there(x) for site, x in found.items()}


def nothing(x: Tensor) -> Injection:
    return Injection(torch.ones(x.shape[1]), torch.zeros(x.shape[1]))


def outliers(x: Tensor) -> Injection:
    """Return four channels far away and two loud ones, drawn at random."""
    chosen = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))
    none = nothing(x)
    none.offset[chosen[:4]] = FAR * x[:, chosen[:4]].std(0)
    none.gain[chosen[4:6]] = LOUD
    return none


def rounded(x: Tensor, channels: Channels) -> Tensor:
    """Return `x` as it comes back from int8."""
    out = torch.empty_like(x)
    q, scale = packed(x, channels)
    unpack_(out, q, scale, channels)
    return out


def share_lost(error: Tensor, x: Tensor) -> float:
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def language_cost(data: Data, channels: Channels, injection: Injection, n_contexts: int) -> float:
    """Return the rise of the cross-entropy where the model is given rounded vectors."""
    assert data.place is not None
    model, store, site = data.place.model, data.place.store, data.place.site
    tokens = torch.from_numpy(store.tokens(store.contexts("heldout")[:n_contexts]))

    def through(x: Tensor) -> Tensor:
        flat = injection.there(x.flatten(0, 1))
        # the first position is never kept
        back = injection.back(rounded(flat, channels)).view_as(x)
        return torch.cat([x[:, :1], back[:, 1:]], 1)

    plain = model.losses(tokens)[:, 1:].flatten()
    with model.replaced({site: through}):
        return delta_ce(model.losses(tokens)[:, 1:].flatten(), plain)


@torch.no_grad()
def overlap(run: TrainingRun, name: str, x: Tensor, other: Tensor) -> float:
    """Return the share of the active latents on `x` that are active on `other` too."""
    dictionary, shares = run[name], []
    for mine, theirs in zip(x.split(2048), other.split(2048), strict=True):
        active, again = dictionary.encode(mine) > 0, dictionary.encode(theirs) > 0
        shares.append((active & again).sum(1) / active.sum(1).clamp(min=1))
    return float(torch.cat(shares).mean())


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained and measured."""

    n_kept: int
    n_tokens: int
    n_latents: int
    n_heldout: int
    n_contexts: int


FULL = Size(n_kept=500_000, n_tokens=1_000_000, n_latents=1024, n_heldout=20_000, n_contexts=128)
QUICK = Size(n_kept=100_000, n_tokens=200_000, n_latents=512, n_heldout=8_000, n_contexts=32)


def trained(
    model: LanguageModel, store: TokenStore, kept: ActivationStore, k: int, size: Size, out: Path
) -> TrainingRun:
    """Train one dictionary for each seed, side by side, on what is kept."""
    kinds = tuple(TopKConfig(n_latents=size.n_latents, k=k, seed=seed) for seed in SEEDS)
    config = TrainConfig(
        site=kept.sites[0], dictionaries=kinds, n_tokens=size.n_tokens, matmul="fp32",
        dead_after_share=0.1,
    )  # fmt: skip
    return train(config, model, store, out, activations=kept)


def measure(
    data: Data, injected: Callable[[Tensor], Injection], size: Size, k: int, folder: Path
) -> dict[str, Any]:
    """Return all measures of one stream."""
    assert data.place is not None
    store, site = data.place.store, data.place.site
    injection = injected(data.train)
    model = Injected(data.place.model, injection)
    kept, runs = {}, {}
    for dtype in ("float32", "int8"):
        wanted = CaptureConfig(sites=(site,), dtype=dtype, n_tokens=size.n_kept)
        kept[dtype] = capture_store(wanted, model, store, folder / dtype)
        runs[dtype] = trained(model, store, kept[dtype], k, size, folder / f"{dtype}-run")
    heldout = CaptureSource(
        model, store, site, batch_size=1, buffer_tokens=2 * size.n_heldout, split="heldout"
    )
    x = heldout.sample(size.n_heldout).x
    mean = injection.there(data.mean.float())
    channels = measured(injection.there(data.train))
    other = rounded(x, channels)
    fvus = {
        dtype: [share_lost_by(run, name, x, mean) for name in run.config.names]
        for dtype, run in runs.items()
    }
    pairs = zip(fvus["int8"], fvus["float32"], strict=True)
    dead = {
        dtype: sum(each["n_dead"] for each in run.summary["dictionaries"].values())
        for dtype, run in runs.items()
    }
    own = runs["float32"]
    return {
        "width": x.shape[1],
        "fvu": share_lost(other - x, x),
        "delta_ce": language_cost(data, channels, injection, size.n_contexts),
        "overlap": min(overlap(own, name, x, other) for name in own.config.names),
        "fvu_float32": statistics.mean(fvus["float32"]),
        "fvu_ratio": [int8 / float32 for int8, float32 in pairs],
        "dead": [dead["float32"], dead["int8"], len(SEEDS) * size.n_latents],
        "bytes_per_value": kept["int8"].summary["bytes_per_value"],
    }


@torch.no_grad()
def share_lost_by(run: TrainingRun, name: str, x: Tensor, mean: Tensor) -> float:
    """Return the FVU of a dictionary on `x`."""
    error = run[name](x) - x
    return float(error.square().sum() / (x - mean).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="What int8 costs.")
    parser.add_argument("--quick", action="store_true", help="shorter runs, one model")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    size, rows = (QUICK if given.quick else FULL), {}
    models = {"babyllama-361": 20} if given.quick else {"babyllama-361": 20, "stories260k": 10}
    with tempfile.TemporaryDirectory() as name:
        for model, k in models.items():
            data = SETS[model](size.n_heldout, size.n_heldout, Path(name))
            for label, injected in (("", nothing), (" with outliers", outliers)):
                own = Path(name) / f"{model}{label}"
                rows[f"{model}{label}"] = measure(data, injected, size, k, own)
    if given.json:
        print(json.dumps({"size": dataclasses.asdict(size), "streams": rows}, indent=2))
        return
    for stream, found in rows.items():
        ratios = ", ".join(f"{ratio:.4f}" for ratio in found["fvu_ratio"])
        print(
            f"{stream:30} fvu {found['fvu']:.2g}  delta CE {found['delta_ce']:+.1e}  "
            f"overlap {found['overlap']:.4f}  FVU {found['fvu_float32']:.4f} x {ratios}  "
            f"dead {found['dead'][0]}, {found['dead'][1]} of {found['dead'][2]}"
        )


if __name__ == "__main__":
    main()
