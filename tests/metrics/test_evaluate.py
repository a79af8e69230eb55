"""Every measure of an evaluation, once more by hand: plain loops over `transformers`' own forward."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from monosem.core.errors import ConfigError, ShapeMismatchError, UnknownNameError
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.dictionaries.saving import Origin
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.metrics.evaluate import (
    EvaluateConfig,
    evaluate,
    evaluate_many,
)
from monosem.metrics.firing import Firing
from monosem.metrics.stream import visit

SITE = "blocks.0.mlp.hook_post"
SMALL = EvaluateConfig(
    n_loss_tokens=300, n_mean_tokens=900, n_density_tokens=2000, batch_tokens=64, matmul="fp32"
)


@pytest.fixture(scope="module")
def found(dictionary, model, store):
    return evaluate(dictionary, model, store, SMALL, site=SITE)


def activations(model, tokens):
    """Neurons of the first layer, [pos d_mlp], from the modules themselves."""
    taken = []
    act = model.model.transformer.h[0].mlp.act
    hook = act.register_forward_hook(lambda _, __, out: taken.append(out[0]))
    model.model(input_ids=torch.tensor(tokens)[None])
    hook.remove()
    return taken[0].double().numpy()


def losses(model, tokens, replacement=None):
    """Loss of each position's prediction of the next, with `replacement` for the neurons."""
    act = model.model.transformer.h[0].mlp.act
    hook = act.register_forward_hook(
        lambda _, __, out: None if replacement is None else torch.tensor(replacement)[None].to(out)
    )
    logits = model.model(input_ids=torch.tensor(tokens)[None]).logits[0].double().numpy()
    hook.remove()
    return [
        math.log(np.exp(logits[t]).sum()) - logits[t][tokens[t + 1]] for t in range(len(tokens) - 1)
    ]


def encode(dictionary, x):
    """The k largest pre-activations, those under zero put at zero."""
    W_enc, b_enc, b_dec = (
        getattr(dictionary, n).detach().double().numpy() for n in ("W_enc", "b_enc", "b_dec")
    )
    pre = (x - b_dec) @ W_enc + b_enc
    latents = np.zeros(len(pre))
    for j in np.argsort(pre)[::-1][: dictionary.config.k]:
        latents[j] = max(pre[j], 0)
    return latents


def decode(dictionary, latents):
    return latents @ dictionary.W_dec.detach().double().numpy() + dictionary.b_dec.numpy()


@pytest.fixture(scope="module")
def by_hand(dictionary, model, store):
    """The measures of the first 20 held-out contexts, a token at a time."""
    is_ordinary = lambda tokens: [t > 0 and tokens[t] > 1 for t in range(len(tokens))]  # noqa: E731
    mean, n = np.zeros(24), 0
    for c in visit(store, "train", 0)[:60]:
        tokens = store.tokens([c])[0]
        x = activations(model, tokens)
        for t, ordinary in enumerate(is_ordinary(tokens)):
            if ordinary:
                mean, n = mean + x[t], n + 1
    mean = mean / n
    sums = dict.fromkeys(("variance", "active", "n", "cos", "ratio", "xh2", "xhx"), 0.0)
    errors, special = [], [0.0, 0.0]
    runs = {"original": [], "spliced": [], "zero": [], "mean": []}
    for c in visit(store, "heldout", 0)[:20]:
        tokens = store.tokens([c])[0]
        ordinary = is_ordinary(tokens)
        x = activations(model, tokens)
        values = {"original": x, "spliced": x.copy(), "zero": x.copy(), "mean": x.copy()}
        for t in range(len(tokens)):
            latents = encode(dictionary, x[t])
            x_hat = decode(dictionary, latents)
            error, variance = ((x[t] - x_hat) ** 2).sum(), ((x[t] - mean) ** 2).sum()
            if not ordinary[t]:
                special = [special[0] + error, special[1] + variance]
                continue
            errors.append(error)
            sums["variance"] += variance
            sums["active"] += (latents > 0).sum()
            sums["n"] += 1
            norm, norm_hat = np.linalg.norm(x[t]), np.linalg.norm(x_hat)
            sums["cos"] += x[t] @ x_hat / (norm * norm_hat)
            sums["ratio"] += norm_hat / norm
            sums["xh2"] += x_hat @ x_hat
            sums["xhx"] += x_hat @ x[t]
            values["spliced"][t], values["zero"][t], values["mean"][t] = x_hat, 0, mean
        for name, value in values.items():
            all_losses = losses(model, tokens, value)
            runs[name] += [all_losses[t] for t in range(len(tokens) - 1) if ordinary[t + 1]]
    loss = {name: np.mean(values) for name, values in runs.items()}
    delta, gap = loss["spliced"] - loss["original"], loss["zero"] - loss["original"]
    return {
        "fvu": sum(errors) / sums["variance"],
        "fvu_p99": np.percentile(errors, 99) / (sums["variance"] / sums["n"]),
        "fvu_special": special[0] / special[1],
        "l0": sums["active"] / sums["n"],
        "cosine": sums["cos"] / sums["n"],
        "l2_ratio": sums["ratio"] / sums["n"],
        "relative_reconstruction_bias": sums["xh2"] / sums["xhx"],
        "loss": loss["original"],
        "delta_ce": delta,
        "gap_zero": gap,
        "gap_mean": loss["mean"] - loss["original"],
        "loss_recovered_zero": 1 - delta / gap,
        "n_loss_tokens": len(runs["original"]),
    }


