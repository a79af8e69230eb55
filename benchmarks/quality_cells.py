"""Cells: single training runs, each made once, kept in a JSON-lines file, and what they add up to.

A cell is named by data, library and `Job`; a finished one is read from the file and never run again. Its
directions lie in a folder beside, for stability between seeds.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_data import Data
from quality_job import Job
from quality_libraries import OURS, train
from quality_measures import measure, stability
from scipy.stats import t as student

Json = dict[str, Any]
FACTOR = 3.0
"""Between one learning rate and the next that is tried."""
TRIED = 5
"""Runs of a search before it refines, the library's default among them."""
NEAR = 0.1
"""How near an l0 must be, as a share, to be called the same."""
INTERVALS = ("fvu", "loss_recovered", "dead", "recovery")


class LateError(Exception):
    """The time that was given is over."""


@dataclass(kw_only=True)
class Cells:
    """The cells of one file."""

    out: Path | None
    n_loss_tokens: int
    say: Callable[[str], object]
    until: float = math.inf
    """Moment of `time.monotonic` after which no cell is begun."""
    _known: dict[str, Json] = field(default_factory=dict[str, Json])
    _rows: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def __post_init__(self) -> None:
        """Read what is there."""
        if self.out is not None and self.out.exists():
            lines = self.out.read_text().splitlines()
            self._known = {json.loads(line)["name"]: json.loads(line) for line in lines}

    def cell(self, data: Data, library: str, job: Job) -> Json:
        """The measures of one run, made now if they are not there."""
        if library == OURS:
            job = dataclasses.replace(job, tuned=False)  # ours are the same in both settings
        sizes = {"n_rows": len(data.train), "n_heldout": len(data.report)}
        record = {"data": data.name, "library": library, **sizes, **dataclasses.asdict(job)}
        name = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
        if name not in self._known:
            if time.monotonic() > self.until:
                raise LateError
            self._make(name, record, data, library, job)
        return self._known[name]

    def directions(self, cells: Sequence[Json]) -> list[torch.Tensor]:
        """The decoder rows of cells; none where one of them was not kept."""
        kept = [self._direction(cell["name"]) for cell in cells]
        return [rows for rows in kept if rows is not None] if None not in kept else []

    def _make(self, name: str, record: Json, data: Data, library: str, job: Job) -> None:
        start = time.process_time()
        coder = train(library, job, data.train)
        trained = time.process_time() - start
        found = measure(coder, data, job.k, self.n_loss_tokens)
        cell = {"name": name, **record, "lr": coder.lr, **found, "seconds": round(trained, 2)}
        self._known[name] = cell
        self._rows[name] = coder.directions.half()
        if self.out is not None:
            folder = self.out.with_suffix(".directions")
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}.npy", coder.directions.half().numpy())
            with self.out.open("a") as file:
                file.write(json.dumps(cell) + "\n")
        what = f"{data.name} {job.architecture} {library} k {job.k} seed {job.seed}"
        extra = f"×{job.multiple:.3g}{' tuned' if job.tuned else ''} c {job.coefficient:.3g}"
        self.say(
            f"{what} {extra}: fvu {found['fvu']:.4f} l0 {found['l0']:.1f} dead {found['dead']:.3f} "
            f"({trained:.0f} s)"
        )

    def _direction(self, name: str) -> torch.Tensor | None:
        if name in self._rows:
            return self._rows[name].float()
        path = None if self.out is None else self.out.with_suffix(".directions") / f"{name}.npy"
        if path is None or not path.exists():
            return None
        return torch.from_numpy(np.load(path)).float()


def best_multiple(cells: Cells, data: Data, library: str, job: Job) -> float:
    """The learning rate with the lowest fvu on the rows to choose by, in multiples of the default.

    An l0 that is not near `job.k` counts before any fvu.

    A third of the default, it, and three times it; then on, while the best is at the edge, up to five;
    then half a step to either side.
    """
    tried: dict[float, tuple[float, float]] = {}

    def at(power: float) -> None:
        if power not in tried:
            each = dataclasses.replace(job, multiple=round(FACTOR**power, 6))
            found = cells.cell(data, library, each)
            value = found["fvu_choose"]
            off = abs(math.log(max(found["l0"], 1e-3) / job.k)) // math.log(1 + NEAR)
            tried[power] = off, value if math.isfinite(value) else math.inf

    for power in (-1.0, 0.0, 1.0):
        at(power)
    while len(tried) < TRIED and not min(tried) < _best(tried) < max(tried):
        at(_best(tried) + (1.0 if _best(tried) == max(tried) else -1.0))
    bracketed = _best(tried)
    at(bracketed - 0.5)
    at(bracketed + 0.5)
    return round(FACTOR ** _best(tried), 6)


def _best(tried: dict[float, tuple[float, float]]) -> float:
    return min(tried, key=lambda power: tried[power])


def matching_coefficient(cells: Cells, data: Data, library: str, job: Job) -> float:
    """The penalty, in multiples of the default, whose l0 is nearest to `job.k`: a secant in logarithms."""
    seen: list[tuple[float, float]] = []
    log_c = 0.0
    for _ in range(TRIED + 1):
        found = cells.cell(data, library, dataclasses.replace(job, coefficient=math.exp(log_c)))
        error = math.log(max(found["l0"], 1e-3) / job.k)
        seen.append((error, log_c))
        if abs(error) < NEAR / 2:
            break
        slope = -1.0
        if len(seen) > 1 and seen[-1][1] != seen[-2][1]:
            slope = (seen[-1][0] - seen[-2][0]) / (seen[-1][1] - seen[-2][1])
            slope = min(slope, -0.3)
        log_c = round(log_c + max(-4.0, min(4.0, -error / slope)), 6)
    return math.exp(min(seen, key=lambda pair: abs(pair[0]))[1])


def row(cells: Cells, found: Sequence[Json], setting: str) -> Json:
    """What cells that differ in their seed alone add up to: means, and intervals of 95 % (Student's t)."""
    one = found[0]
    names = ("data", "architecture", "library", "k", "lr", "multiple", "coefficient")
    sizes = ("n_latents", "steps", "batch", "n_rows", "n_heldout")
    result: Json = {name: one[name] for name in (*names, *sizes)}
    result |= {"setting": setting, "seeds": [cell["seed"] for cell in found]}
    skipped = {*result, "name", "seed", "tuned", "seconds", "fvu_choose"}
    for name in (n for n in one if n not in skipped):
        values = [cell[name] for cell in found if cell[name] is not None]
        result[name] = round(sum(values) / len(values), 6) if values else None
        if name in INTERVALS:
            result[f"{name}_interval"] = _interval(values)
    rows = cells.directions(found) if len(found) > 1 else []
    return result | ({n: round(v, 4) for n, v in stability(rows).items()} if rows else {})


def _interval(values: Sequence[float]) -> list[float] | None:
    """Mean ± t · standard error; one seed has none."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    error = (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5
    half = float(student.ppf(0.975, n - 1)) * error
    return [round(mean - half, 6), round(mean + half, 6)]


def verdict(ours: Json, peer: Json, name: str, higher: bool) -> str:
    """`better`, `tie` or `worse` of ours; a tie where intervals overlap; nothing where there is none."""
    a, b = ours.get(f"{name}_interval"), peer.get(f"{name}_interval")
    if a is None or b is None or ours[name] is None or peer[name] is None:
        return ""
    if abs(peer["l0"] / ours["l0"] - 1) > NEAR:
        return "other l0"
    if a[0] <= b[1] and b[0] <= a[1]:
        return "tie"
    return "better" if (ours[name] > peer[name]) == higher else "worse"
