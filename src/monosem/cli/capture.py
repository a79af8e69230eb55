"""`monosem capture`: activations of some sites to a store on disk, to be trained on again and again."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from monosem.activations.store import ActivationStore
from monosem.activations.storing import CaptureConfig, capture_store
from monosem.core.config import Json
from monosem.models.language_model import LanguageModel
from monosem.models.patterns import matching_sites
from monosem.rendering.table import text as text_table
from monosem.runtime.distributed import device_of, joined
from monosem.text.tokens import TokenStore


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Capture the activations of some sites in one pass of a model, and keep them on disk.

    A site may be a pattern, such as 'blocks.*.hook_{resid_post,mlp_out}'. An interrupted capture goes on
    after its last whole shard.
    """

    capture: tyro.conf.OmitArgPrefixes[CaptureConfig] = field(default_factory=CaptureConfig)
    model: str = "1L-a"
    """An embedded model, a folder, or a name on the hub."""
    tokens: Path = Path("runs/tokens")
    """Token store to read."""
    out: Path = Path("runs/activations")
    """The folder to write."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    fresh: bool = False
    """Write the store anew where one lies already."""
    json: bool = False
    """Print the counts as JSON."""


def main(arguments: list[str]) -> int:
    """Capture or reuse the store that `arguments` describe, and say what it holds.

    Ranks that `torchrun` started capture every `size`-th shard each; the first one prints.
    """
    with joined() as world:
        given = tyro.cli(Arguments, args=arguments, prog="monosem capture")
        tokens = TokenStore.open(given.tokens)
        model = LanguageModel.load(given.model, device=device_of(world, given.device))
        sites = tuple(matching_sites(model, given.capture.sites))
        config = dataclasses.replace(given.capture, sites=sites)
        store = capture_store(config, model, tokens, given.out, fresh=given.fresh, world=world)
        print(json.dumps(counts(store)) if given.json else shown(store))
    return 0


def counts(store: ActivationStore) -> Json:
    """Return what `--json` prints: place, identity and size of the store, and what rounding costs."""
    kept = ("bytes_per_value", "fvu", "n_not_finite", "seconds")
    return {
        "path": str(store.path),
        "hash": store.hash,
        "n_rows": store.n_rows,
        "n_bytes": store.n_bytes,
        "dtype": store.dtype,
        "widths": store.widths,
        **{name: store.summary[name] for name in kept},
    }


def shown(store: ActivationStore) -> str:
    """Return the table of sites, and what they take."""
    rows = [
        [site, f"{width:,}", f"{store.summary['fvu'][site]:.2g}"]
        for site, width in store.widths.items()
    ]
    left_out = store.summary["n_not_finite"]
    return (
        f"{text_table(['site', 'width', 'fvu of rounding'], rows)}\n\n"
        f"{store.n_rows:,} tokens in {store.dtype}, {store.summary['bytes_per_value']:.3f} bytes a value, "
        f"{store.n_bytes / 2**20:,.1f} MiB, {store.summary['seconds']:.0f} s: {store.path}"
        + (f"\n{left_out:,} tokens were left out: not finite." if left_out else "")
    )
