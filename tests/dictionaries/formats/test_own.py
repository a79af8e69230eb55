"""Our own layout: settings that cannot be, and versions to come."""

import json
from pathlib import Path
from typing import Any

import pytest

import monosem
from monosem.core.errors import ArtifactKindError, MonosemError


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("dictionary.n_latents", "many", r"`TopKConfig\.n_latents` is \"many\".*whole number"),
        ("dictionary.n_latents", -4, "`n_latents` must be at least 1, got -4"),
        ("dictionary.d_in", None, r"`TopKConfig\.d_in` is null"),
        ("dictionary.k", 10_000, "`k` must be in 1..n_latents"),
        ("dictionary.architecture", "topp", "`topp`.*Did you mean `topk`"),
        ("dictionary.wiring", {"kind": "star"}, r"`Wiring\.kind` is \"star\".*`sae`, `transcoder`"),
        ("dictionary.wiring", {"widths_in": [-1, 9]}, "at least one column"),
        ("dictionary", [], "`dictionary` that is .*settings by name"),
        ("conventions", None, "`conventions` that is None"),
        ("conventions.input_scale", -1.0, "`input_scale` must be positive"),
        ("conventions.folded", "yes", r"`Conventions\.folded` is \"yes\".*true or false"),
        ("context", -5, "`context` must be at least 0"),
        ("site", 7, r"`Origin\.site` is 7.*a text"),
        ("metrics", {"fvu": None}, r"`Origin\.metrics\.fvu` is null"),
        ("kind_of_site", "resid", "`Origin` has no field `kind_of_site`"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_value(
    path: str, value: object, says: str, build: Any, tmp_path: Path
) -> None:
    build("topk").save(tmp_path / "own", site="hook_embed")
    file = tmp_path / "own" / "config.json"
    record = json.loads(file.read_text())
    *outer, last = path.split(".")
    part = record["config"]
    for key in outer:
        part = part[key]
    part[last] = value
    file.write_text(json.dumps(record))
    with pytest.raises(MonosemError, match=says):
        monosem.load(tmp_path / "own")


def test_a_later_version_of_our_own_layout_is_refused(build: Any, tmp_path: Path) -> None:
    build("topk").save(tmp_path / "own", site="hook_embed")
    file = tmp_path / "own" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with pytest.raises(ArtifactKindError, match="has format 2; this version reads format 1"):
        monosem.load(tmp_path / "own")
