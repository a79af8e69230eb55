"""Subject of a survey: one dictionary, the text it is looked at on, and what all subjects share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from monosem.core.errors import ConfigError, unknown_name
from monosem.dictionaries.wired import Wired
from monosem.metrics.context_space import ContextSpace
from monosem.metrics.perturbation import Coded
from monosem.metrics.probes import FEWEST, Split
from monosem.metrics.proxies import Proxy, unigram
from monosem.metrics.rules import check_rules, proxies_of
from monosem.metrics.sample import Sample, Text, encode, read_text
from monosem.metrics.sparse_probing import Known, supervised_probe
from monosem.metrics.stream import AnyDictionary, Place, enough, visit

NAMES: dict[str, str] = {
    "geometry": "angles of the encoder's and decoder's directions, and how many dimensions they fill",
    "density": "latents that live, and whether their densities have two modes",
    "mmcs": "directions found again in another dictionary (`--against`)",
    "universality": "latents that fire like those of another dictionary (`--against`)",
    "proxies": "latents that follow a rule, with specificity and sensitivity",
    "polysemanticity": "kinds of context a unit fires in, and latents that make up a coordinate",
    "explanations": "how far a list of twenty tokens foretells a latent on other text",
    "probing": "labels read off few latents",
    "absorption": "first letters that more special latents have taken in",
    "perturbation": "TPP on first letters; unfit to compare dictionaries, an audit finds",
    "disentanglement": "kinds of this token and the one before, exchanged one by one",
    "divergence": "how far the model's predictions move, in nats, beside both ablations",
    "positions": "loss, error and l0 within the context of training, and past it",
}
"""What can be measured, and what it is."""
COMPARED = ("mmcs", "universality")
"""Measures that need another dictionary."""
COUNTED_AT_ONCE = 512
"""Contexts whose tokens are counted at once."""
MOST_COUNTED = 16_384
"""Contexts of the training split that are counted for shares of tokens and the space of contexts."""


@dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """What is measured, and on how much text."""

    measures: tuple[str, ...] = ()
    """Which: geometry, density, mmcs, universality, proxies, polysemanticity, explanations, probing,
    absorption, perturbation, disentanglement, divergence, positions."""
    rules: tuple[str, ...] = ()
    """Rules of proxies: `digits`, `regex:PATTERN`, `script:hebrew`, `characters:dna`, `tokens:1,2`,
    `followed-by:1`, each with a name in front if you like (`NAME=…`). None: those for any text."""
    n_tokens: int = 32_768
    """Held-out tokens that are looked at."""
    n_units: int = 60
    """Units whose contexts are clustered."""
    ks: tuple[int, ...] = (1, 4, 16)
    """Numbers of latents of sparse probes."""
    batch_tokens: int = 4096
    """Tokens encoded at once."""
    seed: int = 0
    """Seed of contexts, splits, draws and nulls."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in self.measures:
            if name not in NAMES:
                raise unknown_name("measure", name, NAMES)
        for name in ("n_tokens", "n_units", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"`ks` must be numbers from 1 on, got {self.ks}.")
        check_rules(self.rules)


@dataclass(frozen=True, eq=False)
class Other:
    """Another dictionary to compare with, where it belongs: of the same text."""

    dictionary: AnyDictionary
    place: Place


@dataclass(eq=False)
class Ground:
    """What all subjects share: the text, and what is known of it without any dictionary."""

    place: Place
    config: SurveyConfig
    other: Other | None = None
    probes: dict[str, Known] = field(default_factory=dict[str, Known])
    """Supervised probes of the activations by label, which are the same for all subjects."""

    @cached_property
    def text(self) -> Text:
        """Contexts of the held-out split."""
        store, config = self.place.store, self.config
        return read_text(
            store, enough(visit(store, "heldout", config.seed), store, config.n_tokens)
        )

    @cached_property
    def log_p(self) -> Float[np.ndarray, " vocab"]:
        """Logarithms of the tokens' shares in the training split."""
        counts = np.zeros(self.place.store.vocab_size, np.int64)
        for tokens in self._training():
            counts += np.bincount(tokens.ravel(), minlength=len(counts))
        return unigram(counts)

    @cached_property
    def space(self) -> ContextSpace:
        """The space in which contexts are clustered."""
        vocab = self.place.store.vocab_size
        return ContextSpace.fit(self._training(), self.text, vocab, seed=self.config.seed)

    @cached_property
    def proxies(self) -> dict[str, Proxy]:
        """The rules that units are compared with."""
        return proxies_of(self.config.rules, self.log_p, self.text)

    def _training(self) -> Iterator[np.ndarray]:
        store = self.place.store
        contexts = visit(store, "train", self.config.seed)[:MOST_COUNTED]
        for start in range(0, len(contexts), COUNTED_AT_ONCE):
            yield store.tokens(contexts[start : start + COUNTED_AT_ONCE])


@dataclass(eq=False)
class Subject:
    """One dictionary of a survey."""

    dictionary: AnyDictionary
    ground: Ground

    @property
    def config(self) -> SurveyConfig:
        """What is measured, and on how much."""
        return self.ground.config

    @property
    def seed(self) -> int:
        """Seed of all that is drawn."""
        return self.config.seed

    @cached_property
    def sample(self) -> Sample:
        """What the dictionary makes of the text."""
        batch = self.config.batch_tokens
        return encode(self.dictionary, self.ground.place, self.ground.text, batch=batch)

    @cached_property
    def coded(self) -> Coded:
        """The same, with the decoder."""
        rows = self.dictionary.W_dec.detach().float().cpu().numpy()
        return Coded(self.sample.x.numpy(), self.sample.latents, rows)

    def probe(self, name: str, split: Split) -> Known | None:
        """Return the supervised probe of a label, made once; None where there are too few examples."""
        known = self.ground.probes
        if split.fewest < FEWEST:
            return None
        if name not in known:
            known[name] = supervised_probe(self.sample.x.numpy(), split, seed=self.seed)
        return known[name]

    @property
    def why_not_edited(self) -> str:
        """Why a latent's value times its row is not what it adds to what is read; or nothing."""
        if self.ground.place.target or not self.dictionary.writes_what_it_reads:
            return "its decoder writes another site than it reads"
        if type(self.dictionary).effect is not Wired.effect:
            return "its rows are scaled by each activation"
        return ""
