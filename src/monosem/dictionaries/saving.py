"""Dictionaries as folders: `config.json` (configuration, origin, conventions) and `weights.safetensors`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from monosem.core import artifact
from monosem.core.config import Json, to_json
from monosem.core.errors import ArtifactCorruptError, ConfigError

KIND = "dictionary"
WEIGHTS = "weights.safetensors"
PROCESSINGS = ("centred", "layer_norm_folded", "value_biases_folded")
"""What other libraries do to a model's weights, which changes what its sites hold: writing weights are
centred, gains and biases of norms are moved into what reads them, biases of values into the output's."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a dictionary comes from; empty strings for what was not recorded."""

    site: str = ""
    """Site it reads."""
    target: str = ""
    """Site it reconstructs, if that is another one."""
    model: str = ""
    """Name and hash of the language model."""
    tokens: str = ""
    """Hash of the token store."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Measurements of its training run."""
    source: str = ""
    """The format it was read from, and what that calls its kind, where it was not trained here."""
    processing: str = ""
    """What was done to the weights of the model it was trained on: none, or some of `PROCESSINGS`, joined by
    a comma and a space."""
    context: int = 0
    """Tokens of a context in training, 0 where that is not recorded."""
    prepend_bos: bool | None = None
    """Whether contexts began with BOS, None where that is not recorded."""
    remarks: tuple[str, ...] = ()
    """What whoever uses it should know: roundings, doubts about the version that wrote it."""

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if self.context < 0:
            raise ConfigError(
                f"`context` must be at least 0, got {self.context}. Set it to the tokens of a context, or "
                "to 0 where that is not known."
            )


def steps(processing: str) -> tuple[str, ...]:
    """What a record of processing lists; nothing where that is "none", or not known.

    >>> steps("centred, layer_norm_folded"), steps("none")
    (('centred', 'layer_norm_folded'), ())
    """
    return () if processing in ("", "none", "unknown") else tuple(processing.split(", "))


@dataclass(frozen=True)
class Saved:
    """A dictionary's artifact, read and checked, before its class is known."""

    found: artifact.Artifact
    dictionary: Json
    conventions: Json
    origin: Origin
    weights: dict[str, Tensor]


def save(
    path: Path,
    weights: Mapping[str, Tensor],
    config: object,
    conventions: object,
    origin: Origin,
    inputs: Mapping[str, str],
) -> None:
    """Write one dictionary; the folder appears whole or not at all."""
    record = {"dictionary": to_json(config), **asdict(origin), "conventions": to_json(conventions)}
    seed = record["dictionary"].get("seed")
    with artifact.writing(path, kind=KIND, config=record, inputs=inputs, seed=seed) as folder:
        # safetensors stores rows after rows, whatever the strides in memory are
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        safetensors.torch.save_file(tensors, folder / WEIGHTS)


def read(path: Path) -> Saved:
    """Read and check the artifact at `path`."""
    found = artifact.read(path, KIND)
    record = dict(found.config)
    try:
        dictionary, conventions = record.pop("dictionary"), record.pop("conventions")
        weights = safetensors.torch.load_file(found.path / WEIGHTS)
    except (KeyError, FileNotFoundError, SafetensorError) as error:
        raise ArtifactCorruptError(
            f"`{path}` is not a whole dictionary ({error!r}). Train or convert it again."
        ) from error
    for name, part in (("dictionary", dictionary), ("conventions", conventions)):
        if not isinstance(part, dict):
            raise ArtifactCorruptError(
                f"`{path}` has a `{name}` that is {part!r:.60}, where settings by name must be. Train or "
                "convert it again."
            )
    origin = artifact.configuration(found, Origin, record)
    return Saved(found, dictionary, conventions, origin, weights)


def fill_(module: nn.Module, saved: Saved) -> None:
    """Copy the saved weights into `module`; names and shapes must match exactly.

    What was saved as float64 stays so: thresholds of other libraries are kept as such logarithms.
    """
    own = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in saved.weights.items()}
    if own != found:
        raise ArtifactCorruptError(
            f"`{saved.found.path / WEIGHTS}` holds {found}; its configuration asks for {own}. "
            "Train or convert the dictionary again."
        )
    with torch.no_grad():
        for name, weight in (*module.named_parameters(), *module.named_buffers()):
            if name in own:
                if saved.weights[name].dtype == torch.float64:
                    weight.data = weight.data.double()
                weight.copy_(saved.weights[name])
