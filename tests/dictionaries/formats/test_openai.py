"""openai: a layer's file computes what the library's own formulas say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosem.core.errors import ArtifactKindError
from monosem.dictionaries.formats import openai
from monosem.dictionaries.formats.loading import specification

D, F, K = 6, 12, 3


def contents_of(draw: Any, kind: str, postact: str = "ReLU") -> dict[str, Any]:
    tensors = {
        "pre_bias": draw(D),
        "encoder.weight": draw(F, D),
        "latent_bias": draw(F),
        "decoder.weight": draw(D, F),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
    }
    state = {"activation_state_dict": {"k": K, "postact_fn": postact}} if kind == "TopK" else {}
    return tensors | {"activation": kind} | state


def golden(contents: dict[str, Any], x: Any) -> Any:
    t = {name: contents[name].double().numpy() for name in openai.TENSORS}
    mean, spread = np.zeros((len(x), 1)), np.ones((len(x), 1))
    if contents["activation"] == "TopK":
        mean = x.mean(1, keepdims=True)
        centred = x - mean
        spread = np.sqrt((centred**2).sum(1, keepdims=True) / (D - 1))
        x = centred / (spread + 1e-5)
    f = np.einsum("fd,bd->bf", t["encoder.weight"], x - t["pre_bias"]) + t["latent_bias"]
    if contents["activation"] == "TopK":
        f = f * (f >= np.sort(f, axis=1)[:, -K][:, None])
    f = np.maximum(f, 0)
    return f, (np.einsum("df,bf->bd", t["decoder.weight"], f) + t["pre_bias"]) * spread + mean


@pytest.mark.parametrize("kind", ["TopK", "ReLU"])
def test_a_layer_computes_what_the_library_computes(
    kind: str, draw: Any, x: Any, canonical: Any, same: Any, tmp_path: Path
) -> None:
    contents = contents_of(draw, kind)
    file = tmp_path / "resid_post_mlp_v5_32k/autoencoders/6.pt"
    file.parent.mkdir(parents=True)
    torch.save(contents, file)
    s = specification(file)
    assert (s.source, s.place.site) == ("openai", "blocks.6.hook_resid_post")
    same(canonical(s, x), golden(contents, x))


def test_a_file_of_the_hubs_cache_is_a_link_and_keeps_its_site(draw: Any, tmp_path: Path) -> None:
    file = tmp_path / "resid_post_mlp/autoencoders/6.pt"
    file.parent.mkdir(parents=True)
    torch.save(contents_of(draw, "ReLU"), tmp_path / "f00")
    file.symlink_to(tmp_path / "f00")
    assert specification(file).place.site == "blocks.6.hook_resid_post"


@pytest.mark.parametrize(("kind", "postact"), [("Identity", "ReLU"), ("TopK", "Identity")])
def test_latents_that_may_be_negative_are_refused(kind: str, postact: str, draw: Any) -> None:
    with pytest.raises(ArtifactKindError, match="may be negative"):
        openai.read(contents_of(draw, kind, postact))