def test_every_held_out_measure_equals_the_one_done_by_hand(found, by_hand):
    assert by_hand["gap_zero"] > 0.05  # or the comparison of the ratio would be void
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand, rel=2e-4, abs=2e-6)


def test_density_equals_firings_counted_by_hand(dictionary, model, store):
    n_train = int(store.ordinary(store.tokens(store.contexts("train"))).sum())
    config = EvaluateConfig(
        n_loss_tokens=300, n_mean_tokens=900, n_density_tokens=n_train + 500, matmul="fp32"
    )
    found = evaluate(dictionary, model, store, config, site=SITE)
    fired, shares = np.zeros(40, int), {"train": 0, "heldout": 0}
    for split in shares:
        for c in visit(store, split, 0):
            tokens = store.tokens([c])[0]
            x = activations(model, tokens)
            if sum(shares.values()) >= n_train + 500:  # whole contexts, so a few tokens more
                continue
            for t in range(1, len(tokens)):
                if tokens[t] > 1:
                    fired += encode(dictionary, x[t]) > 0
                    shares[split] += 1
    n = sum(shares.values())
    assert found["n_density_tokens"] == n
    assert found["density_tokens"] == shares
    assert 500 <= shares["heldout"] < 500 + store.context
    assert found["ultralow_below"] == 10 / n
    assert found["n_dead"] == (fired == 0).sum()
    assert found["n_ultralow"] == ((fired > 0) & (fired / n < 10 / n)).sum()
    assert found["n_frequent"] == (fired / n > 0.01).sum()
    assert sum(found["density_histogram"]["n_latents"]) == 40 - found["n_dead"]


def test_a_window_longer_than_the_store_counts_no_token_twice(dictionary, model, store):
    config = EvaluateConfig(n_loss_tokens=50, n_mean_tokens=50, n_density_tokens=10**9)
    found = evaluate(dictionary, model, store, config, site=SITE)
    everything = store.ordinary(store.tokens(range(240))).sum()
    assert found["n_density_tokens"] == everything


