"""The randomised model: each weight matrix with its entries shuffled.

Widths, norms and the distribution of every matrix's entries stay; what was learnt goes. Dictionaries
of it show how much of a measure is there without any: the control of Bricken et al. 2023, who shuffle the
entries of every weight matrix of a trained model. The untrained model has not even those: its weights are
those that training would begin with.
"""

import copy
from typing import Any, cast

import torch

from monosem.models.language_model import LanguageModel


def randomised(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Return a copy of `model` whose matrices have their own entries in another order.

    Matrices are all parameters of two axes or more, embeddings included; tied ones stay tied. Biases and
    gains of norms stay as they are.
    """
    weights = copy.deepcopy(model.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in weights.parameters():  # each tensor once, where several names share it
            if parameter.ndim < 2:
                continue
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return LanguageModel(weights, model.tokenizer, name=f"{model.name}, shuffled by {seed}")


def untrained(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Return a model of the same class and shape with the weights that training would begin with."""
    kind = cast(Any, type(model.model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = kind(copy.deepcopy(model.model.config))
    weights = weights.to(model.model.dtype).to(model.device).requires_grad_(False)
    return LanguageModel(weights, model.tokenizer, name=f"{model.name}, untrained")
