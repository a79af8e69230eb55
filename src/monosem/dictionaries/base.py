"""Dictionary: an encoder and a decoder with sparse latents between; the contract of every architecture.

    latents = encode(x)                       [batch n_latents], non-negative, mostly zero
    x_hat   = latents @ W_dec + b_dec         one latent = one row of `W_dec`

A dictionary knows nothing of language models. Whoever trains one calls, in this order:

    initialise_(x, target)                    once, on a sample of the data
    schedule_(state)                          before each loss
    loss_terms(x, target, state)              named, weighted terms; the trainer sums them
    before_step_()                            after `backward`, acts on `.grad` in place
    after_step_()                             after the optimiser's step
    revive_(state, optimizer, source)         after each step; cheap when nothing is due

The trainer divides activations by one measured scale, so that E‖x‖² = d_in; `folded(scale)` turns the
result into the form every consumer sees: raw activations in, unit-norm rows of `W_dec`.
"""

import abc
import copy
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from markupsafe import Markup
from torch import Tensor, nn

from monosem.core import artifact, hub
from monosem.core.errors import ArtifactKindError, ConfigError, ShapeMismatchError, unknown_name
from monosem.dictionaries import saving
from monosem.dictionaries.config import DictionaryConfig as DictionaryConfig
from monosem.dictionaries.config import register
from monosem.dictionaries.latents import AnyLatents as AnyLatents
from monosem.dictionaries.latents import RaggedLatents as RaggedLatents
from monosem.dictionaries.latents import SparseLatents as SparseLatents
from monosem.dictionaries.model_card import write_card
from monosem.dictionaries.state import SampleSource as SampleSource
from monosem.dictionaries.state import TrainState as TrainState
from monosem.dictionaries.wired import C as C
from monosem.dictionaries.wired import Conventions as Conventions
from monosem.dictionaries.wired import Wired
from monosem.kernels import layers
from monosem.kernels.pattern import Pattern, even
from monosem.rendering.card import card

S = TypeVar("S", bound="Dictionary[Any]")  # beartype does not take `Self` in decorated methods