def test_batches_of_any_size_give_the_same_measures(found, dictionary, model, store):
    config = EvaluateConfig(
        n_loss_tokens=300, n_mean_tokens=900, n_density_tokens=2000, batch_tokens=100_000
    )
    other = evaluate(dictionary, model, store, config, site=SITE)
    numbers = {k: v for k, v in found.items() if isinstance(v, float)}
    assert {k: other[k] for k in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    assert other["n_dead"] == found["n_dead"]


def test_intervals_are_those_of_drawing_contexts_anew(found, dictionary, model, store, drawn_anew):
    tokens = torch.from_numpy(store.tokens(visit(store, "heldout", 0)[:20]))
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))[..., None]
    x, mean = model.capture(tokens, [SITE])[SITE], mean_of(model, store)
    made = {"spliced": dictionary(x), "zero": torch.zeros_like(x), "mean": mean.expand_as(x)}
    targets = ordinary[:, 1:, 0].numpy()
    original = np.where(targets, model.losses(tokens).double().numpy(), 0)
    rise = {}
    for run, value in made.items():
        with model.replaced({SITE: lambda old, v=value: torch.where(ordinary, v, old)}):
            losses = model.losses(tokens).double().numpy()
        rise[run] = np.where(targets, losses - original, 0).sum(1)
    error = np.where(ordinary[..., 0], (x - made["spliced"]).double().square().sum(-1), 0).sum(1)
    variance = np.where(ordinary[..., 0], (x - mean).double().square().sum(-1), 0).sum(1)
    loss, n = original.sum(1), targets.sum(1)
    by_hand = {
        "fvu": lambda i: error[i].sum() / variance[i].sum(),
        "loss": lambda i: loss[i].sum() / n[i].sum(),
        "delta_ce": lambda i: rise["spliced"][i].sum() / n[i].sum(),
        "gap_zero": lambda i: rise["zero"][i].sum() / n[i].sum(),
        "gap_mean": lambda i: rise["mean"][i].sum() / n[i].sum(),
        "loss_recovered_zero": lambda i: 1 - rise["spliced"][i].sum() / rise["zero"][i].sum(),
        "loss_recovered_mean": lambda i: 1 - rise["spliced"][i].sum() / rise["mean"][i].sum(),
    }
    assert set(found["intervals"]) == set(by_hand)
    for name, statistic in by_hand.items():
        assert statistic(np.arange(20)) == pytest.approx(found[name], rel=1e-4), name
        assert tuple(found["intervals"][name]) == drawn_anew(statistic, np.arange(20), within=0.5)


def test_a_figure_that_is_void_has_no_interval(dictionary, model, store):
    deaf = copy.deepcopy(model.model)
    with torch.no_grad():
        deaf.transformer.h[0].mlp.c_proj.weight.zero_()
    found = evaluate(dictionary, type(model)(deaf, name="deaf"), store, SMALL, site=SITE)
    assert set(found["intervals"]) == {"fvu", "loss", "delta_ce", "gap_zero", "gap_mean"}
    assert found["intervals"]["delta_ce"] == [0, 0]


def fixed(vector):
    """A dictionary that reconstructs the same vector whatever it reads; nothing is registered."""
    dictionary = Neurons.of_width(len(vector))
    dictionary.decode = lambda latents: vector.expand(len(latents), -1)
    return dictionary


def test_the_identity_explains_and_recovers_everything(model, store):
    identity = Neurons.of_width(24)  # after a ReLU, all positive coordinates are all there is
    found = evaluate(identity, model, store, SMALL, site=SITE)
    assert found["fvu"] == found["fvu_special"] == found["delta_ce"] == 0
    assert found["loss_recovered_zero"] == 1
    assert found["cosine"] == pytest.approx(1)
    assert found["relative_reconstruction_bias"] == pytest.approx(1)


def test_a_dictionary_of_zeros_recovers_nothing_of_the_zero_ablation(model, store):
    found = evaluate(fixed(torch.zeros(24)), model, store, SMALL, site=SITE)
    assert found["delta_ce"] == pytest.approx(found["gap_zero"])
    assert found["loss_recovered_zero"] == pytest.approx(0, abs=1e-6)
    assert found["fvu"] > 1
    assert found["relative_reconstruction_bias"] is None
    assert found["void"]["relative_reconstruction_bias"] == "not finite (nan)"


def test_a_dictionary_of_the_mean_recovers_nothing_of_the_mean_ablation(model, store):
    place_mean = mean_of(model, store)
    found = evaluate(fixed(place_mean), model, store, SMALL, site=SITE)
    assert found["gap_mean"] > 0.05
    assert found["loss_recovered_mean"] == pytest.approx(0, abs=1e-5)
    assert found["fvu"] == pytest.approx(1, abs=0.05)  # training mean, held-out text


def mean_of(model, store):
    from monosem.metrics.stream import Place, ordinary_mean

    return ordinary_mean(Place(model, store, SITE), 900, 0, 64).float()


def test_a_site_that_does_not_matter_makes_the_shares_void(dictionary, store, model):
    import copy

    deaf = copy.deepcopy(model.model)
    with torch.no_grad():
        deaf.transformer.h[0].mlp.c_proj.weight.zero_()
    found = evaluate(dictionary, type(model)(deaf, name="deaf"), store, SMALL, site=SITE)
    assert found["gap_zero"] == found["gap_mean"] == found["delta_ce"] == 0
    assert found["loss_recovered_zero"] is found["loss_recovered_mean"] is None
    assert found["void"] == {
        "loss_recovered_zero": "gap 0 nats < 0.05 nats",
        "loss_recovered_mean": "gap 0 nats < 0.05 nats",
    }


