"""Targets of an attribution: one number of one prompt, as a direction at a site.

    target = x[position] · vector + offset      x the activation at `site`, heads side by side

A logit is a direction at the final norm's output; a neuron's pre-activation is a column of the
site's own basis; a feature is the gradient of its encoder where it stands.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.activations.processing import for_model
from monosem.core.errors import ConfigError, ShapeMismatchError
from monosem.dictionaries.base import Dictionary
from monosem.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One number that an attribution explains."""

    name: str
    """What tables call it."""
    site: str
    """Where it is read."""
    position: int
    """At which token; −1 is the last."""
    vector: Float[Tensor, " d"]
    """What the activation is multiplied with."""
    offset: float = 0.0
    """What is added: the target's own bias."""


def logit(model: LanguageModel, token: int, *, position: int = -1) -> Target:
    """Return the logit of `token` as a target; a softcap, where a family has one, is left out."""
    return _logits(model, f"logit of {_said(model, token)}", {token: 1.0}, position)


def logit_difference(
    model: LanguageModel, token: int, other: int | None = None, *, position: int = -1
) -> Target:
    """Return the logit of `token` minus that of `other`, or minus the mean of all logits."""
    if token == other:
        raise ConfigError(
            f"The two tokens are the same ({token}), and the difference is 0. Name another one."
        )
    if other is not None:
        name = f"logit of {_said(model, token)} − logit of {_said(model, other)}"
        return _logits(model, name, {token: 1.0, other: -1.0}, position)
    name = f"logit of {_said(model, token)} − mean logit"
    return _logits(model, name, {token: 1.0}, position, centred=True)


def neuron(model: LanguageModel, layer: int, index: int, *, position: int = -1) -> Target:
    """Return the pre-activation of a neuron as a target; in a gated MLP that of its gate."""
    return unit(model, f"blocks.{layer}.mlp.hook_pre", index, position=position)


def unit(model: LanguageModel, site: str, index: int, *, position: int = -1) -> Target:
    """Return one column of the activation at `site` as a target.

    At `mlp.hook_post` a neuron's output: act(g)·u with act(g) frozen in a gated MLP, so that what feeds
    u is found; in any other s·(act(s)/s) with the ratio frozen, shares as of the pre-activation.
    """
    found = model.check_site(site)
    width = model.width(found)
    if not 0 <= index < width:
        raise ConfigError(
            f"There is no unit {index} at `{found}`: it has {width} (0 to {width - 1})."
        )
    vector = torch.zeros(width, dtype=model.model.dtype, device=model.device)
    vector[index] = 1.0
    return Target(name=f"{found} {index}", site=str(found), position=position, vector=vector)


def direction(
    model: LanguageModel,
    site: str,
    vector: Float[Tensor, " d"],
    *,
    position: int = -1,
    name: str = "",
) -> Target:
    """Return the activation at `site` along `vector` as a target; heads are flattened."""
    found = model.check_site(site)
    if vector.shape[0] != model.width(found):
        raise ShapeMismatchError(
            f"The direction has width {vector.shape[0]}; `{found}` of `{model.name}` has "
            f"{model.width(found)}. Pass a vector of that site, heads flattened."
        )
    shown = name or f"direction at {found}"
    return Target(name=shown, site=str(found), position=position, vector=vector)


def feature(
    model: LanguageModel,
    dictionary: Dictionary[Any],
    index: int,
    tokens: Int[Tensor, " pos"],
    *,
    position: int = -1,
) -> Target:
    """Return a feature that is active at `position` of the prompt as a target.

    It is linearised where it stands: the gradient of `encode` by the activation it reads, and what is
    left as the offset, which for encoders of the form act(x W_enc + b_enc) is the bias.
    """
    if len(dictionary.sites_in) != 1:
        raise ConfigError(
            f"The dictionary reads {len(dictionary.sites_in)} sites ({dictionary.site or 'none recorded'}); "
            "a feature can be a target where it reads one. Save it with its `site`."
        )
    if not 0 <= index < dictionary.n_latents:
        raise ConfigError(
            f"There is no latent {index}: the dictionary has {dictionary.n_latents} (0 to "
            f"{dictionary.n_latents - 1})."
        )
    (site,) = dictionary.sites_in
    if not -len(tokens) <= position < len(tokens):
        raise ConfigError(f"Position {position} is outside the prompt (0 to {len(tokens) - 1}).")
    fitted = for_model(dictionary, model, (site,))
    x = model.capture(tokens[None], [site])[site][0, position].flatten().to(fitted.b_enc.dtype)
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        latent = fitted.encode(leaf[None])[0, index]
        value = float(latent.detach())
        if value <= 0:
            raise ConfigError(
                f"Feature {index} is not active at position {position}, so nothing makes it what it is. "
                "Choose a position where it fires."
            )
        (vector,) = cast(tuple[Tensor], torch.autograd.grad(latent, leaf))
    vector = vector.to(model.model.dtype)
    offset = value - float(vector.double() @ x.double())
    return Target(
        name=f"feature {index} of {site}",
        site=str(model.check_site(site)),
        position=position,
        vector=vector,
        offset=offset,
    )


def _logits(
    model: LanguageModel,
    name: str,
    weights: dict[int, float],
    position: int,
    *,
    centred: bool = False,
) -> Target:
    for token in weights:
        if not 0 <= token < model.vocab_size:
            raise ConfigError(
                f"There is no token {token}: the vocabulary of `{model.name}` has {model.vocab_size} (0 to "
                f"{model.vocab_size - 1})."
            )
    unembed = cast(nn.Linear, model.model.get_output_embeddings())
    rows, factors = torch.tensor(list(weights)), torch.tensor(list(weights.values()))
    W_U, bias = unembed.weight.detach(), unembed.bias
    factors = factors.to(W_U)
    vector = factors @ W_U[rows]
    vector = vector - W_U.mean(0) if centred else vector
    offset = 0.0
    if isinstance(bias, Tensor):
        offset = float(factors @ bias[rows]) - (float(bias.mean()) if centred else 0.0)
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    site = "ln_final.hook_normalized" if "ln_final.hook_normalized" in model.sites() else last
    return Target(name=name, site=site, position=position, vector=vector, offset=offset)


def _said(model: LanguageModel, token: int) -> str:
    if model.tokenizer is None or not 0 <= token < model.vocab_size:
        return f"token {token}"
    return repr(model.tokenizer.decode([token]))
