"""ModelPair: two language models that read the same tokens, for a crosscoder over both.

    blocks.0.hook_resid_post            a site of the first
    second:blocks.0.hook_resid_post     the same site of the second

A crosscoder over both sites is what model diffing looks at: latents whose decoder row is long at one of
them alone are that model's own (Lindsey et al. 2024). The pair captures; it neither predicts nor is spliced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from typing_extensions import override

from monosem.core.errors import ConfigError, TokenizerMismatchError
from monosem.models.language_model import LanguageModel
from monosem.models.site import Site
from monosem.text.tokenizer import tokenizer_hash

SECOND = "second:"
"""What the names of the second model's sites begin with."""


@dataclass(frozen=True)
class SecondSite(Site):
    """A site of the second model."""

    @property
    @override
    def name(self) -> str:
        return f"{SECOND}{Site(self.layer, self.point).name}"

    def __str__(self) -> str:
        return self.name


class ModelPair(LanguageModel):
    """The first model, with the sites of a second one beside its own."""

    concurrent = False

    def __init__(self, first: LanguageModel, second: LanguageModel) -> None:
        """Pair two models; `TokenizerMismatchError` unless a token means the same to both."""
        _check_tokenizers(first, second)
        self.first, self.second = first, second
        super().__init__(first.model, first.tokenizer, name=f"{first.name} + {second.name}")
        self.context = min(first.context, second.context)
        self.vocab_size = min(first.vocab_size, second.vocab_size)

    @property
    @override
    def hash(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Hashes of both."""
        return f"{self.first.hash}+{self.second.hash}"

    @override
    def sites(self) -> list[str]:
        """Return the names of all sites of the first, and of the second."""
        return [*self.first.sites(), *(f"{SECOND}{site}" for site in self.second.sites())]

    @override
    def check_site(self, site: str | Site) -> Site:
        """Return the site that `site` names, of the model that it names."""
        own = _of_second(site)
        if own is None:
            return self.first.check_site(site)
        found = self.second.check_site(own)
        return SecondSite(found.layer, found.point)

    @override
    def width(self, site: str | Site) -> int:
        """Return the width of the vector a token has at `site` of its model."""
        own = _of_second(site)
        return self.first.width(site) if own is None else self.second.width(own)

    @override
    def capture(
        self, tokens: Int[Tensor, "batch pos"], sites: Sequence[str], *, gradients: bool = False
    ) -> dict[str, Tensor]:
        """Return the activations at `sites`, from one pass of each model that has some of them."""
        seconds = {site: own for site in sites if (own := _of_second(site)) is not None}
        firsts = [site for site in sites if site not in seconds]
        found = self.first.capture(tokens, firsts, gradients=gradients) if firsts else {}
        if seconds:
            seen = self.second.capture(tokens, list(seconds.values()), gradients=gradients)
            found |= {site: seen[own].to(self.device) for site, own in seconds.items()}
        return {site: found[site] for site in sites}

    @override
    def losses(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
        """Raise `ConfigError`: two models have two losses."""
        raise ConfigError(
            f"`{self.name}` are two models, which have no loss together. Use one of them."
        )


def of_two_models(sites: str) -> bool:
    """Whether `sites` names one of a second model."""
    return any(part.strip().startswith(SECOND) for part in sites.split(","))


def _of_second(site: str | Site) -> str | None:
    name = str(site)
    return name.removeprefix(SECOND) if name.startswith(SECOND) else None


def _check_tokenizers(first: LanguageModel, second: LanguageModel) -> None:
    if first.tokenizer is None or second.tokenizer is None:
        same = first.vocab_size == second.vocab_size
    else:
        hashes = [
            tokenizer_hash(t) if isinstance(t, PreTrainedTokenizerFast) else str(t.get_vocab())
            for t in (first.tokenizer, second.tokenizer)
        ]
        same = hashes[0] == hashes[1]
    if not same:
        raise TokenizerMismatchError(
            f"`{first.name}` and `{second.name}` have different tokenizers ({first.vocab_size:,} and "
            f"{second.vocab_size:,} tokens), so no token is the same to both. Choose two that share one."
        )
    if first.device != second.device:
        raise ConfigError(
            f"`{first.name}` is on {first.device}, `{second.name}` on {second.device}. "
            "Load both on one device."
        )