def test_many_dictionaries_share_a_pass_and_keep_their_measures(found, dictionary, model, store):
    relu = ReLU(ReLUConfig(d_in=24, n_latents=30))
    many = evaluate_many({"topk": dictionary, "relu": relu}, model, store, SMALL, site=SITE)
    assert list(many) == ["topk", "relu", "neurons", "neurons_all"]
    assert many["topk"] == found
    assert many["relu"] == evaluate(relu, model, store, SMALL, site=SITE)
    json.dumps(many, allow_nan=False)


def test_the_neuron_basis_has_the_first_dictionarys_l0(found, dictionary, model, store):
    many = evaluate_many({"topk": dictionary}, model, store, SMALL, site=SITE)
    assert many["neurons"]["config"]["k"] == round(found["l0"])
    assert "fvu" not in many["neurons_all"]
    assert many["neurons_all"]["n_latents"] == 24


def test_a_dictionary_with_more_latents_on_than_there_are_neurons_is_measured(model, store):
    dense = ReLU(ReLUConfig(d_in=24, n_latents=200))
    many = evaluate_many({"relu": dense}, model, store, SMALL, site=SITE)
    assert many["relu"]["l0"] > 24
    assert many["neurons"]["config"]["k"] == 24


def test_firings_counted_by_another_pass_are_taken_as_they_are(dictionary, model, store):
    counts = torch.tensor([0, 3] + [700] * 38)
    known = Firing(n_fired=counts, n_tokens={"train": 1000}, matmul="bf16")
    many = evaluate_many(
        {"topk": dictionary}, model, store, SMALL, site=SITE, firing={"topk": known}
    )
    topk = many["topk"]
    assert (topk["n_dead"], topk["n_ultralow"], topk["n_density_tokens"]) == (1, 1, 1000)
    assert 2000 <= many["neurons"]["n_density_tokens"] < 2000 + store.context
    assert [many[n]["density_matmul"] for n in ("topk", "neurons")] == ["bf16", "fp32"]


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z"])
def test_sites_of_other_shapes_are_measured_too(site, model, store):
    dictionary = TopK(TopKConfig(d_in=16, n_latents=32, k=4))
    found = evaluate(dictionary, model, store, SMALL, site=site)
    assert found["site"] == site
    assert 0 < found["fvu"] < 3


def test_a_site_may_be_written_without_its_hook(found, dictionary, model, store):
    written = evaluate(dictionary, model, store, SMALL, site="blocks.0.mlp.post")
    assert written == found
    short = copy.deepcopy(dictionary)
    short.origin = Origin(site="blocks.0.mlp.post", target="blocks.0.mlp.post")
    assert evaluate(short, model, store, SMALL, site=SITE) == found


def test_the_caller_is_left_as_it_was(dictionary, model, store):
    before = model.losses(torch.tensor(store.tokens([3])))
    rows = dictionary.W_dec.clone()
    evaluate(dictionary, model, store, SMALL, site=SITE)
    assert torch.equal(model.losses(torch.tensor(store.tokens([3]))), before)
    assert torch.equal(dictionary.W_dec, rows)


def test_what_does_not_fit_is_refused_before_any_work(dictionary, model, store, monkeypatch):
    monkeypatch.setattr(type(store), "tokens", None)  # reading a token would raise another error
    other = TopK(TopKConfig(d_in=16, n_latents=32, k=4))
    with pytest.raises(ShapeMismatchError, match=r"`dictionary` reads width 16; .* has 24"):
        evaluate(other, model, store, SMALL, site=SITE)
    with pytest.raises(ConfigError, match="does not record its site"):
        evaluate(dictionary, model, store, SMALL)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        evaluate(dictionary, model, store, SMALL, site="blocks.0.mlp.hook_pots")
    with pytest.raises(ConfigError, match="no width"):
        evaluate(dictionary, model, store, SMALL, site="blocks.0.attn.hook_pattern")
    with pytest.raises(ConfigError, match="name of the neuron basis"):
        evaluate_many({"neurons": dictionary}, model, store, SMALL, site=SITE)
    with pytest.raises(ConfigError, match="Pass at least one"):
        evaluate_many({}, model, store, SMALL, site=SITE)
    with pytest.raises(ConfigError, match="`n_loss_tokens` must be at least 1"):
        EvaluateConfig(n_loss_tokens=0)
