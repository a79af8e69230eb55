"""Whether solved codes overfit: what they leave of vectors they were fitted to, and of others.

Bricken et al. 2023 set classical dictionary learning aside: codes that are solved for each vector are more
powerful than what a layer could compute, and atoms fitted to few vectors may fit these alone. Here atoms
are learned from more and more vectors; both errors are drawn, beside PCA's and the trained dictionary's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.metrics.baselines import Fitted, sample
from monosem.metrics.reconstruction import fvu
from monosem.metrics.stream import AnyDictionary, Place
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.beside import BATCH, WORDS, l0_of
from monosem.studies.sparse_autoencoders.setting import Setting

HOW = "studies/sparse_autoencoders/overfitting.py; monosem study sparse-autoencoders-find-features"
SEEN = 4096
"""Vectors that an error is measured on, of those fitted to and of the held-out text."""


@dataclass(frozen=True)
class Fit:
    """One method, fitted to so many vectors."""

    name: str
    n: int
    train: float
    """FVU of the vectors it was fitted to."""
    heldout: float


def overfitting(setting: Setting) -> Figure:
    """Return FVU of training and of held-out vectors, by how many the atoms were learned from."""
    site = setting.residual
    place = Place(setting.model, setting.store, site)
    x = sample(place, setting.scale.n_fit, setting.seed, BATCH)
    # few vectors are of as many contexts as many are: else what a few contexts share would count as fitting
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(setting.seed))]
    other = sample(place, SEEN, setting.seed, BATCH, split="heldout")
    ours = setting.curve[setting.l0]
    reached = l0_of(ours, other)
    k = max(1, round(reached))
    lasso = ("lasso",) if x.shape[1] <= setting.scale.widest_lasso else ()
    names = ("classical", *lasso, "pca")
    found = fits(names, x, other, k, seed=setting.seed)
    own = Fit("dictionary", setting.scale.n_tokens, _left(ours, x, x), _left(ours, other, x))
    return Figure(
        name="overfitting",
        title="Whether codes that are solved for overfit",
        text=(
            f"As many atoms as the site is wide, learned from so many vectors of the training split, drawn "
            f"from all of a sample, and {k} of them for each vector, by matching pursuit or under a penalty. "
            "One line is of vectors they were learned from, one of held-out text. "
            f"{said(found)} The dictionary ({own.n:,} vectors, {ours.n_latents:,} latents, {reached:.1f} on "
            f"held out) has an FVU of {own.train:.3f} on the sample of the training split, of which it need "
            f"not have met every vector, and of {own.heldout:.3f} held out."
        ),
        drawings=tuple(_drawn(found, name) for name in names),
        captions=tuple(WORDS[name] for name in names),
        items=tuple(
            Item(item=f"{WORDS[f.name]}, {f.n:,} vectors: FVU {where}", here=value, how=HOW)
            for f in (*found, own)
            for where, value in (
                ("of the training split" if f is own else "of them", f.train),
                ("held out", f.heldout),
            )
        ),
        notes={"site": site, "vectors measured": f"{SEEN:,}"},
    )


def fits(
    names: Sequence[str],
    x: Float[Tensor, "sample d_in"],
    other: Float[Tensor, "others d_in"],
    k: int,
    *,
    seed: int = 0,
) -> list[Fit]:
    """Return the errors of the baselines `names`, fitted to a growing part of `x`."""
    width = x.shape[1]
    sizes = [n for n in (4 * width, 16 * width, 64 * width) if n < len(x)] + [len(x)]
    found: list[Fit] = []
    for n in sizes:
        part = x[:n]
        fitted = Fitted(part, n_latents=width, seed=seed)
        for name in names:
            d = fitted.at(name, k)
            found.append(Fit(name, n, _left(d, part, x), _left(d, other, x)))
    return found


def said(found: list[Fit]) -> str:
    """Return in words by how much each of them does worse on text it was not fitted to."""
    own = {
        name: [f for f in found if f.name == name] for name in dict.fromkeys(f.name for f in found)
    }
    gaps = [
        f"{WORDS[name]} {some[0].heldout / some[0].train - 1:+.0%} of {some[0].n:,} vectors and "
        f"{some[-1].heldout / some[-1].train - 1:+.0%} of {some[-1].n:,}"
        for name, some in own.items()
    ]
    yardstick = " PCA's is the yardstick: it has no codes to solve." if "pca" in own else ""
    return f"Held-out error beside that of the vectors fitted to: {'; '.join(gaps)}.{yardstick}"


@torch.no_grad()
def _left(
    dictionary: AnyDictionary, x: Float[Tensor, "some d_in"], centre: Float[Tensor, "sample d_in"]
) -> float:
    """Return the FVU of the first vectors of `x`, about the mean of the training split."""
    rows = x[:SEEN].to(dictionary.W_dec.device)
    return fvu(rows, dictionary(rows), centre.mean(0).to(rows.device))


def _drawn(found: list[Fit], name: str) -> str:
    own = [f for f in found if f.name == name]
    return str(
        svg(
            {
                "fitted to": [(f.n, f.train) for f in own],
                "held out": [(f.n, f.heldout) for f in own],
            },
            title=f"{WORDS[name]}, FVU of vectors fitted to and of held-out ones",
            x=Axis(label="vectors fitted to", log=True),
            y=Axis(label="FVU", low=0.0, high=max(max(f.train, f.heldout) for f in found)),
        )
    )
