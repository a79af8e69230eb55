"""What a run would need of memory, disk, operations and time, said before it starts.

    parameters    of each dictionary: encoder, decoder, biases
    memory        at its highest: what this process, and its CUDA device, had at most when the short runs
                  below were over, and what a block of the whole run takes more than one of theirs; of
                  that, weights, gradients and Adam's two moments of all dictionaries, a block of
                  activations and a batch of latents; of the model, its weights
    disk          of what the run writes, and of a store of the activations it reads
    operations    of matrix products: of the model, up to the last site that is read, and of a step
    time          of short runs of the same configuration (calibration.py)

Steps get cheaper or dearer as latents die or a penalty is steered, and machines have other work: an
estimate is within 30 % on a quiet one (docs/activations.md).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from monosem.activations.blocks import BlockSource
from monosem.activations.codec import STORED_TYPES, bytes_per_vector
from monosem.activations.store import ActivationStore
from monosem.activations.storing import ROW_BYTES
from monosem.core.config import Json
from monosem.dictionaries.base import architecture
from monosem.dictionaries.state import TrainState
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore
from monosem.training.calibration import Calibration
from monosem.training.part import needed_bytes
from monosem.training.settings import TrainConfig
from monosem.training.sources import source_of

CALIBRATION_SECONDS = 10.0
COUNTED_ROWS = 64
"""Rows of the step whose operations are counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would need."""

    n_steps: int
    n_tokens: int
    parameters: dict[str, int]
    """Of each dictionary, under its site where there are several."""
    model_bytes: int
    training_bytes: int
    """Of dictionaries, their optimiser, a block of activations and a batch of latents."""
    peak_bytes: int
    """Of the whole process at its highest, the interpreter and its libraries included."""
    device_peak_bytes: int
    """Of tensors on the CUDA device of the dictionaries at their highest; 0 without one."""
    output_bytes: int
    """What the run leaves on the disk."""
    checkpoint_bytes: int
    """What its checkpoints take meanwhile, two of them."""
    store_bytes: dict[str, int]
    """What a store of the activations would take, by type."""
    flops_per_token: dict[str, float]
    """Of matrix products: `model`, up to the last site, and `dictionaries`."""
    seconds: float
    """Estimate for the whole run."""
    calibrated_on: str
    """Device of the estimate."""

    def to_json(self) -> Json:
        """Return the plan as values that JSON holds."""
        return dataclasses.asdict(self)


def plan(
    config: TrainConfig,
    model: LanguageModel,
    store: TokenStore,
    *,
    sites: Sequence[str] = (),
    activations: ActivationStore | None = None,
    device: str | None = None,
    out: Path | str | None = None,
    seconds: float = CALIBRATION_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Return what `train`, or with `sites` `train_suite`, would need for `config`.

    Nothing is written but short runs, for about `seconds`, in a folder beside `out`, removed at the end (a
    temporary one without `out`). What `clock` counts is what is estimated.
    """
    names = [str(model.check_site(site)) for site in (sites or config.sites)]
    source = source_of(config, model, store, names, activations=activations, device=device)
    shapes = _shapes(config, source, several=bool(sites))
    parameters = {
        f"{site}/{name}" if sites else name: _parameters(config, index, *shape)
        for site, shape in shapes.items()
        for index, name in enumerate(config.names)
    }
    total = sum(parameters.values())
    captured = list(dict.fromkeys([*names, *config.targets]))
    calibration = Calibration(config, model, store, sites, activations, device, out, clock)
    estimated = calibration.seconds(seconds)
    own = [(index, shape) for shape in shapes.values() for index in range(len(config.dictionaries))]
    return Plan(
        n_steps=config.n_steps,
        n_tokens=config.n_steps * config.batch_size,
        parameters=parameters,
        model_bytes=sum(p.numel() * p.element_size() for p in model.model.parameters()),
        training_bytes=needed_bytes(source, config, [sum(ins) for ins, _ in shapes.values()]),
        peak_bytes=calibration.peak(source),
        device_peak_bytes=calibration.device_peak(source),
        output_bytes=4 * total,
        checkpoint_bytes=2 * 3 * 4 * total,
        store_bytes=_store_bytes(model, store, captured),
        flops_per_token={
            "model": 0.0 if activations else _model_flops(config, model, captured, store.context),
            "dictionaries": sum(_dictionary_flops(config, index, *shape) for index, shape in own),
        },
        seconds=estimated,
        calibrated_on=str(source.device),
    )


def _store_bytes(model: LanguageModel, store: TokenStore, sites: list[str]) -> dict[str, int]:
    """Return what a store of `sites` would take, by type."""
    n, widths = store.n_tokens("train"), [model.width(site) for site in sites]
    return {
        dtype: n * (sum(bytes_per_vector(dtype, width) for width in widths) + ROW_BYTES)
        for dtype in STORED_TYPES
    }


def _shapes(
    config: TrainConfig, source: BlockSource, *, several: bool
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the widths read and written at each site of a suite, or of all sites together."""
    if not several:
        return {config.site: source.widths}
    widths = {site: (columns.stop - columns.start,) for site, columns in source.columns.items()}
    return {site: (width, width) for site, width in widths.items()}


def _parameters(
    config: TrainConfig, index: int, ins: tuple[int, ...], outs: tuple[int, ...]
) -> int:
    own = config.wired(config.dictionaries[index], ins, outs)
    with torch.device("meta"):
        return sum(p.numel() for p in architecture(own.architecture)(own).parameters())


def _model_flops(
    config: TrainConfig, model: LanguageModel, sites: list[str], context: int
) -> float:
    """Operations a token of the blocks that are run: two a weight, and those of attention's products.

    Where the objective looks at the model, all of it and the gradients: twice what a pass takes.
    """
    layers = [site.layer for name in sites if (site := model.check_site(name)).layer is not None]
    whole = config.objective.kind != "reconstruction"
    deepest = model.n_layers - 1 if whole else max(layers, default=-1)
    weights = sum(
        module.weight.numel()
        for block in list(model.blocks)[: deepest + 1]
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D)
    )
    of_blocks = 2.0 * weights + 4.0 * context * model.d_model * (deepest + 1)
    return 3.0 * (of_blocks + 2.0 * model.d_model * model.vocab_size) if whole else of_blocks


def _dictionary_flops(
    config: TrainConfig, index: int, ins: tuple[int, ...], outs: tuple[int, ...]
) -> float:
    """Operations a row of one step, counted on a small one; what is sparse is not a product."""
    own = config.wired(config.dictionaries[index], ins, outs)
    dictionary = architecture(own.architecture)(own)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNTED_ROWS, dictionary.d_in, generator=generator)
    target = x if dictionary.writes_what_it_reads else x.new_zeros(len(x), dictionary.d_out)
    dictionary.initialise_(x, target)
    silent = torch.zeros(dictionary.n_latents, dtype=torch.int64)
    state = TrainState(
        step=0,
        n_steps=config.n_steps,
        tokens_since_fired=silent,
        dead=silent.bool(),
        generator=generator,
    )
    with FlopCounterMode(display=False) as counter:
        terms = dictionary.terms(x, target, state)
        torch.stack(list(terms.values())).sum().backward()
    return counter.get_total_flops() / COUNTED_ROWS
