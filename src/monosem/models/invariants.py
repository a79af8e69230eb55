"""The self-test: what must hold in any transformer whose sites are wired right, on one small batch.

resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post   (parallel: pre + both = post)
z · W_O (+ b) = attn_out,  mlp_post · W_out (+ b) = mlp_out           (before a post-norm)
(x − mean) / scale · gain + bias = normalized
rows of the pattern sum to 1,  pattern · v = z
every site fires once asked, has a gradient, and reading or replacing it by itself changes no bit
"""

from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from monosem.core.errors import UnsupportedModelError
from monosem.models import norms
from monosem.models.access import TransformerAccess, matrix
from monosem.models.places import submodule


def self_test(model: TransformerAccess) -> None:
    """Raise `UnsupportedModelError` at the first invariant that `model` breaks."""
    tokens = _tokens(model)
    with torch.no_grad():
        plain = model.model(input_ids=tokens, use_cache=False).logits
        with model.capturing(model.sites()) as seen:
            read = model.logits(tokens)
        _check_fired(model, seen)
        _require(torch.equal(plain, read), model, "reading all sites changes the logits")
        with model.replaced({site: _itself for site in model.sites()}):
            same = model.logits(tokens)
        _require(
            torch.equal(plain, same), model, "replacing sites by themselves changes the logits"
        )
        for layer in range(model.n_layers):
            _check_block(model, layer, seen)
        _check_norm(model, "ln_final", f"blocks.{model.n_layers - 1}.hook_resid_post", seen)
    _check_gradients(model, tokens)


def _tokens(model: TransformerAccess) -> Int[Tensor, "batch pos"]:
    n_positions = min(8, model.context)
    tokens = torch.arange(2 * n_positions).reshape(2, n_positions) * 7 % model.vocab_size
    return tokens.to(model.device)


def _itself(x: Tensor) -> Tensor:
    return x


def _check_fired(model: TransformerAccess, seen: dict[str, Tensor]) -> None:
    for site in model.sites():
        _require(site in seen, model, f"`{site}` does not fire")


def _check_block(model: TransformerAccess, layer: int, seen: dict[str, Tensor]) -> None:
    def at(point: str) -> Tensor:
        return seen[f"blocks.{layer}.{point}"]

    row, block = model.family, model.blocks[layer]
    pre, attn_out, where = at("hook_resid_pre"), at("hook_attn_out"), f"in block {layer}"
    written = _written(block, row.o_proj, row.attn_out, at("attn.hook_z").flatten(-2))
    _equal(model, written, attn_out, f"z · W_O = attn_out {where}")
    _check_norm(model, f"blocks.{layer}.ln1", f"blocks.{layer}.hook_resid_pre", seen)
    added = attn_out + at("hook_mlp_out") if row.mlp else attn_out
    what = "resid_pre + attn_out + mlp_out" if row.mlp else "resid_pre + attn_out"
    _equal(model, pre + added, at("hook_resid_post"), f"{what} = resid_post {where}")
    if row.mlp:
        _check_mlp(model, layer, seen)
    pattern, v = at("attn.hook_pattern"), at("attn.hook_v")
    _equal(
        model, pattern.sum(-1), torch.ones_like(pattern[..., 0]), f"pattern rows sum to 1 {where}"
    )
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
    _equal(model, z, at("attn.hook_z"), f"pattern · v = z {where}")


def _check_mlp(model: TransformerAccess, layer: int, seen: dict[str, Tensor]) -> None:
    def at(point: str) -> Tensor:
        return seen[f"blocks.{layer}.{point}"]

    row, block, where = model.family, model.blocks[layer], f"in block {layer}"
    if not row.parallel:
        mid = at("hook_resid_pre") + at("hook_attn_out")
        _equal(model, mid, at("hook_resid_mid"), f"resid_pre + attn_out = resid_mid {where}")
    written = _written(block, row.down, row.mlp_out, at("mlp.hook_post"))
    _equal(model, written, at("hook_mlp_out"), f"mlp_post · W_out = mlp_out {where}")
    as_many = at("mlp.hook_pre").shape == at("mlp.hook_post").shape
    _require(as_many, model, f"mlp.hook_pre and mlp.hook_post differ in shape {where}")
    read = "hook_resid_pre" if row.parallel else "hook_resid_mid"
    _check_norm(model, f"blocks.{layer}.ln2", f"blocks.{layer}.{read}", seen)


def _written(block: nn.Module, projection: str, after: str, x: Tensor) -> Tensor:
    module = submodule(block, projection)
    y, bias = x @ matrix(module), getattr(module, "bias", None)
    y = y if bias is None else y + bias
    return submodule(block, after).forward(y) if after else y


def _check_norm(model: TransformerAccess, name: str, read: str, seen: dict[str, Tensor]) -> None:
    norm = _norm(model, name)
    if isinstance(norm, nn.Identity):
        return
    rebuilt = norms.rebuild(norm, seen[read], seen[f"{name}.hook_scale"])
    what = f"the norm of `{read}` is `{name}.hook_normalized`"
    _equal(model, rebuilt, seen[f"{name}.hook_normalized"], what)


def _norm(model: TransformerAccess, name: str) -> nn.Module:
    row = model.family
    if name == "ln_final":
        return submodule(submodule(model.model, row.base), row.ln_final)
    _, layer, which = name.split(".")
    return submodule(model.blocks[int(layer)], row.ln1 if which == "ln1" else row.ln2)


def _check_gradients(model: TransformerAccess, tokens: Int[Tensor, "batch pos"]) -> None:
    with torch.enable_grad(), model.capturing(model.sites(), gradients=True) as seen:
        metric = model.logits(tokens).float().pow(2).sum()
        found = torch.autograd.grad(metric, list(seen.values()), allow_unused=True)
    for site, gradient in zip(seen, cast(tuple[Tensor | None, ...], found), strict=True):
        _require(gradient is not None, model, f"the logits have no gradient at `{site}`")


def _equal(model: TransformerAccess, left: Tensor, right: Tensor, what: str) -> None:
    tolerance = 512 * torch.finfo(right.dtype).eps * float(right.abs().max().clamp(min=1))
    close = left.shape == right.shape and float((left - right).abs().max()) <= tolerance
    _require(close, model, f"it breaks {what}")


def _require(holds: bool, model: TransformerAccess, what: str) -> None:
    if not holds:
        raise UnsupportedModelError(
            f"`{model.name}` ({type(model.model).__name__}) fails the self-test: {what}. "
            "Correct the module paths of its `Family` row (see `monosem.models.families`)."
        )
