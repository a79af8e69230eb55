"""What `monosem train` prints when it has planned or finished."""

from pathlib import Path

from monosem.core.config import Json
from monosem.rendering.table import text as text_table
from monosem.training.plan import Plan


def plan_table(found: Plan) -> str:
    """Return what a plan says of memory, disk, operations and time."""
    gib = 2**30
    rows = [[name, f"{n:,} parameters"] for name, n in list(found.parameters.items())[:12]]
    if len(found.parameters) > len(rows):
        rows.append(["…", f"{len(found.parameters) - len(rows)} more"])
    flops = found.flops_per_token
    stores = ", ".join(f"{n / gib:.2f} GiB in {dtype}" for dtype, n in found.store_bytes.items())
    minutes, seconds = divmod(round(found.seconds), 60)
    more = found.device_peak_bytes
    on_device = f", {more / gib:.2f} GiB on {found.calibrated_on}" if more else ""
    rows += [
        ["memory: model", f"{found.model_bytes / gib:.2f} GiB"],
        ["memory: training", f"{found.training_bytes / gib:.2f} GiB"],
        ["memory: all, at most", f"{found.peak_bytes / gib:.2f} GiB in this process{on_device}"],
        ["disk: dictionaries", f"{found.output_bytes / gib:.2f} GiB"],
        ["disk: checkpoints", f"{found.checkpoint_bytes / gib:.2f} GiB, until it ends"],
        ["disk: a store", stores],
        ["operations a token", f"{flops['model']:.3g} model, {flops['dictionaries']:.3g} training"],
        ["operations in all", f"{sum(flops.values()) * found.n_tokens:.3g}"],
        ["time", f"{minutes} min {seconds} s on {found.calibrated_on}, by a short run just now"],
    ]
    return f"{text_table(['plan', f'{found.n_steps:,} steps, {found.n_tokens:,} tokens'], rows)}"


def run_table(folders: dict[str, Path], summary: Json) -> str:
    """Return the last metrics of each dictionary of a run, and where it lies."""
    rows: list[list[str]] = []
    for name, folder in folders.items():
        last = summary["dictionaries"][name]
        values = [f"{last['loss']:.4f}", f"{last['l0']:.1f}", f"{last['fvu']:.4f}"]
        rows.append([name, *values, f"{last['n_dead']:,}", str(folder)])
    head = ["dictionary", "loss", "l0", "fvu", "dead", "folder"]
    epochs, seconds = summary["epochs"], summary["seconds"]
    note = f"{summary['n_tokens']:,} tokens ({epochs:.2f} epochs) in {seconds:.0f} s"
    return f"{text_table(head, rows)}\n{note}, last batch of training above."
