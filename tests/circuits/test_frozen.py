"""The frozen pass: the model's own values, linear in what it is cut at, prompts of a batch apart."""

import pytest
import torch

from monosem.circuits.frozen import frozen_pass
from monosem.core.errors import ConfigError

LAST = "ln_final.hook_normalized"
NEURONS = ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"]


@pytest.fixture
def rows():
    return torch.randint(3, 61, (3, 6), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_its_values_are_the_models_own(make, rows, name):
    model = make(name)
    read = [LAST, "blocks.1.hook_resid_pre", "blocks.0.mlp.hook_pre", "blocks.0.attn.hook_z"]
    frozen, plain = frozen_pass(model, rows, cut=NEURONS, read=read), model.capture(rows, read)
    for site in read:
        assert torch.allclose(frozen.seen[site], plain[site], rtol=1e-6, atol=1e-6)
    assert set(frozen.cuts) >= {"hook_embed", *NEURONS}


def test_what_it_is_cut_at_may_be_doubled_and_the_target_moves_by_the_gradient(make, rows):
    """A second pass with other embeddings, patterns and scales held at the first's, is where it said."""
    model = make("gpt2")
    frozen = frozen_pass(model, rows, cut=[], read=[LAST])
    weights = torch.randn(
        frozen.seen[LAST].shape, generator=torch.Generator().manual_seed(3)
    ).double()
    metric = (frozen.seen[LAST] * weights).sum()
    gradients, _ = frozen.gradients(metric)
    held = [s for s in model.sites() if s.endswith(("hook_pattern", "hook_scale"))]
    kept = model.capture(rows, held)
    post = model.capture(rows, NEURONS)
    pre = model.capture(rows, [s.replace("post", "pre") for s in NEURONS])
    moved = 0.01 * torch.randn(frozen.cuts["hook_embed"].shape).double()
    edits = {site: (lambda _, value=value: value) for site, value in kept.items()}
    edits["hook_embed"] = lambda x: x + moved
    seen = {}
    for site in NEURONS:  # neurons at the ratios of the first pass
        before = pre[site.replace("post", "pre")]
        edits[site.replace("post", "pre")] = lambda s, site=site: seen.setdefault(site, s)
        edits[site] = lambda _, site=site, r=post[site] / before: seen[site] * r
    with torch.no_grad(), model.replaced(edits):
        after = (model.capture(rows, [LAST])[LAST] * weights).sum()
    expected = metric + (gradients["hook_embed"] * moved).sum()
    assert float(after) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert abs(float(after) - float(metric.detach())) > 1e-6


def test_prompts_of_a_batch_are_apart(make, rows):
    model = make("gpt2")
    whole = frozen_pass(model, rows, cut=NEURONS, read=[LAST])
    gradients, biases = whole.gradients(whole.seen[LAST][:, -1].sum())
    for row in range(len(rows)):
        alone = frozen_pass(model, rows[row : row + 1], cut=NEURONS, read=[LAST])
        own, own_biases = alone.gradients(alone.seen[LAST][:, -1].sum())
        assert own.keys() == gradients.keys()
        for name, gradient in own.items():
            assert torch.allclose(gradient[0], gradients[name][row], rtol=1e-9, atol=1e-12)
        for name, gradient in own_biases.items():
            assert torch.allclose(gradient[0], biases[name][row], rtol=1e-9, atol=1e-12)


def test_it_stops_after_what_is_read_and_refuses_to_read_nothing(make, rows):
    model = make("gpt2")
    early = frozen_pass(model, rows, cut=NEURONS, read=["blocks.0.hook_resid_mid"])
    assert not set(early.cuts) & set(NEURONS)
    with pytest.raises(ConfigError, match="Nothing is to be read"):
        frozen_pass(model, rows, cut=NEURONS, read=[])
    metric = torch.zeros(())
    assert early.gradients(metric) == ({}, {})
