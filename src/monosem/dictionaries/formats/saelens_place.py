"""What SAELens says beside the weights: version, site, model, and versions that are known to be wrong.

Before version 6 `cfg.json` is flat and has other names; `of_version_6` gives it the later form. The model
of a dictionary is named as TransformerLens does, and loaded without processing its weights, unless
`model_from_pretrained_kwargs` asks for some; `PROCESSED` are the words of both sides.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from monosem.dictionaries.formats import hooks
from monosem.dictionaries.formats.files import Files
from monosem.dictionaries.formats.pieces import setting, unsupported
from monosem.dictionaries.formats.specification import Place, Specification
from monosem.dictionaries.saving import steps

SPARSITY = "sparsity.safetensors"
SILENT = -10.0
"""log10 of a frequency under which a latent counts as silent: SAELens adds 1e-10 before the logarithm."""
RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
MODELS = {
    "gpt2-small": "gpt2",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-27b": "google/gemma-2-27b",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    **{
        f"pythia-{size}{kind}": f"EleutherAI/pythia-{size}{kind}"
        for size in ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
        for kind in ("", "-deduped")
    },
    **{
        f"tiny-stories-{size}": f"roneneldan/TinyStories-{size}"
        for size in ("1M", "3M", "8M", "28M", "33M", "1L-21M", "2L-33M")
    },
}
"""Names of TransformerLens, by those of the hub."""
PROCESSED = {
    "center_writing_weights": "centred",
    "fold_ln": "layer_norm_folded",
    "fold_value_biases": "value_biases_folded",
    "refactor_factored_attn_matrices": "attention_refactored",
}
"""What TransformerLens can be asked to do to a model's weights, that changes what its sites hold."""


def of_version_6(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings as version 6 writes them; `ArtifactKindError` for those of a later one."""
    found = version(config)
    if found >= (7, 0, 0):
        stated = ".".join(str(part) for part in found)
        why = f"it was written by SAELens {stated}, and layouts up to version 6 are known"
        instead = "If its layout is that of 6, set `sae_lens_version` in `cfg.json` to 6.0.0."
        raise unsupported("saelens", "cfg.json", why, instead)
    if found >= (6, 0, 0):
        return config
    flat = {RENAMED.get(name, name): value for name, value in config.items()}
    kwargs = flat.get("activation_fn_kwargs")
    if flat.get("activation_fn") == "topk" and isinstance(kwargs, Mapping):
        flat["architecture"], flat["k"] = "topk", cast(Mapping[str, Any], kwargs).get("k")
    normalised = flat.get("normalize_activations")
    if isinstance(normalised, bool):
        flat["normalize_activations"] = "expected_average_only_in" if normalised else "none"
    defaults = {"architecture": "standard", "apply_b_dec_to_input": True, "prepend_bos": True}
    known = {name: value for name, value in flat.items() if value is not None}
    return {**defaults, **known, "metadata": {**defaults, **known}}


def version(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The version of SAELens that wrote it; (0, 0, 0) if it does not say."""
    for path in ("sae_lens_version", "metadata.sae_lens_version"):
        match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", setting(config, path, str, ""))
        if match:
            return int(match[1]), int(match[2]), int(match[3])
    return 0, 0, 0


def place(config: Mapping[str, Any]) -> Place:
    """Where the dictionary belongs."""
    model = setting(config, "metadata.model_name", str, "")
    model = MODELS.get(model, model)
    site, asked = _site(config, "hook_name", "hf_hook_name", model)
    target, _ = _site(config, "hook_name_out", "hf_hook_name_out", model)
    given = _metadata(config)
    return Place(
        model=model,
        site=site,
        target="" if target == site else target,
        processing=_processing(config, asked),
        context=setting(config, "metadata.context_size", int, 0),
        prepend_bos=setting(given, "prepend_bos", bool)
        if given.get("prepend_bos") is not None
        else None,
    )


def doubts(config: Mapping[str, Any], kind: str, found: Specification) -> tuple[str, ...]:
    """What is known to be wrong with files of this version."""
    stated = setting(config, "metadata.sae_lens_training_version", str, "")
    trained = version({"sae_lens_version": stated})
    remarks: list[str] = []
    head = _head(config)
    if head is not None:
        remarks.append(f"it reads head {head} alone, and no site here is of one head")
    if trained == (0, 0, 0) or found.threshold is None:
        return tuple(remarks)
    one = bool((found.threshold == found.threshold[0]).all())
    as_batch = "batchtopk" in setting(config, "metadata.training_architecture", str, kind)
    if (one or as_batch) and trained < (6, 54, 9):
        remarks.append(
            f"SAELens {stated} saved thresholds of BatchTopK off by the scale of activations where these "
            "were normalised by `expected_average_only_in`: compare its L0 with what was published"
        )
    elif trained < (6, 48, 0):
        remarks.append(
            f"SAELens {stated} barely moved thresholds of JumpReLU in training: compare its L0 with what "
            "was published"
        )
    return tuple(remarks)


def silent(files: Files) -> tuple[str, ...]:
    """How many latents never fired, where `sparsity.safetensors` says it."""
    if SPARSITY not in files:
        return ()
    found = files.tensors(SPARSITY, finite=False).get("sparsity")
    if found is None:
        return ()
    n = int((found.float() <= SILENT + 1e-3).sum())
    return (f"{n:,} of {found.numel():,} latents never fired in the last window of training",)


def _site(config: Mapping[str, Any], key: str, of_module: str, model: str) -> tuple[str, str]:
    """The site that a name of TransformerLens, or else a module path, is; empty where that is not sure."""
    name = setting(config, f"metadata.{key}", str, "")
    if hooks.SITE.fullmatch(name):
        return ("", "none") if _head(config) is not None else hooks.house(name, model)
    module = setting(config, f"metadata.{of_module}", str, "") or name
    path, _, end = module.rpartition(".")
    reads = end if end in ("input", "output") else "output"
    path = path if end == reads else module
    return hooks.of_module(path, reads=reads, post_norm=hooks.has_post_norm(model)), "none"


def _head(config: Mapping[str, Any]) -> object:
    return _metadata(config).get("hook_head_index")


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return setting(config, "metadata", dict, {})


def _processing(config: Mapping[str, Any], asked: str) -> str:
    """What the model was asked for, and what the name of the site asks for."""
    given = _metadata(config).get("model_from_pretrained_kwargs")
    kwargs = cast(Mapping[str, Any], given) if isinstance(given, Mapping) else {}
    wanted = {word for key, word in PROCESSED.items() if kwargs.get(key) is True} | {*steps(asked)}
    if asked == "unknown" and "layer_norm_folded" not in wanted:
        return "unknown"
    if not wanted:
        return "none" if isinstance(given, Mapping) else "unknown"
    return ", ".join(word for word in PROCESSED.values() if word in wanted)
