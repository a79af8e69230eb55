"""Whether solved codes overfit: what they leave of vectors they were fitted to, and of others.

Bricken et al. 2023 set classical dictionary learning aside: codes that are solved for each vector are more
powerful than what a layer could compute, and atoms fitted to few vectors may fit these alone. Here atoms
are learned from more and more vectors; both errors are drawn, beside PCA's and the trained dictionary's.
Few vectors are of as many contexts as many are: else what a few contexts share would count as fitting.
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
from monosem.studies.sparse_autoencoders.beside import WORDS
from monosem.studies.sparse_autoencoders.opponents import l0_of, no_lasso, sought
from monosem.studies.sparse_autoencoders.setting import BATCH, Setting

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
    other = sample(place, SEEN, setting.seed, BATCH, split="heldout")
    ours = setting.curve[setting.l0]
    reached = l0_of(ours, other)
    k = max(1, round(reached))
    whole = setting.fitted(ours.n_latents)
    why = no_lasso(n_solved(whole, len(other)), whole.n_atoms, setting.scale.most_lasso)
    names = ("classical", *(() if why else ("lasso",)), "pca")
    found = fits(names, whole, other, k)
    met = setting.met(SEEN)
    centre = whole.x.mean(0)
    own = Fit(
        "dictionary", setting.scale.n_tokens, _left(ours, met, centre), _left(ours, other, centre)
    )
    return Figure(
        name="overfitting",
        title="Whether codes that are solved for overfit",
        text=(
            f"{whole.n_atoms:,} atoms, learned from so many vectors of the training split, drawn from all of "
            f"a sample, and {k} of them for each vector, by matching pursuit or under a penalty. "
            "One line is of vectors they were learned from, one of held-out text. "
            f"{said([*found, own])} The dictionary has {ours.n_latents:,} latents, {reached:.1f} of them on "
            f"held out, and its vectors are the first {len(met):,} of its {own.n:,}."
        ),
        drawings=tuple(_drawn(found, name) for name in names),
        captions=tuple(WORDS[name] for name in names),
        items=(
            *(
                Item(item=f"{WORDS[f.name]}, {f.n:,} vectors: FVU {where}", here=value, how=HOW)
                for f in (*found, own)
                for where, value in (
                    (f"of the first {len(met):,} of them" if f is own else "of them", f.train),
                    ("held out", f.heldout),
                )
            ),
            *([Item(item=WORDS["lasso"], here=f"not applicable: {why}", how=HOW)] if why else []),
        ),
        notes={
            "site": site,
            "vectors measured": f"{SEEN:,} at most",
            "atoms": whole.learned_from["classical"],
        },
    )


def fits(
    names: Sequence[str], whole: Fitted, other: Float[Tensor, "others d_in"], k: int
) -> list[Fit]:
    """Return the errors of the baselines `names`, fitted to a growing part of the vectors of `whole`."""
    n_all, n_atoms, seed = len(whole.x), whole.n_atoms, whole.seed
    x = whole.x[torch.randperm(n_all, generator=torch.Generator().manual_seed(seed))]
    found: list[Fit] = []
    for n in growing(whole):
        part, last = x[:n], n == n_all
        fitted = whole if last else Fitted(part, n_latents=n_atoms, seed=seed, most_atoms=n_atoms)
        for name in names:
            d = fitted.at(name, k)
            found.append(Fit(name, n, _left(d, part, x.mean(0)), _left(d, other, x.mean(0))))
    return found


def growing(whole: Fitted) -> list[int]:
    """Return to how many of the vectors of `whole` baselines are fitted, the fewest first."""
    n_all, few = len(whole.x), max(whole.n_atoms, whole.x.shape[1])
    return [*(n for n in (4 * few, 16 * few, 64 * few) if n < n_all), n_all]


def n_solved(whole: Fitted, n_others: int) -> int:
    """Return for how many vectors the codes of LASSO are solved at most in `fits`."""
    return sum(sought(n) + min(n, SEEN) + min(n_others, SEEN) for n in growing(whole))


def said(found: Sequence[Fit]) -> str:
    """Return in words by how much each of them does worse on text it was not fitted to."""
    own = {
        name: [f for f in found if f.name == name] for name in dict.fromkeys(f.name for f in found)
    }
    gaps = [
        f"{WORDS[name]} {' and '.join(f'{_excess(f)} of {f.n:,}' for f in dict.fromkeys(ends))} vectors"
        for name, ends in ((name, (some[0], some[-1])) for name, some in own.items())
    ]
    yardstick = " PCA's is the yardstick: it has no codes to solve." if "pca" in own else ""
    return f"Held-out error beside that of the vectors fitted to: {'; '.join(gaps)}.{yardstick}"


def _excess(fit: Fit) -> str:
    return f"{fit.heldout / fit.train - 1:+.0%}" if fit.train else "unbounded"


@torch.no_grad()
def _left(
    dictionary: AnyDictionary, x: Float[Tensor, "some d_in"], centre: Float[Tensor, " d_in"]
) -> float:
    """Return the FVU of the first vectors of `x`, about the mean of the training split."""
    rows = x[:SEEN].to(dictionary.W_dec.device)
    return fvu(rows, dictionary(rows), centre.to(rows.device))


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
