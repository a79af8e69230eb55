"""Baselines beside a dictionary: fitted to the training split, measured on the held-out one."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from monosem.core.errors import ConfigError, UnknownNameError
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many

SITE = "blocks.0.mlp.hook_post"
ALL = EvaluateConfig(
    n_loss_tokens=10**6,
    n_mean_tokens=10**6,
    n_density_tokens=1000,
    n_baseline_tokens=10**6,
    batch_tokens=256,
    matmul="fp32",
    baselines=("random", "pca"),
)


def rows(model, store, split) -> np.ndarray:
    """Neurons of all ordinary tokens, from the module itself."""
    taken = []
    hook = model.model.transformer.h[0].mlp.act.register_forward_hook(
        lambda _, __, out: taken.append(out)
    )
    tokens = store.tokens(list(store.contexts(split)))
    model.model(input_ids=torch.tensor(tokens))
    hook.remove()
    return taken[0].double().numpy()[store.ordinary(tokens)]


def test_principal_axes_explain_on_heldout_text_what_scikit_learns_do(dictionary, model, store):
    found = evaluate_many({"mine": dictionary}, model, store, ALL, site=SITE, neurons=False)
    assert list(found) == ["mine", "random", "pca"]
    k = found["pca"]["config"]["k"]
    assert k == found["random"]["config"]["k"] == round(found["mine"]["l0"])
    train, heldout = (rows(model, store, split) for split in ("train", "heldout"))
    theirs = PCA().fit(train)
    kept = theirs.transform(heldout)
    np.put_along_axis(kept, np.abs(kept).argsort(1)[:, :-k], 0.0, 1)
    left = np.square(heldout - theirs.inverse_transform(kept)).sum()
    expected = left / np.square(heldout - train.mean(0)).sum()
    assert found["pca"]["fvu"] == pytest.approx(expected, rel=1e-3)
    assert found["pca"]["fvu"] < found["random"]["fvu"] < 1.1  # about the mean, and no overshoot
    assert found["random"]["config"]["n_latents"] == dictionary.n_latents


def test_baselines_that_cannot_be_are_refused_before_anything_is_read(dictionary, model, store):
    with pytest.raises(UnknownNameError, match=r"baseline `pac`.*pca"):
        dataclasses.replace(ALL, baselines=("pac",))
    with pytest.raises(ConfigError, match="`n_baseline_tokens` must be at least 1, got 0"):
        dataclasses.replace(ALL, n_baseline_tokens=0)
    few = dataclasses.replace(ALL, n_baseline_tokens=20)
    with pytest.raises(ConfigError, match="20 activations are too few.*to 96 or more"):
        evaluate_many({"mine": dictionary}, model, store, few, site=SITE)
    with pytest.raises(ConfigError, match="`pca` is the name of a baseline"):
        evaluate_many({"pca": dictionary}, model, store, ALL, site=SITE)
