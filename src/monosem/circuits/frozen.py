"""The frozen pass: one pass of a language model in which everything is linear but what was decided before.

    attention patterns      frozen: a head only moves and maps (z = pattern · v)
    scales of norms         frozen: (x − mean) / scale · gain + bias is affine in x
    neurons                 act(s) = s · (act(s) / s), the ratio frozen
    gated neurons           act(g) · u with act(g) frozen: what is left is linear in u
    heads of neurons        two-key patterns frozen (`constructions/sublayer.py`)

With these held fast every activation is a linear function of the embeddings and of all biases
together. Hence Σ gradient × activation over any cut through the model, plus the same over the biases
behind the cut, is the activation itself, with nothing left over (Euler): that is what `attribution.py`
reads off. Values of the pass are the model's own, up to rounding. A softcap on the logits is not part of
it; one on attention scores is inside the pattern.

The frozen model: Ameisen et al. 2025, "Circuit Tracing", there called the local replacement model; frozen
ratios: "gradient × input with the LN and identity rules", Ali et al. 2022, arXiv:2202.07304.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.constructions.sublayer import NeuronHeads
from monosem.core.errors import ConfigError
from monosem.models import norms
from monosem.models.language_model import LanguageModel
from monosem.models.places import submodule

Change = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class FrozenPass:
    """What one frozen pass left: cuts and biases as leaves of a graph, and what was read on it."""

    cuts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The activation at each cut, [batch pos …]: gradients end here."""
    biases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Each bias by its parameter's name, at each position: [batch pos d]."""
    seen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The activation at each site that was to be read, on the graph; before the cut, where it is one."""

    def gradients(self, metric: Float[Tensor, ""]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return d metric / d each cut and each bias; nothing for those that it does not depend on."""
        cuts, biases = list(self.cuts), list(self.biases)
        leaves = [*self.cuts.values(), *self.biases.values()]
        if not metric.requires_grad:
            return {}, {}
        found = torch.autograd.grad(metric, leaves, retain_graph=True, allow_unused=True)
        named = zip([*cuts, *biases], cast(tuple[Tensor | None, ...], found), strict=True)
        known = [(name, gradient) for name, gradient in named if gradient is not None]
        return (
            {name: g for name, g in known if name in self.cuts},
            {name: g for name, g in known if name in self.biases},
        )


def frozen_pass(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    cut: Sequence[str],
    read: Sequence[str],
    passed: Mapping[str, Callable[[dict[str, Tensor]], Tensor]] | None = None,
) -> FrozenPass:
    """Pass `tokens` with everything frozen that is not linear, cut at some sites and read at others.

    It stops after the last site that is read. The embeddings are cut whatever else is. What `passed`
    makes, for a site, of what was read before is not cut off there.
    """
    passed = passed or {}
    if not read:
        raise ConfigError("Nothing is to be read. Name the site of the target in `read`.")
    found = FrozenPass()
    cuts = [str(model.check_site(site)) for site in dict.fromkeys((*_embeddings(model), *cut))]
    wanted = [str(model.check_site(site)) for site in dict.fromkeys(read)]
    changes = _Changes(model, found)
    for gate in (True, False):  # what goes into an activation function is read before it is frozen
        for site in (site for site in wanted if site.endswith("mlp.hook_pre") == gate):
            changes.add(site, changes.reader(site))
        for site in (site for site in cuts if site.endswith("mlp.hook_pre") == gate):
            changes.add(site, changes.cutter(site, passed.get(site)))
        for layer in range(model.n_layers if gate else 0):
            changes.freeze_block(layer, set(cuts) - set(wanted))
    with torch.enable_grad(), changes.hooked(), model.replaced(changes.at):
        model.capture(tokens, wanted, gradients=True)
    return found


