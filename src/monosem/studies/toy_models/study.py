"""All figures of the toy models, at three scales.

`tiny` shows that each works, in about a minute; `small` what the papers show, in smaller numbers, in a
quarter of an hour on one core; `paper` takes the papers' own sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from monosem.core.config import content_hash, to_json
from monosem.core.errors import ConfigError, unknown_name
from monosem.studies import report
from monosem.studies.report import Figure, Stage
from monosem.studies.toy_models.budget import budget
from monosem.studies.toy_models.mmcs import Grid, mmcs
from monosem.studies.toy_models.one_hot import one_hot
from monosem.studies.toy_models.pairs import pairs
from monosem.studies.toy_models.phase import phase
from monosem.studies.toy_models.plateaus import plateaus

TITLE = "Toy models of superposition"
LEAD = (
    "Models so small that all of a superposition can be seen: when features share dimensions, which of "
    "them, what that does to neurons, and how a dictionary finds them again."
)
VERSION = 3
"""Of the figures' contents: one that was kept from another version is made again."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large each figure is."""

    n_grid: int
    phase_steps: int
    plateaus: tuple[int, int, int, int]
    """Features, dimensions, densities, steps."""
    n_models: int
    pair_steps: int
    budget_steps: int
    one_hot_steps: int
    mmcs: Grid


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        n_grid=7,
        phase_steps=300,
        plateaus=(40, 8, 6, 300),
        n_models=16,
        pair_steps=400,
        budget_steps=200,
        one_hot_steps=300,
        mmcs=Grid(
            d=16,
            n_features=32,
            l0=1.5,
            exponents=(-8, -4, 0, 4),
            ratios=(0.5, 1.0, 2.0),
            n_steps=300,
            batch=256,
            lr=5e-3,
        ),
    ),
    "small": Scale(
        n_grid=15,
        phase_steps=800,
        plateaus=(80, 12, 16, 1200),
        n_models=64,
        pair_steps=1500,
        budget_steps=1500,
        one_hot_steps=1500,
        mmcs=Grid(
            d=32,
            n_features=64,
            l0=2.5,
            exponents=tuple(range(-8, 9, 2)),
            ratios=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            n_steps=2500,
            batch=512,
            lr=3e-3,
        ),
    ),
    "paper": Scale(
        n_grid=41,
        phase_steps=10_000,
        plateaus=(400, 30, 40, 10_000),
        n_models=256,
        pair_steps=10_000,
        budget_steps=10_000,
        one_hot_steps=3000,
        mmcs=Grid(
            d=256,
            n_features=512,
            l0=5.0,
            exponents=tuple(range(-8, 9)),
            ratios=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
            n_steps=20_000,
            batch=4096,
        ),
    ),
}
FIGURES = ("phase", "plateaus", "pairs", "budget", "one-hot", "mmcs")
"""Those that need nothing but themselves."""
WITH_A_MODEL = ("worlds", "undertraining")


def stages(scale: str, seed: int = 0) -> dict[str, Stage]:
    """Return the figures of `FIGURES` at a scale of `SCALES`, by name, to be called."""
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    s = SCALES[scale]
    made = {
        "phase": partial(phase, s.n_grid, s.phase_steps, seed),
        "plateaus": partial(plateaus, *s.plateaus, seed),
        "pairs": partial(pairs, s.n_models, s.pair_steps, seed),
        "budget": partial(budget, s.budget_steps, seed=seed),
        "one-hot": partial(one_hot, s.one_hot_steps, seed=seed),
        "mmcs": partial(mmcs, s.mmcs, seed),
    }
    return {
        name: Stage(make=make, key=content_hash([VERSION, name, *map(to_json, make.args), seed]))
        for name, make in made.items()
    }


def toy_models(
    out: Path,
    *,
    figures: Sequence[str] = (),
    scale: str = "small",
    seed: int = 0,
    more: Mapping[str, Stage] | None = None,
    fresh: bool = False,
) -> list[Figure]:
    """Write the figures into `out`, each kept when done, and the report of all of them.

    `more` are figures that need a model, by name. A figure of the same scale and seed is used again.
    """
    known = stages(scale, seed) | dict(more or {})
    wanted = list(dict.fromkeys(figures)) or list(known)
    for name in wanted:
        if name not in known:
            raise unknown_name("figure", name, [*known, *WITH_A_MODEL])
    if not wanted:
        raise ConfigError("No figure was asked for. Leave `figures` out to have all.")

    def page() -> None:
        report.write(report.kept(known, out, WITH_A_MODEL), out, title=TITLE, lead=LEAD)

    return report.run_stages({n: known[n] for n in wanted}, out, fresh=fresh, done=page)
