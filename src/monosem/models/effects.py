"""Direct effects on the logits: what a direction adds to them on the straight path to the output.

A direction of the neurons goes through W_out, one of the heads' outputs through W_O; a post-norm
(Gemma) multiplies by its gain. In the residual stream the final norm is linearised at a frozen
scale, as in Bricken et al. (2023), "Feature proxies": centred if it is a LayerNorm, times its gain,
not divided by the scale, which differs from token to token and is the same for all tokens of the
vocabulary. Hence the effects are known up to one positive factor; a softcap on the logits, which
is monotone, is left out.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.models import norms
from monosem.models.access import TransformerAccess, matrix
from monosem.models.places import submodule
from monosem.models.site import RESIDUAL_POINTS, Site


def direction_in_residual(
    model: TransformerAccess, site: str | Site, vectors: Float[Tensor, "n d"]
) -> Float[Tensor, "n d_model"]:
    """Return what `vectors` at `site` add to the residual stream, biases apart."""
    found = model.check_site(site)
    if found.point not in ("mlp.hook_post", "attn.hook_z", *RESIDUAL_POINTS):
        raise ConfigError(
            f"A direction at `{found}` does not act on the residual stream linearly. Directions do at "
            "`mlp.hook_post`, `attn.hook_z` and the residual sites (`hook_resid_post`, `hook_mlp_out`, …)."
        )
    if vectors.shape[1] != model.width(found):
        raise ShapeMismatchError(
            f"The vectors have width {vectors.shape[1]}; `{found}` of `{model.name}` has "
            f"{model.width(found)}. Pass the decoder of a dictionary trained at this site."
        )
    if found.point in RESIDUAL_POINTS:
        return vectors
    row, block = model.family, model.blocks[found.layer or 0]
    neurons = found.point == "mlp.hook_post"
    written = vectors @ matrix(submodule(block, row.down if neurons else row.o_proj)).to(vectors)
    after = submodule(block, (row.mlp_out or row.mlp) if neurons else (row.attn_out or row.attn))
    return written * norms.gain(after).to(vectors) if _is_norm(after) else written


def logit_effects(
    model: TransformerAccess, site: str | Site, vectors: Float[Tensor, "n d"]
) -> Float[Tensor, "n vocab"]:
    """Return what `vectors` at `site` add to the logits on the direct path, up to a positive factor."""
    residual = direction_in_residual(model, site, vectors)
    final = submodule(submodule(model.model, model.family.base), model.family.ln_final)
    folded = residual
    if not isinstance(final, nn.Identity):  # a model without norms
        folded = norms.centred(final, residual) * norms.gain(final).to(residual)
    unembed = cast(nn.Linear, model.model.get_output_embeddings())
    return folded @ unembed.weight.to(residual).T


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1
