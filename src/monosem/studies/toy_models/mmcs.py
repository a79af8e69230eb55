"""Taking features out of superposition: how many are found, by penalty and by size of the dictionary.

Sharkey et al. 2022: a grid of autoencoders on known sparse features, correlated and not; MMCS is the mean
over true features of the largest cosine with a latent's direction. The second map needs no truth: MMCS of
each dictionary with the next larger one at the same penalty, which is how they chose without it.
"""

from dataclasses import dataclass

from torch import Tensor

from monosem.core.progress import progress
from monosem.rendering import heatmap
from monosem.studies.report import Figure, Item
from monosem.toy.autoencoder import AutoencoderConfig, train_autoencoders
from monosem.toy.sparse_features import Magnitude, SparseFeatures, SparseFeaturesConfig, recovery

RANDOM_SEED = 999_983
"""Of the random directions that say what chance finds."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What the maps span, and of what world."""

    d: int
    n_features: int
    l0: float
    exponents: tuple[int, ...]
    """Penalties are 10^(e/4)."""
    ratios: tuple[float, ...]
    """Sizes of dictionaries, in true features."""
    n_steps: int
    batch: int
    lr: float = 1e-3
    correlation: float = 0.3


def mmcs(grid: Grid, seed: int = 0) -> Figure:
    """Return the maps of `grid`."""
    world = world_of(grid, seed)
    alphas = tuple(10 ** (e / 4) for e in grid.exponents)
    directions: list[Tensor] = []
    with progress("autoencoders", total=grid.n_steps * len(grid.ratios)) as bar:
        for ratio in grid.ratios:
            settings = AutoencoderConfig(
                n_latents=max(1, round(ratio * grid.n_features)),
                alphas=alphas,
                n_steps=grid.n_steps,
                batch=grid.batch,
                lr=grid.lr,
                seed=seed,
            )
            found = train_autoencoders(
                settings, world, lambda step: bar.advance(1) if step else None
            )
            directions.append(found.W_dec)
    truth = [[float(recovery(world.directions, W).mean()) for W in row] for row in directions]
    # Against the next larger at the same penalty; the largest has none.
    above = [
        [float(recovery(small, large).mean()) for small, large in zip(row, higher, strict=True)]
        for row, higher in zip(directions, directions[1:], strict=False)
    ] + [[float("nan")] * len(alphas)]
    return Figure(
        name="mmcs",
        title="Features taken out of superposition",
        text=(
            f"{grid.n_features} known features in {grid.d} dimensions, {grid.l0:g} on at once, some "
            "frequent and some rare, groups of them together. Left, how well the true features are found; "
            "right, how well a dictionary's latents are found again in the next larger one, which needs no "
            "truth. In the paper a band of penalties finds most, and too small a dictionary few."
        ),
        drawings=(
            _map(truth, grid, "MMCS with the truth"),
            _map(above, grid, "MMCS with the next larger"),
        ),
        captions=("MMCS, truth in dictionary", "MMCS, dictionary in the next larger"),
        items=tuple(_items(truth, grid, world, directions)),
        notes={
            "steps": f"{grid.n_steps:,}",
            "batch": f"{grid.batch:,}",
            "learning rate": f"{grid.lr:g}",
        },
    )


def world_of(grid: Grid, seed: int) -> SparseFeatures:
    """Return the known features of `grid`."""
    config = SparseFeaturesConfig(
        d=grid.d,
        n_features=grid.n_features,
        l0=grid.l0,
        power=0.0,
        # Theirs decays by 0.99 over 512 features: as far, whatever their number.
        decay=0.99 ** (512 / grid.n_features),
        n_groups=max(1, grid.n_features // 8),
        correlation=grid.correlation,
        magnitude=Magnitude(weakest=0.0),
        seed=seed,
    )
    return SparseFeatures(config)


def _items(
    truth: list[list[float]], grid: Grid, world: SparseFeatures, directions: list[Tensor]
) -> list[Item]:
    how = "studies/toy_models/mmcs.py; monosem toy mmcs"
    flat = [(value, r, c) for r, row in enumerate(truth) for c, value in enumerate(row)]
    best, r, c = max(flat)
    chance = SparseFeatures(
        SparseFeaturesConfig(d=grid.d, n_features=directions[r].shape[1], l0=0.4, seed=RANDOM_SEED)
    )
    return [
        Item(
            item="best MMCS with the truth",
            here=best,
            paper="near 1 in a band of penalties",
            paper_certainty="from memory",
            how=how,
        ),
        Item(item="its size, in true features", here=grid.ratios[r], unit="×", how=how),
        Item(item="its penalty", here=f"10^({grid.exponents[c]}/4)", how=how),
        Item(
            item="MMCS of as many random directions",
            here=float(recovery(world.directions, chance.directions).mean()),
            how=how,
        ),
    ]


def _map(values: list[list[float]], grid: Grid, title: str) -> str:
    said = [
        [
            f"{ratio:g} × the true features, penalty 10^({e}/4): {v:.3f}"
            for v, e in zip(row, grid.exponents, strict=True)
        ]
        for row, ratio in zip(values, grid.ratios, strict=True)
    ]
    return str(
        heatmap.svg(
            heatmap.shades(values, low=0.3, high=1.0),
            said,
            title=title,
            x_label="penalty, 10^(e/4), e =",
            y_label="latents / true features",
            x_ticks=[str(e) for e in grid.exponents],
            y_ticks=[f"{ratio:g}" for ratio in grid.ratios],
            legend=heatmap.scale(0.3, 1.0, "{:.2f}"),
        )
    )
