"""What a norm layer does, taken apart: y = (x − mean) / scale · gain + bias.

LayerNorm subtracts the mean and has a bias; RMSNorm has neither. `scale` is √(variance + ε), or
√(mean square + ε). Llama keeps the gain as w, Gemma as 1 + w: it is probed, not looked up.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.core.errors import UnsupportedModelError

_PROBE = 1024.0  # so large that ε does not show in float32


def is_centred(norm: nn.Module) -> bool:
    """Whether `norm` subtracts the mean: LayerNorm does, RMSNorm does not."""
    return isinstance(norm, nn.LayerNorm)


def scale_of(norm: nn.Module, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
    """Return what `norm` divides `x` by."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    moment = centred(norm, wide).pow(2).mean(-1, keepdim=True)
    return (moment + _epsilon(norm)).sqrt().to(x.dtype)


def rebuild(
    norm: nn.Module, x: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch d"]:
    """Return the output of `norm` on `x` if it divided by `scale`."""
    y = centred(norm, x) / scale * gain(norm)
    bias = getattr(norm, "bias", None)
    return y if bias is None else y + bias


def centred(norm: nn.Module, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return `x` with its mean taken away, if `norm` does that."""
    return x - x.mean(-1, keepdim=True) if is_centred(norm) else x


def gain(norm: nn.Module) -> Float[Tensor, " d"]:
    """Return what `norm` multiplies by after dividing by the scale."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor):
        raise UnsupportedModelError(
            f"The norm `{type(norm).__name__}` has no `weight`; LayerNorm and RMSNorm with a gain "
            "are supported."
        )
    if is_centred(norm):
        return weight
    epsilon_shows = (1 + _epsilon(norm) / _PROBE**2) ** 0.5  # in float64
    with torch.no_grad():  # .forward, because calling the module would run the hooks on it
        return norm.forward(torch.full_like(weight, _PROBE)) * epsilon_shows


def _epsilon(norm: nn.Module) -> float:
    for name in ("eps", "variance_epsilon"):
        value = getattr(norm, name, None)
        if isinstance(value, float):
            return value
    raise UnsupportedModelError(
        f"The norm `{type(norm).__name__}` has neither `eps` nor `variance_epsilon`, so its scale "
        "cannot be computed; LayerNorm and RMSNorm are supported."
    )
