"""A whole transformer into an attention-only one: heads for every neuron of every MLP.

converted = convert(model)            a `PreTrainedModel` of its own, saved and loaded like any other
converted.model, .blocks              the model, and per block: heads, bounds, ε
"""

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from monosem.constructions.approximations import RELU_GAIN, Approximation, approximation
from monosem.constructions.attention_only import class_of, is_gated
from monosem.constructions.functions import function
from monosem.constructions.gated import GatedHeads, Product, gated_heads, largest_gates
from monosem.constructions.heads import Heads
from monosem.constructions.neuron import neuron_heads
from monosem.constructions.sublayer import MODES, NeuronSublayers
from monosem.core.config import to_json
from monosem.core.errors import ConfigError, UnsupportedModelError
from monosem.models import norms
from monosem.models.access import matrix
from monosem.models.families import FAMILIES, Family
from monosem.models.places import blocks_of, submodule


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """How near to come, and how the heads run."""

    n_heads: int = 3
    """Heads for the activation function of each neuron, at most; exact functions need one."""
    gain: float = RELU_GAIN
    """β of ReLU's head; it errs by 0.27846/β."""
    n_terms: int = 2
    """Heads for each product of a gated MLP; its error is of order 2·n_terms + 1."""
    mode: str = "gathered"
    """`gathered`: softmax over the two keys of a query; `dense`: over all keys, under a mask."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any model is touched."""
        if self.n_heads < 1:
            raise ConfigError(f"`n_heads` must be at least 1, got {self.n_heads}.")
        if not self.gain > 0:
            raise ConfigError(f"`gain` must be positive, got {self.gain}.")
        if self.mode not in MODES:
            raise ConfigError(f"`mode` must be one of {', '.join(MODES)}, got `{self.mode}`.")
        Product(n_terms=self.n_terms)  # refuses orders without stored series


