"""Names of places: module paths of `transformers` and names of TransformerLens, as sites of the house.

A published dictionary says where it belongs in its library's own words. Only what is certain is
translated; for the rest the site stays empty, and whoever loads the dictionary says it.

The output of a block is `hook_resid_post`, its input `hook_resid_pre`; that of an MLP is
`hook_mlp_out`, its input `ln2.hook_normalized`; that of attention `hook_attn_out`. In models with a
norm after the MLP (Gemma 2 and 3) the module's output is not what is added to the residual, so that
a bare `mlp` of those has no site.
"""

import re

from monosem.dictionaries.saving import steps

SITE = re.compile(r"(?:blocks\.\d+\.|hook_|ln_final\.).*")
_BLOCK = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(.+))?")
_LABEL = re.compile(r"(?:resid_post|resid|residual)_layer_(\d+)|(mlp_out|attn_out)_layer_(\d+)")
_ATTENTION = ("self_attn", "attn", "attention")
_AFTER = ("post_feedforward_layernorm",)
_BEFORE = ("pre_feedforward_layernorm", "ln_2")
_LAYER_NORM = re.compile(
    r"gpt-?(2|j|neo)|gpt_neo|cerebras-gpt|pythia|opt-|bloom|phi-[12]|stablelm|tinystories|gelu|solu"
    r"|santacoder|starcoder"
)
_RMS_NORM = re.compile(
    r"llama|gemma|qwen|mi[sx]tral|ministral|olmo-?[23]|olmoe|gpt-oss|phi-[34]|deepseek|smollm|granite"
)
_EMBEDDING = ("wte", "embed_in", "embed_tokens")


def house(name: str, model: str) -> tuple[str, str]:
    """A TransformerLens name in the house's words, and the processing of the model that it asks for.

    Its `hook_normalized` of an RMS norm is what the norm computes before its gain, and the house's is
    with it: they are the same in a model whose gains are folded into what reads them. Of a model whose
    norms are not known by its name the processing is unknown. `mlp.hook_in` is with the gain.
    `mlp.hook_out` is before a norm that may follow.

    >>> house("blocks.3.mlp.hook_in", "meta-llama/Llama-3.2-1B")
    ('blocks.3.ln2.hook_normalized', 'none')
    >>> house("blocks.3.ln2.hook_normalized", "google/gemma-2-2b")
    ('blocks.3.ln2.hook_normalized', 'layer_norm_folded')
    >>> house("blocks.3.ln2.hook_normalized", "gpt2"), house("blocks.3.mlp.hook_out", "gemma-2-2b")
    (('blocks.3.ln2.hook_normalized', 'none'), ('', 'none'))
    >>> house("blocks.3.ln2.hook_normalized", "somebody/new-model")
    ('blocks.3.ln2.hook_normalized', 'unknown')
    """
    if name.endswith("mlp.hook_out"):
        return (
            "" if has_post_norm(model) else name.replace("mlp.hook_out", "hook_mlp_out")
        ), "none"
    if name.endswith("mlp.hook_in"):
        return name.replace("mlp.hook_in", "ln2.hook_normalized"), "none"
    if not name.endswith("hook_normalized"):
        return name, "none"
    if _LAYER_NORM.search(model.lower()):
        return name, "none"
    return name, "layer_norm_folded" if _RMS_NORM.search(model.lower()) else "unknown"


def lens(site: str, processing: str, model: str) -> str:
    """The TransformerLens name of a site, so that `house` gives it back.

    >>> lens("blocks.3.ln2.hook_normalized", "none", "meta-llama/Llama-3.2-1B")
    'blocks.3.mlp.hook_in'
    """
    plain = processing != "unknown" and "layer_norm_folded" not in steps(processing)
    plain = plain and not _LAYER_NORM.search(model.lower())
    return site.replace("ln2.hook_normalized", "mlp.hook_in") if plain else site


