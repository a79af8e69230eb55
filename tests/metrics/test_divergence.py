import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from monosem.dictionaries.baselines import Neurons
from monosem.metrics.divergence import divergence, kl
from monosem.metrics.stream import Place, ordinary_mean

SITE = "blocks.0.mlp.hook_post"


def measured(dictionary, model, store, mean=None):
    place = Place(model, store, SITE)
    mean = ordinary_mean(place, 10**6, 0, 4096) if mean is None else mean
    return divergence(dictionary, place, mean, np.array(store.contexts("heldout")), batch=100)


def test_it_is_scipys_relative_entropy():
    logits, others = torch.randn(2, 5, 7) * 3 + 4
    theirs = rel_entr(softmax(logits.numpy(), -1), softmax(others.numpy(), -1)).sum(-1)
    np.testing.assert_allclose(kl(logits, others), theirs, rtol=1e-4)
    masked = torch.tensor([0.0, -torch.inf])
    assert float(kl(masked, masked + 1)) == 0  # what is impossible in both says nothing
    assert float(kl(logits, logits + 3).abs().max()) < 1e-5


def test_runs_are_those_of_the_model_with_its_module_replaced(dictionary, model, store):
    found = measured(dictionary, model, store)
    tokens = torch.from_numpy(store.tokens(list(store.contexts("heldout"))))
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))
    act = model.model.transformer.h[0].mlp.act

    def logits(change=None):
        def hook(_, __, out):
            return torch.where(ordinary[..., None], change(out), out) if change else out

        handle = act.register_forward_hook(hook)
        try:
            return model.model(input_ids=tokens).logits[:, :-1]
        finally:
            handle.remove()

    def expected(change):
        rows = ordinary[:, 1:]
        p, q = (softmax(x[rows].double().numpy(), -1) for x in (logits(), logits(change)))
        return rel_entr(p, q).sum(-1).mean()

    assert found["kl"].value == pytest.approx(expected(dictionary), rel=1e-3)
    assert found["kl_zero"].value == pytest.approx(expected(torch.zeros_like), rel=1e-3)
    mean = torch.linspace(-0.5, 1.0, 24, dtype=torch.float64)  # whatever is said to be the mean
    about = measured(dictionary, model, store, mean=mean)
    ablated = expected(lambda out: mean.to(out).expand_as(out))
    assert about["kl_mean"].value == pytest.approx(ablated, rel=1e-3)
    for name, by in (("zero", expected(torch.zeros_like)), ("mean", ablated)):
        share = 1 - expected(dictionary) / by
        assert about[f"kl_recovered_{name}"].value == pytest.approx(share, rel=1e-3)
    assert found["kl"].low < found["kl"].value < found["kl"].high and found["kl"].n == 40


def test_what_changes_nothing_diverges_nowhere_and_recovers_all(model, store):
    found = measured(Neurons.of_width(24), model, store)
    assert abs(found["kl"].value) < 1e-6
    assert found["kl_recovered_mean"].value == pytest.approx(1, abs=1e-5)


def test_a_share_of_an_ablation_that_moves_nothing_is_void(dictionary, model, store):
    place = Place(model, store, "blocks.1.mlp.hook_post")
    with torch.no_grad():
        weight = model.model.transformer.h[1].mlp.c_proj.weight
        kept = weight.clone()
        weight.mul_(1e-4)
        try:
            contexts = np.array(store.contexts("heldout"))
            found = divergence(dictionary, place, torch.zeros(24, dtype=torch.float64), contexts)
        finally:
            weight.copy_(kept)
    assert "nats < 0.05 nats" in found["kl_recovered_zero"].void


def test_intervals_draw_contexts_and_shares_pair_them(dictionary, model, store, jackknife):
    found = measured(dictionary, model, store)
    tokens = torch.from_numpy(store.tokens(list(store.contexts("heldout"))))
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))[..., None]
    x = model.capture(tokens, [SITE])[SITE]
    logits = model.logits(tokens)[:, :-1]
    moved = {}
    for name, value in (("kl", dictionary(x)), ("zero", torch.zeros_like(x))):
        with model.replaced({SITE: lambda old, v=value: torch.where(ordinary, v, old)}):
            p, q = (softmax(z.double().numpy(), -1) for z in (logits, model.logits(tokens)[:, :-1]))
        moved[name] = np.where(ordinary[:, 1:, 0], rel_entr(p, q).sum(-1), 0).sum(1)
    n, each = ordinary[:, 1:, 0].sum(1).numpy(), np.arange(len(tokens))
    own, gap = moved["kl"], moved["zero"]
    ends = jackknife(lambda i: own[i].sum() / n[i].sum(), each)
    assert (found["kl"].low, found["kl"].high) == ends
    share = found["kl_recovered_zero"]
    assert (share.low, share.high) == jackknife(lambda i: 1 - own[i].sum() / gap[i].sum(), each)
