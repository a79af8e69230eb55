"""Training runs of transcoders, crosscoders and cross-layer transcoders: sites, scales, resume, measures."""

import dataclasses
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monosem.activations.capture import CaptureSource
from monosem.core.errors import ConfigError
from monosem.dictionaries.topk import TopKConfig
from monosem.dictionaries.wiring import Wiring
from monosem.editing.interventions import splice
from monosem.features.build import FeaturesConfig, build_features
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.metrics.reconstruction import fvu
from monosem.training.learner import Learner
from monosem.training.trainer import TrainConfig, train

IN = ("blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized")
OUT = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
STREAM = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
TOPK = TopKConfig(n_latents=48, k=4)
CLT = dataclasses.replace(TOPK, wiring=Wiring(kind="clt"))
SKIP = dataclasses.replace(TOPK, wiring=Wiring(kind="transcoder", skip=True))
BASE = TrainConfig(
    site=IN[0],
    target=OUT[0],
    dictionaries=(TOPK, SKIP),
    n_tokens=128 * 30,
    batch_size=128,
    buffer_tokens=1024,
    matmul="fp32",
    log_every=5,
)
RUNS = {
    "transcoder": BASE,
    "crosscoder": dataclasses.replace(
        BASE, site=", ".join(STREAM), target="", dictionaries=(TOPK,)
    ),
    "clt": dataclasses.replace(
        BASE, site=", ".join(IN), target=", ".join(OUT), dictionaries=(CLT,)
    ),
}
FEW = EvaluateConfig(
    n_loss_tokens=600, n_mean_tokens=600, n_density_tokens=1500, batch_tokens=512, matmul="fp32"
)


@pytest.fixture(scope="module")
def runs(deep, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(config, deep, store, folder / name) for name, config in RUNS.items()}


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_wired_run_leaves_dictionaries_for_raw_activations_of_all_its_sites(
    kind: str, runs, deep, store
) -> None:
    run, config = runs[kind], RUNS[kind]
    source = CaptureSource(
        deep, store, config.sites, config.targets or None, batch_size=128, buffer_tokens=1024
    )
    sample = source.sample(600)
    for name in run:
        dictionary = run[name]
        assert dictionary.wiring.kind == kind
        assert dictionary.sites_in == config.sites
        assert dictionary.sites_out == (config.targets or config.sites)
        with torch.no_grad():
            made = dictionary(sample.x)
        for columns, site in zip(
            dictionary.wiring.columns_out(dictionary.d_out), dictionary.sites_out, strict=True
        ):
            left = fvu(sample.target[:, columns], made[:, columns])
            assert left < 0.98, (name, site, left)
        assert fvu(sample.target, made) < 0.9


def test_input_and_target_have_scales_of_their_own(runs) -> None:
    conventions = runs["transcoder"]["topk"].conventions
    (read,), (written,) = conventions.input_scales, conventions.output_scales
    assert written < 0.5 * read
    assert len(set(runs["clt"].summary["output_scale"])) == 2


def test_a_skip_stands_beside_none_in_one_run(runs) -> None:
    run = runs["transcoder"]
    assert set(run.names) == {"topk", "topk-skip"}
    assert run["topk-skip"].W_skip.abs().amax() > 0


@pytest.mark.parametrize("kind", list(RUNS))
def test_an_interrupted_wired_run_goes_on_to_the_same_weights(
    kind: str, runs, deep, store, tmp_path: Path, monkeypatch
) -> None:
    original, calls = Learner.learn, []

    def learn(self, batch):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(Learner, "learn", learn)
    with pytest.raises(KeyboardInterrupt):
        train(RUNS[kind], deep, store, tmp_path / "run", checkpoint_seconds=0.0)
    monkeypatch.setattr(Learner, "learn", original)
    again = train(RUNS[kind], deep, store, tmp_path / "run", checkpoint_seconds=0.0)
    for name in again:
        found = load_file(again.folder(name) / "weights.safetensors")
        for key, value in load_file(runs[kind].folder(name) / "weights.safetensors").items():
            assert torch.equal(found[key], value), (name, key)


@pytest.mark.parametrize("kind", list(RUNS))
def test_wired_dictionaries_are_measured_and_described(
    kind: str, runs, deep, store, tmp_path: Path
) -> None:
    run, config = runs[kind], RUNS[kind]
    name = run.names[0]
    measured = evaluate_many({name: run[name]}, deep, store, FEW)
    assert set(measured) == {name}, "there is no neuron basis"
    row = measured[name]
    sites = config.targets or config.sites
    assert row.get("target", "") == ", ".join(config.targets)
    assert 0 < row["fvu"] < 1
    assert row["l0"] <= 4
    if len(sites) > 1:
        assert set(row["fvu_by_site"]) == set(sites)
    assert row["delta_ce"] is not None
    database = build_features(
        run[name], deep, store, tmp_path / "features", FeaturesConfig(n_tokens=1500, matmul="fp32")
    )
    assert len(database) == 48
    assert database[0]._repr_html_()


def test_reconstructions_of_a_transcoder_are_put_where_it_writes(runs, deep, store) -> None:
    """Its cost is recomputed by hand: its output in place of the MLP's, at ordinary positions."""
    dictionary = runs["transcoder"]["topk-skip"]
    row = evaluate_many({"it": dictionary}, deep, store, FEW)["it"]
    total, n, original = 0.0, 0, 0.0
    from monosem.metrics import stream

    contexts = stream.first(stream.visit(store, "heldout", 0), store, FEW.n_loss_tokens)
    for context in contexts.tolist():
        tokens = torch.from_numpy(store.tokens([context]))
        ordinary = torch.from_numpy(store.ordinary(store.tokens([context])))
        x = deep.capture(tokens, [IN[0]])[IN[0]]

        def put(old, x=x, ordinary=ordinary):
            return torch.where(ordinary[..., None], dictionary(x), old)

        with torch.no_grad():
            original += float(deep.losses(tokens)[ordinary[:, 1:]].sum())
            with deep.replaced({OUT[0]: put}):
                total += float(deep.losses(tokens)[ordinary[:, 1:]].sum())
        n += int(ordinary[:, 1:].sum())
    assert row["delta_ce"] == pytest.approx((total - original) / n, abs=1e-4)


def test_what_cannot_be_wired_is_refused_at_the_door(deep, store, tmp_path: Path) -> None:
    for settings, says in (
        ({"dictionaries": (CLT,), "target": ""}, "A clt needs a `target`"),
        ({"dictionaries": (CLT,), "site": ", ".join(IN)}, "reads as many sites as it writes"),
        ({"dictionaries": (SKIP,), "target": ""}, "A transcoder needs a `target`"),
    ):
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(BASE, **settings)
    odd = dataclasses.replace(RUNS["clt"], dictionaries=(dataclasses.replace(CLT, n_latents=49),))
    with pytest.raises(ConfigError, match="cannot be shared evenly by 2 layers"):
        train(odd, deep, store, tmp_path / "odd")


def test_an_intervention_at_one_site_refuses_what_reads_another(runs, deep) -> None:
    with (
        pytest.raises(ConfigError, match="cannot give it what it reads"),
        splice(deep, OUT[0], runs["transcoder"]["topk"]),
    ):
        pass
