"""The first study's figure of explanations by tokens: what it says is what the measure says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem.metrics.sample import Sample, read_text
from monosem.metrics.token_explanations import token_explanations
from monosem.models.language_model import LanguageModel
from monosem.rendering.visible import visible
from monosem.studies.towards_monosemanticity.explanations import N_SHOWN, explanations
from monosem.studies.towards_monosemanticity.setting import SCALES, Setting
from monosem.text.tokens import TokenStore

SITE = "blocks.0.mlp.hook_post"


def test_latents_stand_beside_neurons_with_their_chance_and_a_few_are_shown(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents of one token each beside neurons that are noise."""
    text = read_text(store, np.asarray(store.contexts("heldout")[:40]))
    tokens = text.at(text.tokens)
    common = np.bincount(tokens).argsort()[::-1][:6]
    latents = csr_array(np.stack([tokens == t for t in common], 1).astype(np.float32))
    noise = np.random.default_rng(0).random((len(tokens), 5)).astype(np.float32)
    made = Sample(text, torch.zeros(len(tokens), 2), latents)
    basis = Sample(text, made.x, csr_array(noise))
    setting = Setting(SCALES["tiny"], model, store, SITE, tmp_path, seed=2)
    monkeypatch.setitem(vars(setting), "sample", made)
    monkeypatch.setitem(vars(setting), "basis", basis)
    figure = explanations(setting)
    ours, theirs, *shown = figure.items
    wanted = [token_explanations(s, store.vocab_size, seed=2) for s in (made, basis)]
    assert [ours.here, theirs.here] == [f"{wanted[0].score} of 6", f"{wanted[1].score} of 5"]
    assert str(ours.here).startswith("1 [1, 1] (chance -0.")
    assert abs(float(str(theirs.here).split()[0])) < 0.2
    assert len(shown) == 4 and len(figure.drawings) == 1
    for item in shown:
        latent = int(item.item.split()[1].rstrip(","))
        assert item.here == pytest.approx(1.0)
        token = visible(str(store.tokenizer.decode([int(common[latent])])))
        assert f": “{token}”" in item.item and item.item.count("“") <= N_SHOWN


def test_where_nothing_can_be_scored_there_is_no_drawing(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = read_text(store, np.asarray(store.contexts("heldout")[:4]))
    nothing = Sample(text, torch.zeros(1, 2), csr_array((len(text.context_of), 3), dtype=float))
    setting = Setting(SCALES["tiny"], model, store, SITE, tmp_path)
    for name in ("sample", "basis"):
        monkeypatch.setitem(vars(setting), name, nothing)
    figure = explanations(setting)
    assert not figure.drawings and not figure.captions and len(figure.items) == 2
    assert "not applicable" in str(figure.items[0].here)
