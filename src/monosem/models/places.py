"""Which sites a model of a family has, and the `Place` of each."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from monosem.core.errors import UnsupportedModelError
from monosem.models.attention import AttentionPlace
from monosem.models.families import Family
from monosem.models.site import Site, site_names
from monosem.models.taps import (
    InputPlace,
    MiddlePlace,
    NormPlace,
    OutputPlace,
    Place,
    PositionPlace,
)


def base_of(model: PreTrainedModel, family: Family) -> nn.Module:
    """Return the transformer without its unembedding."""
    return submodule(model, family.base)


def blocks_of(model: PreTrainedModel, family: Family) -> list[nn.Module]:
    """Return the blocks in order."""
    return list(cast(nn.ModuleList, submodule(base_of(model, family), family.layers)))


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the module at `path` below `module`, or say which part of the path is missing."""
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"`{type(module).__name__}` has no module `{path}` ({error}). "
            "Correct this path in the `Family` row."
        ) from error


def places_of(model: PreTrainedModel, family: Family, n_heads: int) -> dict[Site, Place]:
    """Return the place of every site of `model`, in the order of the forward pass."""
    base, blocks = base_of(model, family), blocks_of(model, family)
    embed, pos_embed = Site(None, "hook_embed"), Site(None, "hook_pos_embed")
    found: dict[Site, Place] = {embed: OutputPlace(submodule(base, family.embed), embed)}
    if family.pos_embed:
        position = submodule(base, family.pos_embed)
        found[pos_embed] = PositionPlace(base, position, pos_embed)
    for layer, block in enumerate(blocks):
        found.update(_block_places(block, family, layer, n_heads))
    found.update(_norm_places(submodule(base, family.ln_final), None, "ln_final"))
    ordered = (Site.parse(name) for name in site_names(range(len(blocks))))
    return {site: found[site] for site in ordered if site in found}


def _block_places(block: nn.Module, row: Family, layer: int, n_heads: int) -> dict[Site, Place]:
    def into(point: str, path: str, heads: int = 0) -> tuple[Site, Place]:
        site = Site(layer, point)
        return site, InputPlace(submodule(block, path), site, heads)

    def out_of(point: str, path: str, heads: int = 0) -> tuple[Site, Place]:
        site = Site(layer, point)
        return site, OutputPlace(submodule(block, path), site, heads)

    found = dict(
        [
            into("hook_resid_pre", ""),
            into("attn.hook_z", row.o_proj, n_heads),
            out_of("hook_attn_out", row.attn_out or row.attn),
            out_of("hook_resid_post", ""),
        ]
    )
    found.update(_norm_places(submodule(block, row.ln1), layer, "ln1"))
    if row.mlp:
        found.update([out_of("mlp.hook_pre", row.pre), into("mlp.hook_post", row.down)])
        found.update([out_of("hook_mlp_out", row.mlp_out or row.mlp)])
        found.update(_norm_places(submodule(block, row.ln2), layer, "ln2"))
    if row.mlp and not row.parallel:
        middle = Site(layer, "hook_resid_mid")
        found[middle] = MiddlePlace(submodule(block, row.ln2), block, middle)
    if row.has_interface:
        attention = AttentionPlace(submodule(block, row.attn), layer)
        points = ("q", "k", "v", "attn_scores", "pattern")
        found.update({Site(layer, f"attn.hook_{point}"): attention for point in points})
    else:
        found.update([out_of(f"attn.hook_{x}", getattr(row, f"{x}_proj"), n_heads) for x in "qkv"])
        found.update([into("attn.hook_pattern", row.pattern)])
    return found


def _norm_places(norm: nn.Module, layer: int | None, name: str) -> dict[Site, Place]:
    if isinstance(norm, nn.Identity):  # a model without norms
        return {}
    scale, normalized = Site(layer, f"{name}.hook_scale"), Site(layer, f"{name}.hook_normalized")
    place = NormPlace(norm, scale, normalized)
    return {scale: place, normalized: place}
