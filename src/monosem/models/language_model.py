"""The one adapter over Hugging Face `transformers` causal language models.

model = LanguageModel.load("1L-a")
model.sites()                                        what can be read and replaced
model.capture(tokens, ["blocks.0.mlp.hook_post"])    activations, one pass, no logits
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monosem.models import effects, invariants, loading
from monosem.models.access import TransformerAccess
from monosem.models.families import Family
from monosem.models.site import Site
from monosem.runtime.device import resolve

_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


class LanguageModel(TransformerAccess):
    """A causal language model, with its tokenizer where it has one, behind names of sites."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "",
        family: Family | None = None,
    ) -> None:
        """Wrap `model`, which is put into evaluation mode and otherwise left as it is.

        `family` gives the module paths of a model outside the table; the self-test checks them.
        """
        super().__init__(model, tokenizer, name=name, family=family)
        if family is not None:
            self.self_test()

    @classmethod
    def load(
        cls, name: str | Path, *, device: str = "auto", dtype: torch.dtype | None = None
    ) -> "LanguageModel":
        """Return the model `name`: one of the package's own, a folder, or a name on the hub.

        Its weights are frozen, float32 unless `dtype` says otherwise, and pass the self-test.
        """
        weights = loading.read_model(name, device=resolve(device), dtype=dtype)
        model = cls(weights, loading.read_tokenizer(name), name=str(name))
        model.self_test()
        return model

    def __repr__(self) -> str:
        return (
            f"<LanguageModel {self.name}: {self.n_layers} x {self.d_model}, vocabulary "
            f"{self.vocab_size:,}, on {self.device}>"
        )

    @cached_property
    def hash(self) -> str:
        """Hash of the weights and of the configuration, wherever they were loaded from."""
        digest = hashlib.sha256()
        config = {k: v for k, v in self.model.config.to_dict().items() if k not in _VOLATILE}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.named_parameters()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def self_test(self) -> None:
        """Check the invariants of `models/invariants.py` on one small batch, or raise."""
        invariants.self_test(self)

    def direction_in_residual(
        self, site: str | Site, vectors: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n d_model"]:
        """Return what `vectors` at `site` add to the residual stream: through W_out, W_O, or as they are."""
        return effects.direction_in_residual(self, site, vectors)

    def logit_effects(
        self, site: str | Site, vectors: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n vocab"]:
        """Return what `vectors` at `site` add to the logits directly, up to a positive factor."""
        return effects.logit_effects(self, site, vectors)


def load_model(
    name: str | Path, *, device: str = "auto", dtype: torch.dtype | None = None
) -> LanguageModel:
    """Return the model `name`, as `LanguageModel.load` does: ours, a folder's, or the hub's."""
    return LanguageModel.load(name, device=device, dtype=dtype)
