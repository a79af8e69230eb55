"""Attributions: what feeds a unit, a feature or a logit, with terms that add up to it exactly.

    model = monosem.load_model("1L-a")
    found = attribute(model, tokens, logit_difference(model, token))
    found.top(10)      the largest terms        found.by_kind()    what heads, neurons, … add in all
    attribute_each(model, tokens, [one, another])       several targets of a prompt, one forward pass
    attribute_prompts(model, [tokens, others], target)  several prompts, one pass there and one back

In the frozen pass (`frozen.py`) a target is linear in the sources it is cut at and in all biases behind
them, so gradient × activation over these is the target. Which sources is a choice, for a source hides
what is behind it:

    token, position   the embeddings: always
    head              attention's z, head by head: `sources=("heads", …)`; else attention is passed
    neuron            `mlp.hook_post`, neuron by neuron: `sources=("neurons", …)`; else MLPs are passed
    feature, error    at every site that a dictionary of `dictionaries` writes: latents times their rows,
                      and what the dictionary leaves of the activation
    bias              whatever is constant: of maps, norms, decoders, and the target's own

A transcoder's features stand for the MLP it replaces; what its skip makes is passed on, being linear.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from monosem.circuits.frozen import FrozenPass, frozen_pass
from monosem.circuits.placed import Placed, each_position, place
from monosem.circuits.targets import Target
from monosem.circuits.terms import Attributions, Group
from monosem.core.errors import ConfigError, UnsupportedModelError
from monosem.dictionaries.base import Dictionary
from monosem.models.language_model import LanguageModel
from monosem.models.site import Site

SOURCES = {"heads": "attn.hook_z", "neurons": "mlp.hook_post"}
"""What may be a source beside embeddings and dictionaries, and its point in every block."""
KIND_OF = {
    "hook_embed": "token",
    "hook_pos_embed": "position",
    "attn.hook_z": "head",
    "mlp.hook_post": "neuron",
}
TOLERANCE = 4096.0
"""Units of the number type's roundoff, times Σ |term|, by which the terms may miss the target."""
LARGEST_GAP = 0.05
"""The same in any number type: narrow ones round too much for the other to say anything."""


def attribute(
    model: LanguageModel,
    tokens: Int[Tensor, " pos"],
    target: Target,
    *,
    sources: Sequence[str] = ("heads", "neurons"),
    dictionaries: Iterable[Dictionary[Any]] = (),
) -> Attributions:
    """Return what each source adds to `target` in one prompt.

    Terms that do not add up to the target, which no known family gives, raise `UnsupportedModelError`.
    """
    given: dict[str, Any] = {"sources": sources, "dictionaries": dictionaries}
    return attribute_each(model, tokens, [target], **given)[0]


def attribute_each(
    model: LanguageModel,
    tokens: Int[Tensor, " pos"],
    targets: Sequence[Target],
    *,
    sources: Sequence[str] = ("heads", "neurons"),
    dictionaries: Iterable[Dictionary[Any]] = (),
) -> list[Attributions]:
    """Return what `attribute` does of each target of one prompt, from one forward pass for all."""
    _check_asked(sources, [tokens] * len(targets), targets)
    if not targets:
        return []
    frozen, placed = _pass(model, tokens[None], targets, sources, dictionaries)
    with torch.no_grad():
        return [_attributed(model, [tokens], [t], frozen, placed)[0] for t in targets]


def attribute_prompts(
    model: LanguageModel,
    prompts: Sequence[Int[Tensor, " _"]],
    targets: Target | Sequence[Target],
    *,
    sources: Sequence[str] = ("heads", "neurons"),
    dictionaries: Iterable[Dictionary[Any]] = (),
) -> list[Attributions]:
    """Return what `attribute` does of each prompt, all in one forward pass and one backward.

    Prompts may differ in length: shorter ones are padded behind, where nothing before looks. `targets` is
    one target for all or one for each; a position counts in its own prompt.
    """
    each = [targets] * len(prompts) if isinstance(targets, Target) else list(targets)
    if len(each) != len(prompts):
        raise ConfigError(
            f"There are {len(each)} targets for {len(prompts)} prompts. Pass one for all, or one for each."
        )
    _check_asked(sources, prompts, each)
    if not prompts:
        return []
    tokens = nn.utils.rnn.pad_sequence([prompt.long() for prompt in prompts], batch_first=True)
    frozen, placed = _pass(model, tokens, each, sources, dictionaries)
    with torch.no_grad():
        return _attributed(model, prompts, each, frozen, placed)


def _check_asked(
    sources: Sequence[str], prompts: Sequence[Tensor], targets: Sequence[Target]
) -> None:
    unknown = [name for name in sources if name not in SOURCES]
    if unknown:
        raise ConfigError(
            f"`sources` may hold {' and '.join(f'`{s}`' for s in SOURCES)}, got `{unknown[0]}`. Embeddings "
            "and biases are sources always; dictionaries go into `dictionaries`."
        )
    for tokens, target in zip(prompts, targets, strict=True):
        if not -len(tokens) <= target.position < len(tokens):
            raise ConfigError(
                f"Position {target.position} is outside the prompt (0 to {len(tokens) - 1})."
            )