def pair(name: str, io: str, *, post_norm: bool = False) -> tuple[str, str]:
    """The sites that are read and written at the `io` of a module or label; empty where not certain.

    `io` is "out", "in", or "in_and_out" for a transcoder. `written` makes such names of sites.

    >>> pair("layers.5.mlp", "in_and_out")
    ('blocks.5.ln2.hook_normalized', 'blocks.5.hook_mlp_out')
    """
    read, arrow, wrote = name.partition(" -> ")
    if arrow or SITE.fullmatch(name):
        return read, wrote
    output = of_module(name, post_norm=post_norm) or of_label(name)
    if io == "out":
        return output, ""
    source = of_module(name, reads="input", post_norm=post_norm)
    return source, output if io == "in_and_out" else ""


def joined(site: str, target: str) -> str:
    """A name that `pair` gives the two sites of.

    >>> pair(joined("hook_embed", "blocks.0.hook_mlp_out"), "out")
    ('hook_embed', 'blocks.0.hook_mlp_out')
    """
    return f"{site} -> {target}" if target and target != site else site


def of_module(path: str, *, reads: str = "output", post_norm: bool = False) -> str:
    """The site that is the input or output of a module, or an empty string.

    `post_norm` says that the model has a norm after its MLP and its attention.

    >>> of_module("layers.10"), of_module("model.layers.5.mlp"), of_module("h.2.mlp", reads="input")
    ('blocks.10.hook_resid_post', 'blocks.5.hook_mlp_out', 'blocks.2.ln2.hook_normalized')
    >>> of_module("model.layers.5.mlp", post_norm=True)
    ''
    """
    if path.rpartition(".")[2] in _EMBEDDING and reads == "output":
        return "hook_embed"
    match = _BLOCK.fullmatch(path)
    if match is None:
        return ""
    point = _point(match[2] or "", reads, post_norm)
    return f"blocks.{match[1]}.{point}" if point else ""


def _point(module: str, reads: str, post_norm: bool) -> str:
    into = reads == "input"
    if not module:
        return "hook_resid_pre" if into else "hook_resid_post"
    if module == "mlp" and (into or not post_norm):
        return "ln2.hook_normalized" if into else "hook_mlp_out"
    if module in _ATTENTION and not into and not post_norm:
        return "hook_attn_out"
    if module in _AFTER and not into:
        return "hook_mlp_out"
    if module in _BEFORE and not into:
        return "ln2.hook_normalized"
    return "attn.hook_z" if module == "self_attn.o_proj" and into else ""


def of_label(label: str) -> str:
    """The site of a label such as `resid_post_layer_8`, or an empty string.

    >>> of_label("resid_post_layer_8"), of_label("mlp_out_layer_3"), of_label("something")
    ('blocks.8.hook_resid_post', 'blocks.3.hook_mlp_out', '')
    """
    match = _LABEL.fullmatch(label)
    if match is None:
        return ""
    return f"blocks.{match[1] or match[3]}.hook_{match[2] or 'resid_post'}"


def doubts(name: str, model: str) -> tuple[str, ...]:
    """What is doubtful about the output of a module, where it is not said of which model it is.

    >>> doubts("layers.5.mlp", "gpt2"), doubts("layers.5", ""), doubts("blocks.5.hook_mlp_out", "")
    ((), (), ())
    """
    if model or SITE.fullmatch(name) or of_module(name) == of_module(name, post_norm=True):
        return ()
    return (
        f"its model is not named: of one with norms behind MLPs and attention (Gemma 2 and 3) `{name}` is "
        f"another site than `{of_module(name)}`",
    )


def layer_of(name: str) -> int | None:
    """The block that a site names, if it names one.

    >>> layer_of("blocks.12.hook_mlp_out"), layer_of("hook_embed")
    (12, None)
    """
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


def has_post_norm(model: str) -> bool:
    """Whether a model of this name has a norm after its MLP and its attention: Gemma 2 and 3.

    >>> has_post_norm("google/gemma-2-2b"), has_post_norm("gemma-2b"), has_post_norm("gpt2")
    (True, False, False)
    """
    return re.search(r"gemma-?[23]-", model.lower()) is not None