@dataclass(frozen=True, kw_only=True)
class ConvertedBlock:
    """What stands for the MLP of one block."""

    n_heads: int
    """Heads added."""
    n_scratch: int
    """Scratch columns between two sublayers; 0 for an ungated MLP."""
    activation_error: float
    """Bound on the error of the activation function."""
    product_error: float
    """Largest over the neurons of |product − act(g)·u| for each unit of |u|; 0 if ungated.

    The truncation in it is proved, the rounding estimated (`gated.py`)."""
    epsilon: tuple[float, float]
    """Smallest and largest ε over the neurons; (0, 0) if ungated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """An attention-only model and what it was made with."""

    model: PreTrainedModel
    """The model."""
    blocks: tuple[ConvertedBlock, ...]
    """One for each block."""


@torch.no_grad()
def convert(model: PreTrainedModel, config: ConversionConfig | None = None) -> Converted:
    """Return the attention-only model of `model`, in its number type and on its device.

    ε of gated MLPs is chosen for that number type: convert in the precision you will run in.
    """
    config = config or ConversionConfig()
    kind = class_of(model.config)
    row, original = FAMILIES[model.config.model_type], model.config.model_type
    best = approximation(activation_of(model), config.n_heads, gain=config.gain)
    make = _gated if is_gated(original) else _ungated
    parts = [make(model, block, row, best, config) for block in blocks_of(model, row)]
    made = {
        "sublayers": [_shape(heads) for heads in parts[0][0]],
        "mode": config.mode,
        "activation": activation_of(model),
        "n_terms": config.n_terms if is_gated(original) else 0,
        "heads": to_json(best.heads),
    }
    converted = _empty(kind, model, made)
    for block, (sublayers, _) in zip(blocks_of(converted, row), parts, strict=True):
        for sublayer, heads in zip(_sublayers(block), sublayers, strict=True):
            sublayer.fill_(heads)
    return Converted(model=converted, blocks=tuple(report for _, report in parts))


def _empty(kind: type[PreTrainedModel], model: Any, made: dict[str, Any]) -> Any:
    """Return a model of `kind` with everything of `model` but its MLPs."""
    settings = {
        k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures")
    }
    config = cast(Any, kind.config_class)(**settings, attention_only=made)
    config._attn_implementation = model.config._attn_implementation
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
        converted = cast(Any, kind)(config).to(model.dtype).to(model.device)
    state = {k: v for k, v in model.state_dict().items() if ".mlp." not in k}
    absent, surplus = converted.load_state_dict(state, strict=False)
    wrong = [*surplus, *(k for k in absent if ".mlp.sublayers." not in k)]
    if wrong:
        raise UnsupportedModelError(
            f"`{type(model).__name__}` has weights that `{kind.__name__}` has not, or lacks some, "
            f"such as `{wrong[0]}`. Convert the family's plain causal language model."
        )
    # Rotary frequencies stay float32 in a model of bfloat16; `.to` above has rounded them.
    for name, buffer in model.named_buffers():
        above, _, last = name.rpartition(".")
        converted.get_submodule(above)._buffers[last] = buffer.clone()
    converted.generation_config = copy.deepcopy(model.generation_config)
    return converted.requires_grad_(False).eval()


def _ungated(
    model: PreTrainedModel, block: nn.Module, row: Family, best: Approximation, config: Any
) -> tuple[list[Heads], ConvertedBlock]:
    del model, config  # an ungated MLP needs neither
    W_in, b_in = _affine(submodule(block, row.pre))
    W_out, b_out = _affine(submodule(block, row.down))
    heads = neuron_heads(best.heads, W_in, b_in, W_out.T, b_out)
    report = ConvertedBlock(
        n_heads=heads.n_heads,
        n_scratch=0,
        activation_error=best.error,
        product_error=0.0,
        epsilon=(0.0, 0.0),
    )
    return [heads], report


def _gated(
    model: PreTrainedModel,
    block: nn.Module,
    row: Family,
    best: Approximation,
    config: ConversionConfig,
) -> tuple[list[Heads], ConvertedBlock]:
    W_gate, b_gate = _affine(submodule(block, row.pre))
    W_up, b_up = _affine(submodule(block, row.up))
    W_out, b_out = _affine(submodule(block, row.down))
    norm, known = submodule(block, row.ln2), function(activation_of(model))
    gain = norms.gain(norm)
    bias = getattr(norm, "bias", None)
    gates = largest_gates(W_gate, b_gate, gain, torch.zeros_like(gain) if bias is None else bias)
    at_zero = float(known(torch.zeros(1)).abs())
    made = gated_heads(
        W_gate,
        b_gate,
        W_up,
        b_up,
        W_out.T,
        b_out,
        activation=best.heads,
        activation_error=best.error,
        largest=known.lipschitz * gates.double() + at_zero,
        product=Product(n_terms=config.n_terms),
        dtype=model.dtype,
    )
    return [made.first, made.second], _gated_report(made, best)


def _gated_report(made: GatedHeads, best: Approximation) -> ConvertedBlock:
    low, high = (float(e) for e in made.epsilons.aminmax())
    return ConvertedBlock(
        n_heads=made.first.n_heads + made.second.n_heads,
        n_scratch=2 * len(made.epsilons),
        activation_error=best.error,
        product_error=float(made.errors.max()),
        epsilon=(low, high),
    )


def _affine(
    module: nn.Module,
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
    weight = matrix(module).T
    bias = cast(Tensor | None, getattr(module, "bias", None))
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias


def activation_of(model: PreTrainedModel) -> str:
    """Return the name of the model's activation function; `UnsupportedModelError` if it names none."""
    config = cast(Any, model.config)
    for name in ("hidden_activation", "hidden_act", "activation_function"):
        found = getattr(config, name, None)
        if isinstance(found, str):
            return found
    raise UnsupportedModelError(
        f"The configuration of `{type(model).__name__}` names no activation function; "
        "`hidden_act`, `hidden_activation` and `activation_function` were looked for."
    )


def _shape(heads: Heads) -> list[int]:
    return [heads.W_Q.shape[1] - 2, heads.n_heads, heads.W_O.shape[2]]


def _sublayers(block: Any) -> list[Any]:
    return list(cast(NeuronSublayers, block.mlp).sublayers)