def _pass(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    targets: Sequence[Target],
    sources: Sequence[str],
    dictionaries: Iterable[Dictionary[Any]],
) -> tuple[FrozenPass, dict[str, Placed]]:
    points = [SOURCES[name] for name in sources]
    cut = [site for site in model.sites() if Site.parse(site).point in points]
    placed = place(model, dictionaries, targets)
    frozen = frozen_pass(
        model,
        tokens,
        cut=[*cut, *placed],
        read=[*(p.read for p in placed.values()), *(t.site for t in targets)],
        passed={p.write: p.skipped for p in placed.values() if p.dictionary.wiring.skip},
    )
    return frozen, placed


def _attributed(
    model: LanguageModel,
    prompts: Sequence[Int[Tensor, " _"]],
    targets: Sequence[Target],
    frozen: FrozenPass,
    placed: dict[str, Placed],
) -> list[Attributions]:
    """Return the terms of one target of each prompt; prompts know nothing of each other."""
    with torch.enable_grad():
        units = [
            frozen.seen[target.site].flatten(2)[row, target.position % len(tokens)]
            for row, (tokens, target) in enumerate(zip(prompts, targets, strict=True))
        ]
        metrics = [x @ target.vector.to(x) for x, target in zip(units, targets, strict=True)]
        gradients = frozen.gradients(torch.stack(metrics).sum())
    rows = enumerate(zip(prompts, targets, metrics, strict=True))
    return [
        _of_row(model, row, tokens, target, float(metric.detach()), frozen, gradients, placed)
        for row, (tokens, target, metric) in rows
    ]


def _of_row(
    model: LanguageModel,
    row: int,
    tokens: Int[Tensor, " pos"],
    target: Target,
    metric: float,
    frozen: FrozenPass,
    gradients: tuple[dict[str, Tensor], dict[str, Tensor]],
    placed: dict[str, Placed],
) -> Attributions:
    n, (cuts, biases) = len(tokens), gradients
    groups = [*_sources(row, tokens, frozen, cuts, placed)]
    groups += [
        each_position("bias", name, _layer(model, name), frozen.biases[name][row, :n], g[row, :n])
        for name, g in biases.items()
    ]
    if target.offset:
        groups.append(_offset(target, n, model.device))
    found = Attributions(target=target.name, value=metric + target.offset, groups=tuple(groups))
    _check(model, found, torch.finfo(frozen.seen[target.site].dtype).eps)
    return found


def _sources(
    row: int,
    tokens: Int[Tensor, " pos"],
    frozen: FrozenPass,
    gradients: dict[str, Tensor],
    placed: dict[str, Placed],
) -> Iterable[Group]:
    for name, gradient in gradients.items():
        site, y = Site.parse(name), frozen.cuts[name].detach()[row, : len(tokens)]
        g = gradient[row, : len(tokens)]
        if name in placed:
            x = frozen.seen[placed[name].read].detach()[row, : len(tokens)].flatten(1)
            yield from placed[name].groups(x, y.flatten(1), g.flatten(1))
        elif site.point in ("hook_embed", "hook_pos_embed"):
            group = each_position(KIND_OF[site.point], name, None, y, g)
            token = site.point == "hook_embed"
            yield dataclasses.replace(group, indices=tokens.long()) if token else group
        else:
            heads = y.ndim == 3
            sizes = y.norm(dim=-1) if heads else y
            adds = (y * g).sum(-1) if heads else y * g
            positions = torch.arange(len(y), device=y.device)[:, None].expand_as(adds)
            indices = torch.arange(adds.shape[1], device=y.device).expand_as(adds)
            yield Group(
                kind=KIND_OF[site.point],
                site=name,
                layer=site.layer,
                positions=positions.flatten(),
                indices=indices.flatten(),
                activations=sizes.flatten(),
                values=adds.flatten(),
            )


def _offset(target: Target, n: int, device: torch.device) -> Group:
    value = torch.tensor([target.offset], dtype=torch.float64, device=device)
    return Group(
        kind="bias",
        site=f"offset of the {target.name}",
        layer=Site.parse(target.site).layer,
        positions=torch.tensor([target.position % n], device=device),
        indices=None,
        activations=value.abs(),
        values=value,
    )


def _layer(model: LanguageModel, parameter: str) -> int | None:
    above = f"{model.family.base}.{model.family.layers}."
    if not parameter.startswith(above):
        return None
    return int(parameter.removeprefix(above).partition(".")[0])


def _check(model: LanguageModel, found: Attributions, epsilon: float) -> None:
    size = sum(float(g.values.double().abs().sum()) for g in found.groups)
    if abs(found.gap) > min(TOLERANCE * epsilon, LARGEST_GAP) * max(size, 1e-30):
        raise UnsupportedModelError(
            f"The terms of the {found.target} in `{model.name}` add up to {found.total:.6g}, not to "
            f"{found.value:.6g}: something in `{type(model.model).__name__}` is not linear where "
            "attention patterns, scales of norms and neurons are frozen. Report the family; do not use them."
        )