class Dictionary(Wired[C], abc.ABC, Generic[C]):
    """Encoder and decoder; `class TopK(Dictionary[TopKConfig], name="topk", config=TopKConfig)`."""

    architecture: ClassVar[str]
    config_type: ClassVar[type[DictionaryConfig]]
    trainable: ClassVar[bool] = True
    """Whether there is anything to train; a baseline has nothing."""
    loss_scale: ClassVar[str]

    W_enc: Float[Tensor, "d_read n_latents"]
    b_enc: Float[Tensor, " n_latents"]
    W_dec: Float[Tensor, "n_latents d_out"]
    b_dec: Float[Tensor, " d_out"]

    def __init_subclass__(
        cls, *, name: str = "", config: type[DictionaryConfig] = DictionaryConfig
    ) -> None:
        super().__init_subclass__()
        if not name:  # what several architectures share is none itself
            return
        register(name, config)
        cls.architecture, cls.config_type = name, config
        _ARCHITECTURES[name] = cls

    def __init__(self, config: C) -> None:
        super().__init__()
        if config.d_in < 1:
            raise ConfigError(
                f"`d_in` must be at least 1 to build a dictionary, got {config.d_in}. "
                "Set it, or let the trainer fill it in from the site."
            )
        self.config: C = config.with_widths(config.d_in, config.d_out or config.d_in)
        # a centre of another space than the input's cannot be subtracted from it
        same = self.writes_what_it_reads
        self.conventions = Conventions(loss_scale=self.loss_scale, subtract_b_dec=same)
        if self.config.wiring.skip:
            self.W_skip = nn.Parameter(torch.zeros(self.config.d_in, self.config.d_out))
        self.origin = saving.Origin()
        self.firing: Int64[Tensor, " n_latents"] = torch.zeros(
            self.config.n_latents, dtype=torch.int64
        )
        """Rows of the last batch given to `loss_terms` on which each latent fired."""

    @property
    def centre(self) -> Float[Tensor, " d_in"]:
        """What is subtracted from the input before the encoder: `b_dec`, or zeros."""
        return self.b_dec if self.conventions.subtract_b_dec else self.b_dec.new_zeros(self.d_in)

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents of `x`, zeros included."""

    @abc.abstractmethod
    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents | RaggedLatents:
        """The active latents of `x` alone."""

    @abc.abstractmethod
    def loss_terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """Named, weighted terms whose sum is the loss; fills `firing` on the way."""

    def decode(self, latents: AnyLatents) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from dense or sparse latents."""
        if isinstance(latents, SparseLatents):
            pattern = even(latents.indices, self.n_latents)
            return layers.decode(latents.values, self.decoders, pattern) + self.b_dec
        if isinstance(latents, RaggedLatents):
            pattern = Pattern(latents.indices, latents.offsets.int(), self.n_latents)
            return layers.decode(latents.values, self.decoders, pattern) + self.b_dec
        return layers.plain_decode(latents, self.decoders) + self.b_dec

    def firings(self, x: Float[Tensor, "batch d_in"]) -> Int64[Tensor, " n_latents"]:
        """On how many rows of `x` each latent fires; a kind that can count faster does so."""
        return torch.bincount(self.encode_sparse(x).active(), minlength=self.n_latents)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction of `x`, or of its target."""
        return self.reconstruct(x, self.encode(x))

    def reconstruct(
        self, x: Float[Tensor, "*batch d_in"], latents: AnyLatents
    ) -> Float[Tensor, "*batch d_out"]:
        """What it makes of `x`, whose latents are at hand: `decode`, and the skip where there is one."""
        decoded = self.decode(latents)
        return decoded + x @ self.W_skip if self.wiring.skip else decoded

    def terms(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"],
        state: TrainState,
    ) -> dict[str, Float[Tensor, ""]]:
        """`loss_terms` on what the skip leaves of the target; on the target, where there is none."""
        return self.loss_terms(x, self.left_to_latents(x, target), state)

    def initialise_(
        self, x: Float[Tensor, "sample d_in"], target: Float[Tensor, "sample d_out"]
    ) -> None:
        """Adapt the initial weights to a sample of the data."""

    def schedule_(self, state: TrainState) -> None:
        """Adapt what changes over a run before the loss of one step."""

    def before_step_(self) -> None:
        """Change gradients in place, between `backward` and the optimiser's step."""

    def after_step_(self) -> None:
        """Restore what the optimiser's step may have broken."""

    def revive_(
        self, state: TrainState, optimizer: torch.optim.Optimizer, source: SampleSource
    ) -> None:
        """Give dead latents a new start, if one is due."""

    def folded(
        self: S,
        input_scale: float | tuple[float, ...],
        output_scale: float | tuple[float, ...] | None = None,
    ) -> S:
        """A copy for raw activations: on `scale * x` it gives `scale` times what this gives on `x`.

        Several sites have a scale each, and so may input and output have; then latents are multiplied by
        the root mean square of the output's scales, which changes none of their order. Decoder rows of
        one site are unit vectors; those of several are, once each site is divided by its scale.
        """
        ins = _each(input_scale)
        outs = ins if output_scale is None else _each(output_scale)
        for scale in (*ins, *outs):
            if not 0 < scale < float("inf"):
                raise ConfigError(f"`input_scale` must be positive, got {scale}. Measure it again.")
        whole = outs[0] if len(set(outs)) == 1 else (sum(s * s for s in outs) / len(outs)) ** 0.5
        new = copy.deepcopy(self)
        with torch.no_grad():
            new.fold_(whole)
            if set(ins) | set(outs) != {whole}:
                new.stretch_(tuple(s / whole for s in ins), tuple(s / whole for s in outs))
        new.conventions = dataclasses.replace(
            self.conventions,
            input_scale=self.conventions.input_scale * whole,
            folded=True,
            input_scales=ins if len(ins) > 1 or outs != ins else (),
            output_scales=outs if len(outs) > 1 or outs != ins else (),
        )
        return new

    def fold_(self, input_scale: float) -> None:
        """Scale the biases, and move the norm of each decoder row into its latent."""
        norms = self.row_norms()
        norms = torch.where(norms > 0, norms, 1.0)
        self.divide_rows_(norms)
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms * input_scale)
        self.b_dec.mul_(input_scale)

    def check_width(self, x: Float[Tensor, "*batch width"], site: str = "") -> None:
        """Raise unless activations (of `site`) have the width it reads, and no wider type of numbers.

        Narrower numbers are widened, as torch does in sums; what they are widened to is its own type.
        """
        if x.shape[-1] != self.d_in:
            whose = f" of site `{site}`" if site else ""
            own = f" (trained at site `{self.site}`)" if self.site else ""
            raise ShapeMismatchError(
                f"The activations{whose} have width {x.shape[-1]}, but the dictionary "
                f"`{self.architecture}`{own} reads width {self.d_in}. "
                "Pass activations of its own site, or train a dictionary at this one."
            )
        kind = self.b_enc.dtype
        if x.numel() and torch.promote_types(x.dtype, kind) != kind:
            raise ConfigError(
                f"The activations are `{x.dtype}`, but the dictionary `{self.architecture}` computes in "
                f"`{kind}`. Pass `x.to({kind})`, or convert it: `dictionary.to({x.dtype})`."
            )

    def save(
        self,
        path: Path | str,
        *,
        site: str,
        target: str = "",
        model: str = "",
        tokens: str = "",
        metrics: Mapping[str, float] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """Write it as an artifact of kind "dictionary"; `inputs` are hashes of what it was made from."""
        place = {"site": site, "target": target, "model": model, "tokens": tokens}
        origin = dataclasses.replace(self.origin, **place, metrics=dict(metrics or {}))
        saving.save(
            Path(path), self.state_dict(), self.config, self.conventions, origin, inputs or {}
        )
        self.origin = origin

    def save_pretrained(self, folder: Path | str) -> None:
        """Write it with the origin it has, and a model card (`README.md`) that says what is recorded."""
        o = self.origin
        place: dict[str, Any] = {"site": o.site, "target": o.target, "model": o.model}
        self.save(folder, **place, tokens=o.tokens, metrics=o.metrics)
        write_card(Path(folder), self.summary(), o, self.conventions)

    def push_to_hub(self, repository: str, *, folder: str = "", private: bool = False) -> str:
        """Upload what `save_pretrained` writes to `repository`, or to a folder in it; return its address."""
        with tempfile.TemporaryDirectory() as place:
            self.save_pretrained(Path(place) / "dictionary")
            return hub.upload(Path(place) / "dictionary", repository, folder, private=private)

    @classmethod
    def from_pretrained(cls: type[S], place: Path | str) -> S:
        """The dictionary of a folder, a file or a name on the hub, in any format (`monosem.load`)."""
        # formats build dictionaries: they can only be imported when there are some
        from monosem.dictionaries.formats.loading import load as load_any  # noqa: PLC0415

        found = load_any(place)
        if not isinstance(found, cls):
            raise ArtifactKindError(
                f"`{place}` is a `{found.architecture}`, not a `{cls.__name__}`. Load it with "
                "`Dictionary.from_pretrained`."
            )
        return found

    def summary(self) -> list[tuple[str, str]]:
        """Rows (name, value) that say what this dictionary is and how it measured."""
        rows = [("architecture", self.architecture), ("site", self.site or "not recorded")]
        rows.append(("shape", f"{self.d_in:,} → {self.n_latents:,} latents → {self.d_out:,}"))
        own = {f.name for f in dataclasses.fields(DictionaryConfig)}
        fields = [f.name for f in dataclasses.fields(self.config) if f.name not in own]
        rows += [(name, str(getattr(self.config, name))) for name in fields]
        rows += [("read from", self.origin.source)] if self.origin.source else []
        rows += [("remark", remark) for remark in self.origin.remarks]
        return rows + [(name, f"{value:.4g}") for name, value in self.origin.metrics.items()]

    def _repr_html_(self) -> Markup:
        return card(f"Dictionary {self.architecture}", self.summary())

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return ", ".join(f"{name}: {value}" for name, value in self.summary())


def _each(scale: float | tuple[float, ...]) -> tuple[float, ...]:
    return scale if isinstance(scale, tuple) else (scale,)


_ARCHITECTURES: dict[str, type[Dictionary[Any]]] = {}


def architectures() -> dict[str, type[Dictionary[Any]]]:
    """Every registered architecture by name, sorted."""
    return dict(sorted(_ARCHITECTURES.items()))


def architecture(name: str) -> type[Dictionary[Any]]:
    """The architecture registered as `name`; `UnknownNameError` lists the nearest ones."""
    if name not in _ARCHITECTURES:
        raise unknown_name("architecture", name, _ARCHITECTURES)
    return _ARCHITECTURES[name]


def load(path: Path | str) -> Dictionary[Any]:
    """The dictionary saved at `path`, on the CPU."""
    saved = saving.read(Path(path))
    kind = architecture(str(saved.dictionary.get("architecture", "")))
    config = artifact.configuration(saved.found, kind.config_type, saved.dictionary)
    dictionary = kind(config)
    saving.fill_(dictionary, saved)
    dictionary.conventions = artifact.configuration(saved.found, Conventions, saved.conventions)
    dictionary.origin = saved.origin
    return dictionary