class _Changes:
    """The functions on sites and modules that make one pass a frozen one."""

    def __init__(self, model: LanguageModel, found: FrozenPass) -> None:
        self.model, self.found = model, found
        self._functions: dict[str, list[Change]] = {}

    @property
    def at(self) -> dict[str, Change]:
        """What `LanguageModel.replaced` takes."""
        return {site: partial(_composed, functions) for site, functions in self._functions.items()}

    def add(self, site: str, function: Change) -> None:
        """Apply `function` at `site` after those that are there."""
        self._functions.setdefault(site, []).append(function)

    def reader(self, site: str) -> Change:
        """Return what keeps the activation and leaves it as it is."""
        return partial(_kept, self.found.seen, site)

    def cutter(self, site: str, passed: Callable[[dict[str, Tensor]], Tensor] | None) -> Change:
        """Return what puts a leaf of the same value in the activation's place, but for what is passed."""
        return partial(_cut, self.found, site, passed)

    def freeze_block(self, layer: int, cut: set[str]) -> None:
        """Freeze the pattern and the neurons of a block, where no cut makes it needless."""
        row, block = self.model.family, self.model.blocks[layer]
        if f"blocks.{layer}.attn.hook_z" not in cut:
            self.add(f"blocks.{layer}.attn.hook_pattern", Tensor.detach)
        post, pre = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.mlp.hook_pre"
        if not row.mlp or post in cut:
            return
        if row.up or any(isinstance(m, NeuronHeads) for m in submodule(block, row.mlp).modules()):
            self.add(pre, Tensor.detach)
            return
        kept: dict[str, Tensor] = {}
        self.add(pre, partial(_kept, kept, "s"))
        self.add(post, partial(_linear, kept))

    @contextlib.contextmanager
    def hooked(self) -> Generator[None]:
        """Set hooks on norms, biases and the inner heads of neurons, before any tap on the same module."""
        with contextlib.ExitStack() as stack:
            names = {module: name for name, module in self.model.model.named_modules()}
            frozen = set(_norms(self.model))
            for module in [m for top in self._tops() for m in top.modules()]:
                hooks: list[Callable[..., Tensor]] = [_freeze_norm] if module in frozen else []
                bias = dict(module.named_parameters(recurse=False)).get("bias")
                if bias is not None and bias.ndim == 1:
                    hooks.append(partial(_leaf_of_bias, self.found, f"{names[module]}.bias", bias))
                for hook in hooks:
                    stack.callback(module.register_forward_hook(hook).remove)
                if isinstance(module, NeuronHeads):
                    for remove in self._inside(module, names[module]):
                        stack.callback(remove)
            yield

    def _tops(self) -> list[nn.Module]:
        row = self.model.family
        return [*self.model.blocks, submodule(submodule(self.model.model, row.base), row.ln_final)]

    def _inside(self, heads: NeuronHeads, name: str) -> list[Callable[[], None]]:
        """Freeze the patterns of inner sublayers; give constants of queries and values leaves."""
        removers: list[Callable[[], None]] = []
        for part, module in (("query", heads.query), ("value", heads.value)):
            key = f"{name}.{part} (constant)"
            constant = partial(_constant, self.found, key)
            removers.append(module.register_forward_pre_hook(constant).remove)
        outer = [submodule(b, self.model.family.pre) for b in self.model.blocks]
        if heads.query not in outer:
            removers.append(heads.query.register_forward_hook(_detach_output).remove)
        return removers


# Functions of the module, not closures: they are made for every site of every pass.


def _composed(functions: Sequence[Change], x: Tensor) -> Tensor:
    for function in functions:
        x = function(x)
    return x


def _kept(seen: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    seen[name] = x
    return x


def _cut(
    found: FrozenPass,
    site: str,
    passed: Callable[[dict[str, Tensor]], Tensor] | None,
    x: Tensor,
) -> Tensor:
    kept = None if passed is None else passed(found.seen).view_as(x)
    cut_off = x if kept is None else x - kept
    leaf = found.cuts[site] = cut_off.detach().clone().requires_grad_()
    return leaf if kept is None else leaf + kept


def _linear(kept: dict[str, Tensor], y: Tensor) -> Tensor:
    s = kept.pop("s")
    at_zero = s == 0
    ratio = torch.where(at_zero, 0.0, y / torch.where(at_zero, 1.0, s)).detach()
    return s * ratio + torch.where(at_zero, y, 0.0).detach()


def _leaf_of_bias(
    found: FrozenPass, name: str, bias: Tensor, _: nn.Module, __: Any, y: Tensor
) -> Tensor:
    leaf = bias.detach().expand_as(y).clone().requires_grad_()
    found.biases[name] = leaf
    return y + (leaf - leaf.detach())  # the value stays, to the last bit


def _constant(
    found: FrozenPass, key: str, _: nn.Module, args: tuple[Tensor]
) -> tuple[Tensor] | None:
    rows = args[0]
    if key in found.biases:  # the second call is the bias row's, which gives 0
        return None
    leaf = rows[..., -2:].detach().clone().requires_grad_()
    found.biases[key] = leaf
    return (torch.cat([rows[..., :-2], leaf], -1),)


def _detach_output(_: nn.Module, __: Any, y: Tensor) -> Tensor:
    return y.detach()


def _freeze_norm(norm: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
    return norms.rebuild(norm, args[0], norms.scale_of(norm, args[0]).detach())


def _norms(model: LanguageModel) -> list[nn.Module]:
    """Return the norms that the residual stream passes; those of q and k are inside the pattern."""
    row = model.family
    found = [submodule(submodule(model.model, row.base), row.ln_final)]
    for block in model.blocks:
        paths = [p for p in (row.ln1, row.ln2, row.attn_out, row.mlp_out) if p]
        found += [submodule(block, path) for path in paths]
    return [m for m in found if isinstance(getattr(m, "weight", None), Tensor)]


def _embeddings(model: LanguageModel) -> list[str]:
    return [site for site in ("hook_embed", "hook_pos_embed") if site in model.sites()]
