"""The same features in a larger dictionary: MMCS of each size with the next, and beside chance."""

from monosem.metrics.matching import Matching, matching
from monosem.rendering.lines import Axis, svg
from monosem.studies.report import Figure, Item
from monosem.studies.sparse_autoencoders.setting import Setting


def sizes(setting: Setting) -> Figure:
    """Return how the latents of each size are found again in the next larger one."""
    found: dict[str, Matching] = {}
    ratios = list(setting.sizes)
    for small, large in zip(ratios, ratios[1:], strict=False):
        a, b = setting.sizes[small].W_dec.detach(), setting.sizes[large].W_dec.detach()
        found[f"{small:g} × in {large:g} ×"] = matching(a, b, seed=setting.seed)
    curves = {
        name: [
            ((i + 0.5) / len(m.cosines), float(c))
            for i, c in enumerate(m.cosines.sort(descending=True).values.tolist())
        ]
        for name, m in found.items()
    }
    return Figure(
        name="sizes",
        title="Found again in a larger dictionary",
        text=(
            "For each latent of a dictionary, the largest cosine with a latent of the next larger one, in "
            "order. A latent near 1 is found again as it is; what chance finds among as many directions "
            "with the same entries stands in the table."
        ),
        drawings=(
            str(
                svg(
                    curves,
                    title="largest cosines",
                    x=Axis(label="latents, in order", low=0.0, high=1.0),
                    y=Axis(label="largest cosine", low=0.0, high=1.0),
                    dots=True,
                )
            ),
        ),
        captions=("Largest cosine in the next larger dictionary",),
        items=tuple(item for name, m in found.items() for item in _items(name, m)),
        notes={"site": setting.residual, "l0 aimed at": f"{setting.l0:g}"},
    )


def _items(name: str, found: Matching) -> list[Item]:
    how = "monosem.metrics.matching.matching; monosem study sparse-autoencoders-find-features"
    return [
        Item(item=f"{name}: MMCS", here=str(found.mmcs), how=how),
        Item(item=f"{name}: mean cosine, one to one", here=str(found.hungarian), how=how),
        Item(item=f"{name}: share above 0.9", here=str(found.above), how=how),
    ]
