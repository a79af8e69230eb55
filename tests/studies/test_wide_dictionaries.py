"""The widest dictionaries of the first study: fewer activations, a lower rate, no early resampling."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from monosem.models.language_model import LanguageModel
from monosem.studies.towards_monosemanticity import setting as module
from monosem.studies.towards_monosemanticity.setting import SCALES, Setting
from monosem.text.tokens import TokenStore
from monosem.training.trainer import TrainConfig

SITE = "blocks.0.mlp.hook_post"


class Trained(Exception):  # noqa: N818
    """What would have been trained."""


@pytest.fixture
def asked(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A function from a scale and a width to the run that would be made."""

    def note(config: TrainConfig, *_: Any, **__: Any) -> Any:
        raise Trained(config)

    monkeypatch.setattr(module, "trained", note)

    def of(scale: module.Scale, ratio: int) -> TrainConfig:
        setting = Setting(scale, model, store, SITE, tmp_path)
        with pytest.raises(Trained) as said:
            setting._trained(model, ratio)
        return said.value.args[0]

    return of


def test_the_dead_are_resampled_where_the_living_had_time_to_fire(asked: Any) -> None:
    """A window is an eightieth of the run; a latent fires in 16 of n tokens, and is to fire ten times."""
    small = dataclasses.replace(SCALES["tiny"], n_tokens=800 * 12, n_widest=800 * 12)
    enough = small.n_tokens / 80 * 16 / 10  # latents up to which it is ten times
    width = asked(small, 1).dictionaries[0].n_latents
    assert asked(small, int(enough // width)).dictionaries[0].resample_at
    wider = asked(small, int(enough // width) + 1).dictionaries[0]
    assert wider.resample_at == () and wider.n_latents > enough


def test_at_small_all_widths_of_the_scale_are_resampled_and_the_two_beyond_are_not(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "width", lambda _: 512)
    for name, not_resampled in (("tiny", []), ("small", [64, 256]), ("paper", [])):
        scale = module.sizes(name, (1, 2, 8, 32, 64, 256) if name == "small" else ())
        setting = Setting(scale, model, store, SITE, tmp_path)
        assert [r for r in scale.ratios if not setting.resamples(r)] == not_resampled


def test_beyond_what_a_scale_has_runs_are_shorter_and_slower(asked: Any) -> None:
    small = SCALES["small"]
    inside, beyond = asked(small, module.WIDE), asked(small, 2 * module.WIDE)
    assert (inside.n_tokens, inside.optim.lr) == (small.n_widest, small.lr)
    assert (beyond.n_tokens, beyond.optim.lr) == (small.n_beyond, small.lr_beyond)
