"""Attributions: what feeds a unit, a feature or a logit, with terms that add up to it exactly.

    model = monosem.load_model("1L-a")
    found = attribute(model, tokens, logit_difference(model, token))
    found.top(10)      the largest terms        found.by_kind()    what heads, neurons, … add in all
    attribute_each(model, tokens, [one, another])                  several targets, one forward pass

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
from jaxtyping import Float, Int
from torch import Tensor

from monosem.activations.processing import for_model
from monosem.circuits.frozen import FrozenPass, frozen_pass
from monosem.circuits.targets import Target
from monosem.circuits.terms import Attributions, Group
from monosem.core.errors import ConfigError, UnsupportedModelError
from monosem.dictionaries.base import Dictionary
from monosem.dictionaries.wired import Wired
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
    unknown = [name for name in sources if name not in SOURCES]
    if unknown:
        raise ConfigError(
            f"`sources` may hold {' and '.join(f'`{s}`' for s in SOURCES)}, got `{unknown[0]}`. Embeddings "
            "and biases are sources always; dictionaries go into `dictionaries`."
        )
    for target in targets:
        if not -len(tokens) <= target.position < len(tokens):
            raise ConfigError(
                f"Position {target.position} is outside the prompt (0 to {len(tokens) - 1})."
            )
    if not targets:
        return []
    points = [SOURCES[name] for name in sources]
    cut = [site for site in model.sites() if Site.parse(site).point in points]
    placed = _placed(model, dictionaries, targets)
    frozen = frozen_pass(
        model,
        tokens[None],
        cut=[*cut, *placed],
        read=[*(p.read for p in placed.values()), *(t.site for t in targets)],
        passed={p.write: p.skipped for p in placed.values() if p.dictionary.wiring.skip},
    )
    with torch.no_grad():
        return [_attributed(model, tokens, target, frozen, placed) for target in targets]


class _Placed:
    """A dictionary at the site it writes."""

    def __init__(self, model: LanguageModel, dictionary: Dictionary[Any]) -> None:
        reads, writes = dictionary.sites_in, dictionary.sites_out
        if len(reads) != 1 or len(writes) != 1:
            raise ConfigError(
                f"A dictionary reads {len(reads)} sites and writes {len(writes)}; attributions take those of "
                "one site each. Save it with its `site`, or leave it out."
            )
        self.read, self.write = (str(model.check_site(site)) for site in (*reads, *writes))
        if type(dictionary).effect is not Wired.effect:
            raise ConfigError(
                f"The rows of a `{dictionary.architecture}` are scaled by the activation it reads, so its "
                "features add no fixed vectors. Use a dictionary of another architecture."
            )
        self.dictionary = for_model(dictionary, model, reads, writes).to(model.device)

    def skipped(self, seen: dict[str, Tensor]) -> Tensor:
        """Return what the skip makes of what it reads, in that one's shape."""
        x = seen[self.read]
        return x.flatten(2) @ self.dictionary.W_skip.detach().to(x)

    def groups(
        self,
        x: Float[Tensor, "pos d_in"],
        y: Float[Tensor, "pos d_out"],
        g: Float[Tensor, "pos d_out"],
    ) -> list[Group]:
        """Return features, error and decoder bias of what was read, what is written, and its gradient."""
        d, layer = self.dictionary, Site.parse(self.write).layer
        latents = d.encode_sparse(x.to(d.b_enc.dtype)).ragged()
        rows, indices = latents.rows(), latents.indices.long()
        values, vectors = latents.values.to(y), d.W_dec.detach().to(y)[latents.indices.long()]
        b_dec = d.b_dec.detach().to(y)
        error = (y - b_dec).index_add(0, rows, -values[:, None] * vectors)
        adds = values * (vectors * g[rows]).sum(1)
        return [
            Group(
                kind="feature",
                site=self.write,
                layer=layer,
                positions=rows,
                indices=indices,
                activations=values,
                values=adds,
            ),
            _each_position("error", self.write, layer, error, g),
            _each_position("bias", f"{self.write} b_dec", layer, b_dec.expand_as(g), g),
        ]


def _placed(
    model: LanguageModel, dictionaries: Iterable[Dictionary[Any]], targets: Sequence[Target]
) -> dict[str, _Placed]:
    """Return the dictionaries by the site they write; those behind all targets are left out."""
    known = [_Placed(model, d) for d in dictionaries]
    written = [p.write for p in known]
    if len(set(written)) < len(written):
        raise ConfigError(
            f"Two dictionaries write `{max(written, key=written.count)}`. Pass one for each site."
        )
    order = model.sites().index
    last = max(order(target.site) for target in targets)
    return {p.write: p for p in known if max(order(p.read), order(p.write)) <= last}


def _attributed(
    model: LanguageModel,
    tokens: Int[Tensor, " pos"],
    target: Target,
    frozen: FrozenPass,
    placed: dict[str, _Placed],
) -> Attributions:
    with torch.enable_grad():
        x = frozen.seen[target.site].flatten(2)[0, target.position]
        metric = x @ target.vector.to(x)
    cuts, biases = frozen.gradients(metric)
    groups = [*_sources(tokens, frozen, cuts, placed)]
    groups += [
        _each_position("bias", name, _layer(model, name), frozen.biases[name][0], g[0])
        for name, g in biases.items()
    ]
    if target.offset:
        groups.append(_offset(target, len(tokens), x))
    value = float(metric.detach().double()) + target.offset
    found = Attributions(target=target.name, value=value, groups=tuple(groups))
    _check(model, found, torch.finfo(x.dtype).eps)
    return found


def _sources(
    tokens: Int[Tensor, " pos"],
    frozen: FrozenPass,
    gradients: dict[str, Tensor],
    placed: dict[str, _Placed],
) -> Iterable[Group]:
    for name, gradient in gradients.items():
        site, y, g = Site.parse(name), frozen.cuts[name].detach()[0], gradient[0]
        if name in placed:
            x = frozen.seen[placed[name].read].detach()[0].flatten(1)
            yield from placed[name].groups(x, y.flatten(1), g.flatten(1))
        elif site.point in ("hook_embed", "hook_pos_embed"):
            group = _each_position(KIND_OF[site.point], name, None, y, g)
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


def _each_position(
    kind: str,
    site: str,
    layer: int | None,
    x: Float[Tensor, "pos d"],
    g: Float[Tensor, "pos d"],
) -> Group:
    return Group(
        kind=kind,
        site=site,
        layer=layer,
        positions=torch.arange(len(x), device=x.device),
        indices=None,
        activations=x.detach().norm(dim=-1),
        values=(x.detach() * g).sum(-1),
    )


def _offset(target: Target, n: int, like: Tensor) -> Group:
    value = like.detach().new_tensor([target.offset], dtype=torch.float64)
    return Group(
        kind="bias",
        site=f"offset of the {target.name}",
        layer=Site.parse(target.site).layer,
        positions=torch.tensor([target.position % n], device=like.device),
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
