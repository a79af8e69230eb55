"""Specification: what a dictionary computes, with every convention said aloud.

Each format is read into this form and written from it; none knows another. With `n(x)` for the
input's normalisation and `u` for its inverse on the output,

    v       = n(x) - centre - b_dec [if subtract_b_dec]
    pre     = v @ W_enc + b_enc
    score   = pre * ‖W_dec row‖ [if choose_by_norm], else pre
    latents = relu(pre)                                       "relu"
              relu(pre) where score is among a row's k largest        "topk"
              relu(pre) where pre > threshold, or >= [if inclusive]   "jumprelu"
              (pre > 0) * relu(exp(r_mag) * (pre - b_enc) + b_mag)    "gated"
    y       = u(latents @ W_dec + b_dec + v_skip @ W_skip)    v_skip = n(x), where there is a skip

The six axes on which libraries differ are `subtract_b_dec`, `normalisation` (with `scale`),
`choose_by_norm`, `inclusive` (with the units of `threshold`, always those of `pre` here), and the
orientations of `W_skip` and of `W_enc` and `W_dec`, which are always as above. A kind that chose by batch
in training (BatchTopK, Matryoshka) is "jumprelu" with one threshold for all latents.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from monosem.core.errors import ArtifactCorruptError
from monosem.dictionaries.wiring import Wiring

Activation = Literal["relu", "topk", "jumprelu", "gated"]
Normalisation = Literal["none", "scale", "layer_norm", "unit_rms"]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What libraries disagree about, besides the orientation of matrices."""

    subtract_b_dec: bool
    """Whether `b_dec` is subtracted from the input before the encoder."""
    normalisation: Normalisation = "none"
    """What is done to a row x of the input, and undone on the output.

    none        nothing
    scale       n(x) = x * scale, u(y) = y / scale
    layer_norm  n(x) = (x - mean of x) / (std of x + 1e-5), u(y) = y * std of x + mean of x
    unit_rms    n(x) = x * √d_in / ‖x‖, u(y) = y * ‖x‖ / √d_in

    The standard deviation divides by d_in - 1.
    """
    scale: float = 1.0
    """What the input is multiplied by; read where `normalisation` is "scale"."""
    output_scale: float = 1.0
    """What the target was multiplied by, the same where a dictionary writes what it reads."""
    choose_by_norm: bool = False
    """Whether latents compete by activation times norm of their decoder row ("topk", "jumprelu")."""
    inclusive: bool = False
    """Whether a pre-activation that equals its threshold is active."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a dictionary belongs, as far as its file says; empty strings for what it does not."""

    model: str = ""
    """Language model, by its name on the hub."""
    site: str = ""
    """Site it reads, in the house's words; several are joined by a comma and a space."""
    target: str = ""
    """Site it writes, if that is another one."""
    processing: str = "unknown"
    """What was done to the model's weights before its activations were read: unknown, none, or some of
    `saving.PROCESSINGS` joined by a comma and a space."""
    context: int = 0
    """Tokens of a context in training; 0 if not said."""
    prepend_bos: bool | None = None
    """Whether contexts began with BOS."""
    fvu: float | None = None
    """FVU that was recorded with it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Specification:
    """One dictionary in canonical orientation: activations are rows, a latent is a row of `W_dec`."""

    activation: Activation
    """Which latents are active."""
    axes: Axes
    """The conventions."""
    W_enc: Float[Tensor, "d_read n_latents"]
    """Rows are what a latent reads: all of the input, but of a "clt" the one site of its layer."""
    W_dec: Float[Tensor, "n_latents d_out"]
    b_enc: Float[Tensor, " n_latents"]
    """For "gated" the gate's bias."""
    b_dec: Float[Tensor, " d_out"]
    k: int = 0
    """Active latents a row, for "topk"."""
    threshold: Float[Tensor, " n_latents"] | None = None
    """In units of `pre`, for "jumprelu"."""
    r_mag: Float[Tensor, " n_latents"] | None = None
    b_mag: Float[Tensor, " n_latents"] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    centre: Float[Tensor, " d_in"] | None = None
    """Subtracted from the normalised input beside `b_dec`, where a file has such a mean."""
    wiring: Wiring = field(default_factory=Wiring)
    """Which columns belong to which site."""
    place: Place = field(default_factory=Place)
    """Where it belongs."""
    trained_as: str = ""
    """What the other library calls its kind, where that says more than `activation`."""
    source: str = ""
    """The format it was read from."""
    remarks: tuple[str, ...] = ()
    """What whoever uses it should know: roundings, doubts about the version that wrote it."""

    def __post_init__(self) -> None:
        """Raise `ArtifactCorruptError` where parts do not fit together."""
        d_in, n_latents, d_out = self.d_in, self.n_latents, self.d_out
        wanted = {
            "W_enc": (d_in // self._n_read, n_latents),
            "b_enc": (n_latents,),
            "b_dec": (d_out,),
            "threshold": (n_latents,),
            "r_mag": (n_latents,),
            "b_mag": (n_latents,),
            "W_skip": (d_in, d_out),
            "centre": (d_in,),
        }
        for name, shape in wanted.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ArtifactCorruptError(
                    f"`{name}` has shape {tuple(tensor.shape)}; beside `W_enc` {tuple(self.W_enc.shape)} "
                    f"and `W_dec` {tuple(self.W_dec.shape)} it must be {shape}. The file is of another "
                    "layout than its configuration says, or damaged; fetch it again."
                )
        self._check_parts()

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0] * self._n_read

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.W_dec.shape[1]

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    @property
    def _n_read(self) -> int:
        # a latent of a cross-layer transcoder reads one of its sites
        return max(1, len(self.wiring.widths_in)) if self.wiring.kind == "clt" else 1

    def _check_parts(self) -> None:
        needed = {
            "relu": (),
            "topk": (),
            "jumprelu": ("threshold",),
            "gated": ("r_mag", "b_mag"),
        }[self.activation]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ArtifactCorruptError(
                f"A `{self.activation}` dictionary needs {', '.join(f'`{m}`' for m in missing)}, which "
                "the file does not hold. Fetch it again, or correct the kind its configuration names."
            )
        if self.activation == "topk" and not 1 <= self.k <= self.n_latents:
            raise ArtifactCorruptError(
                f"`k` is {self.k}, but must be in 1..{self.n_latents}, the number of latents. Correct it "
                "in the file's configuration."
            )
        if self.axes.subtract_b_dec and self.d_in != self.d_out:
            raise ArtifactCorruptError(
                f"`b_dec` of width {self.d_out} cannot be subtracted from an input of width {self.d_in}. "
                "Set the file's flag for subtracting it to false."
            )
