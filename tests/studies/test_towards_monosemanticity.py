"""Studies: the neurons of a one-layer model taken apart, at the smallest scale; edges checked by hand."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import sem
from scipy.stats import t as student

from monosem import cli
from monosem.core.config import Json
from monosem.core.errors import ArtifactCorruptError, ConfigError
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.features.database import FeatureDatabase
from monosem.metrics.by_token import activation_by_token
from monosem.metrics.sample import Sample, Text
from monosem.models.effects import logit_effects
from monosem.models.language_model import LanguageModel, load_model
from monosem.models.randomised import randomised
from monosem.studies import running
from monosem.studies.report import Figure
from monosem.studies.towards_monosemanticity import effects
from monosem.studies.towards_monosemanticity import universality as places_of_latents
from monosem.studies.towards_monosemanticity.automata import TOP, after, raised
from monosem.studies.towards_monosemanticity.control import of_one_token
from monosem.studies.towards_monosemanticity.setting import SCALES, Setting, sizes
from monosem.studies.towards_monosemanticity.splitting import splitting
from monosem.studies.towards_monosemanticity.study import (
    FIGURES,
    OF_WIDTHS,
    figure_key,
    lacks,
    towards_monosemanticity,
)
from monosem.studies.towards_monosemanticity.universality import FEATURES, NEURONS, _found, encoded
from monosem.text.tokens import TokenStore
from monosem.training.run import TrainingRun
from monosem.training.settings import TrainConfig

SITE = "blocks.0.mlp.hook_post"


def drawn(tokens: list[list[int]], latents: list[list[float]]) -> Sample:
    """A sample of two contexts whose first token is special."""
    ids = np.array(tokens)
    ordinary = np.ones(ids.shape, bool)
    ordinary[:, 0] = False
    text = Text(np.arange(len(ids)), ids, ordinary, [[""] * ids.shape[1]] * len(ids))
    values = csr_array(np.array(latents, dtype=np.float32))
    return Sample(text, torch.zeros(len(latents), 2), values)


def test_what_fires_next_stays_within_a_context() -> None:
    """Latent 1 follows latent 0 each time, and fires on half of all following tokens: 2 times as often."""
    found = drawn(
        [[0, 5, 6, 5], [0, 6, 5, 6]],
        [[1, 0], [0, 2], [0, 0], [0, 0], [3, 0], [0, 4]],
    )
    lift = after(found).toarray()
    # Following tokens: rows 1, 2 and 4, 5; latent 1 fires on rows 1 and 5.
    assert lift[0, 1] == pytest.approx(1.0 / 0.5)
    assert lift[1, 0] == 0.0
    mass = activation_by_token(found, found.text.tokens[found.text.ordinary], 7).toarray()
    assert mass[0].tolist() == [0, 0, 0, 0, 0, 4, 0] and mass[1].tolist() == [0, 0, 0, 0, 0, 0, 6]


def test_a_latent_of_one_token_has_its_activation_there() -> None:
    tokens = [[0, *([5, 6] * 30)]]
    one, both = [[1.0, 1.0], [0.0, 1.0]] * 30, [[0.5, 1.0]] * 60
    assert of_one_token(drawn(tokens, one)) == 0.5
    assert of_one_token(drawn(tokens, both)) == 0.0


def test_a_second_model_with_another_vocabulary_is_refused(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="same tokenizer"):
        towards_monosemanticity(
            tmp_path / "out", model=model, store=store, second=load_model("1L-a"), scale="tiny"
        )
    with pytest.raises(ConfigError, match="itself"):
        towards_monosemanticity(
            tmp_path / "out", model=model, store=store, second=model, scale="tiny"
        )
    assert not (tmp_path / "out").exists()
    assert cli.main(["study", "sparse-autoencoders-find-features", "--second", "1L-a"]) == 2
    assert cli.main(["study", "towards-monosemanticity", "--residual", "hook_embed"]) == 2


def test_only_figures_of_both_models_are_made_anew_when_a_second_is_named(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    alone = Setting(SCALES["tiny"], model, store, SITE, tmp_path)
    both = dataclasses.replace(alone, second=load_model("1L-a"))
    wider = dataclasses.replace(alone, scale=sizes("tiny", (1, 4, 2)))
    other = dataclasses.replace(alone, seed=1)
    changed = {name for name in FIGURES if figure_key(name, alone) != figure_key(name, both)}
    assert changed == {"universality"}
    changed = {name for name in FIGURES if figure_key(name, alone) != figure_key(name, wider)}
    assert changed == set(OF_WIDTHS)
    assert all(figure_key(name, alone) != figure_key(name, other) for name in FIGURES)


class Run(TrainingRun):
    """A finished run of one dictionary, in no folder."""

    def __init__(self, dictionary: ReLU) -> None:
        self._loaded = {"relu": dictionary}

    @property
    def names(self) -> tuple[str, ...]:
        return ("relu",)

    def folder(self, name: str) -> Path:
        return Path(name)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that dictionaries are trained into; nothing is trained."""
    seen: list[str] = []

    def note(config: TrainConfig, model: LanguageModel, store: TokenStore, out: Path) -> Any:
        seen.append(out.name)
        (kind,) = config.dictionaries
        width = model.width(SITE)
        small = ReLU(ReLUConfig(d_in=width, d_out=width, n_latents=8, l1=0.1, seed=kind.seed))
        return Run(small)

    monkeypatch.setattr(running, "train", note)
    return seen


def test_dictionaries_of_the_model_are_kept_when_a_second_or_a_width_is_named(
    model: LanguageModel, store: TokenStore, tmp_path: Path, folders: list[str]
) -> None:
    alone = Setting(SCALES["tiny"], model, store, SITE, tmp_path)
    assert set(alone.widths) == {1, 2}
    mine = list(folders)
    both = dataclasses.replace(alone, second=randomised(model, 0))
    wider = dataclasses.replace(both, scale=sizes("tiny", (4, 2, 1)))
    folders.clear()
    assert set(both.widths) == {1, 2} and folders == mine
    folders.clear()
    assert list(wider.widths) == [1, 2, 4] and folders[:2] == mine and folders[2].startswith("4x-")
    # looked for in another seed's dictionary of the same model, or in the second's
    folders.clear()
    assert alone.other is not both.other and len(set(folders)) == 2
    assert not set(folders) & set(mine)


def test_other_widths_hold_the_main_one_and_a_narrower() -> None:
    assert sizes("small", (256, 1, 8)).ratios == (1, 8, 256)
    assert sizes("small") is SCALES["small"]
    for wrong, told in (((1, 2), "must hold 8"), ((8, 64), "a narrower"), ((0, 8), "from 1 on")):
        with pytest.raises(ConfigError, match=told):
            sizes("small", wrong)
    with pytest.raises(ConfigError, match="each once"):
        sizes("tiny", (1, 2, 2))
    study = ["study", "towards-monosemanticity", "--ratios", "2", "8"]
    assert cli.main([*study, "--scale", "tiny"]) == 2
    assert cli.main(["study", "sparse-autoencoders-find-features", "--ratios", "1", "2"]) == 2


def test_widths_of_the_paper_that_were_not_trained_are_said_to_be_missing(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    setting = Setting(SCALES["tiny"], model, store, SITE, tmp_path)
    (first, *_) = lacks("tiny", setting).items()
    assert first[0] == "dictionaries of 8 ×, 32 ×, 64 ×, 256 ×"
    assert "`--ratios 1 2 8 32 64 256`" in first[1][1]
    whole = dataclasses.replace(setting, scale=sizes("tiny", (1, 2, 8, 32, 64, 256)))
    lengths = dataclasses.replace(whole.scale, n_tokens=3, n_widest=2, n_beyond=1)
    fewer = dataclasses.replace(whole, scale=lengths)
    assert [fewer.n_tokens(r) for r in lengths.ratios] == [3, 3, 2, 2, 1, 1]
    assert not any(name.startswith("dictionaries") for name in lacks("tiny", whole))


def test_a_second_model_that_reads_too_little_is_refused_before_anything_is_trained(
    model: LanguageModel, store: TokenStore, tmp_path: Path, folders: list[str]
) -> None:
    short = randomised(model, 0)
    short.context = store.context // 2
    with pytest.raises(ConfigError, match=f"tokens --context {store.context // 2}`"):
        towards_monosemanticity(
            tmp_path / "out", model=model, store=store, second=short, scale="tiny"
        )
    assert folders == [] and not (tmp_path / "out").exists()


def measured(setting: Setting, seed: int = 0) -> Setting:
    """The same setting with dictionaries that nobody trained."""
    fresh, width = dataclasses.replace(setting), setting.model.width(SITE)
    kinds = {r: ReLUConfig(d_in=width, d_out=width, n_latents=r * 8, seed=seed) for r in (1, 2)}
    fresh.__dict__["widths"] = {ratio: ReLU(kind) for ratio, kind in kinds.items()}
    fresh.__dict__["main"] = fresh.widths[2]
    return fresh


def test_measures_are_kept_by_the_weights_they_are_of(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    small = dataclasses.replace(SCALES["tiny"], n_eval=256, n_density=256)
    setting = Setting(small, model, store, SITE, tmp_path)
    first = measured(setting).evaluated((1, 2))
    kept = {path: path.read_text("utf-8") for path in tmp_path.glob("evaluation-*.json")}
    assert len(kept) == 2 and first[2]["n_latents"] == 16
    for path, text in kept.items():
        path.write_text(json.dumps(json.loads(text) | {"fvu": 77.0}), "utf-8")
    assert measured(setting).evaluated((1, 2))[1]["fvu"] == 77.0  # read, not measured
    assert measured(setting, seed=1).evaluated((2,))[2]["fvu"] < 7  # of other weights
    assert len(list(tmp_path.glob("evaluation-*.json"))) == 3
    anew = dataclasses.replace(setting, fresh=True)
    assert measured(anew).evaluated((1, 2)) == first
    assert {path: path.read_text("utf-8") for path in kept} == kept


@pytest.mark.parametrize(
    "rubbish", ["{", "[1]", '{"n_latents": 4}', '{"n_latents": "four"}'], ids=str
)
def test_a_kept_measure_that_is_rubbish_says_what_to_do(
    model: LanguageModel, store: TokenStore, tmp_path: Path, rubbish: str
) -> None:
    setting = measured(Setting(SCALES["tiny"], model, store, SITE, tmp_path))
    setting._evaluation(2).write_text(rubbish, "utf-8")
    with pytest.raises(ArtifactCorruptError, match="pass `--fresh` to measure again"):
        setting.evaluated((2,))


def test_fresh_trains_anew_what_is_refused_and_nothing_else(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    kind = ReLUConfig(n_latents=8, l0=2.0)
    config = TrainConfig(site=SITE, dictionaries=(kind,), n_tokens=256, batch_size=64)
    where = config, model, store, tmp_path
    run = running.trained(*where, name="1x")
    weights = next(run.path.rglob("*.safetensors"))
    before = weights.stat().st_mtime_ns
    running.trained(*where, name="1x", fresh=True)
    assert weights.stat().st_mtime_ns == before
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(ArtifactCorruptError):
        running.trained(*where, name="1x")
    running.trained(*where, name="1x", fresh=True)
    assert weights.read_bytes() == whole


def test_raised_tokens_are_those_above_the_mean_of_all_latents(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    setting = Setting(SCALES["tiny"], model, store, SITE, tmp_path)
    width = model.width(SITE)
    main = ReLU(ReLUConfig(d_in=width, d_out=width, n_latents=24, l1=0.1))
    setting.__dict__["main"] = main
    with torch.no_grad():
        effects = logit_effects(model, SITE, main.W_dec)
        wanted = (effects - effects.mean(0)).topk(TOP, dim=1).indices.sort(dim=1).values
    assert np.sort(raised(setting), 1).tolist() == wanted.tolist()


def test_wide_latents_are_encoded_a_few_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ReLU(ReLUConfig(d_in=6, d_out=6, n_latents=40, l1=0.1))
    x = torch.randn(33, 6)
    with torch.no_grad():
        whole = encoded(wide, x)
        monkeypatch.setattr(places_of_latents, "DENSE_AT_ONCE", 7 * 40)
        parts = encoded(wide, x)
    for name in ("values", "indices", "offsets"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_widths_are_joined_each_to_the_next_narrower_at_both_limits(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    small = dataclasses.replace(SCALES["tiny"], n_eval=1024)
    setting = measured(Setting(small, model, store, SITE, tmp_path))
    figure = splitting(setting)
    names = [item.item for item in figure.items]
    assert [n for n in names if "joined" in n][0].startswith("2 × to 1 ×, on 30 tokens or more")
    assert [n for n in names if "joined" in n][1].startswith("2 × to 1 ×, on 50 tokens or more")
    assert len(figure.drawings) == 1


def test_neurons_are_looked_for_in_a_second_model_alone(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    small = dataclasses.replace(SCALES["tiny"], n_eval=512)
    alone = measured(Setting(small, model, store, SITE, tmp_path))
    alone.__dict__["other"] = alone.main
    again = _found(alone)
    assert NEURONS not in again and again[FEATURES].nearest.tolist() == list(range(16))
    assert again[FEATURES].correlations.tolist() == pytest.approx([1.0] * 16)
    both = measured(dataclasses.replace(alone, second=randomised(model, 0)))
    both.__dict__["other"] = both.main
    found = _found(both)
    # the same dictionary, of another model's activations
    assert found[FEATURES].correlations.max() < 0.999
    assert 0 < float(found[NEURONS].correlation.value) < 1


def test_a_width_is_added_to_a_study_that_is_done(
    model: LanguageModel,
    store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lengths = {"n_tokens": 4_000, "n_widest": 2_000, "n_eval": 1_000}
    small = dataclasses.replace(SCALES["tiny"], **lengths, n_density=1_000, n_described=1_000)
    monkeypatch.setitem(SCALES, "tiny", small)

    def page(database: FeatureDatabase, measures: Json, place: Path, title: str) -> None:
        place.write_text(f"{title}: {database.metrics['n_alive']} {measures['fvu']}", "utf-8")

    def study(**given: Any) -> dict[str, Figure]:
        shared: dict[str, Any] = {"model": model, "store": store, "scale": "tiny"}
        names = ("widths", "dictionaries", "densities", "splitting", "missing")
        made = towards_monosemanticity(tmp_path, **shared, figures=names, write_page=page, **given)
        return {figure.name: figure for figure in made}

    study()
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    found = study(ratios=(4, 1, 2))
    assert capsys.readouterr().err.count("is already there; used again") == 4  # runs and features
    new = {path.name for path in tmp_path.iterdir()} - before
    kinds = sorted(re.sub("-?[0-9a-f]{8}", "", name) for name in new)
    assert kinds == ["4x", "4x-features", "4x.html", "evaluation-4x.json"]
    assert found["widths"].notes["tokens trained on"] == "1 × 4,000, 2 × 4,000, 4 × 2,000"
    assert found["dictionaries"].items[0].here == "3, from 24 to 96 latents"
    assert found["dictionaries"].items[0].how.endswith("--ratios 1 2 4")
    assert found["splitting"].items[-1].item.startswith("4 × to 2 ×")
    assert found["missing"].items[0].item == "dictionaries of 8 ×, 32 ×, 64 ×, 256 ×"
    assert found["missing"].items[0].here.startswith("missing: `--ratios` leaves them out")
    features = next(path for path in tmp_path.glob("4x-features-*"))
    assert found["dictionaries"].items[-1].how.endswith(f" {tmp_path.name}/{features.name}")
    assert "here 1,023 were read" in found["densities"].text  # 1,000 were asked for
    index = (tmp_path / "dictionaries.html").read_text("utf-8")
    pages = re.findall(r'href="([^"]+\.html)"', index)
    assert len(pages) == 3
    assert all("as many latents" in (tmp_path / page).read_text("utf-8") for page in pages)


@pytest.mark.slow
def test_the_verb_recomputes_the_paper_at_the_smallest_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    given = ["study", "towards-monosemanticity", "--scale", "tiny", "--out", str(out), "--json"]
    assert cli.main(given) == 0
    items = {i["item"]: i["here"] for i in json.loads(capsys.readouterr().out)}
    assert items["1 × (512 latents): loss recovered (zero)"] > 0.7
    assert items["2 ×: latents that fire often enough to be described"] > 500
    assert {p.name for p in out.glob("*.figure.json")} == {f"{n}.figure.json" for n in FIGURES}
    assert "Finite-state automata" in (out / "report.html").read_text("utf-8")
    index = (out / "dictionaries.html").read_text("utf-8")
    pages = re.findall(r'href="([^"]+x-[0-9a-f]{8}\.html)"', index)
    assert len(pages) == 2
    assert items["dictionaries of one sweep"] == "2, from 512 to 1,024 latents"
    for page in pages:  # each is there, and shows features
        shown = (out / page).read_text("utf-8")
        assert (
            "How often its features fire" in shown and len(re.findall(r'id="feature-', shown)) > 9
        )


def test_what_an_ablation_costs_is_a_mean_over_contexts_of_the_tokens_after_the_latent(
    model: LanguageModel, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six contexts of four tokens; the loss after each of the first three is made by hand."""
    on = np.array([[2, 0, 1], [0, 3, 0], [1, 1, 1], [0, 0, 2], [4, 0, 0], [1, 0, 5]], float)
    added = np.arange(18, dtype=float).reshape(6, 3) ** 1.5 / 9
    found = drawn([[0, 5, 6, 7]] * 6, on.reshape(-1, 1).tolist())
    setting = Setting(SCALES["tiny"], model, store, SITE, tmp_path, seed=3)
    monkeypatch.setitem(vars(setting), "sample", found)
    rows = {
        int(c): torch.from_numpy(row) for c, row in zip(found.text.contexts, added, strict=True)
    }
    monkeypatch.setattr(
        effects, "added_loss", lambda _, __, contexts: torch.stack([rows[int(c)] for c in contexts])
    )
    monkeypatch.setattr(effects, "sampled", lambda *_: "")
    one = effects._effect("planted", 0, setting)
    # A loss is of the token after: the first token is special, and the last one has none after it.
    before = np.concatenate([np.zeros((6, 1)), on[:, :2]], axis=1) > 0
    for measure, chosen in ((one.where_on, before), (one.elsewhere, ~before)):
        means = np.array([a[c].mean() for a, c in zip(added, chosen, strict=True) if c.any()])
        assert measure.n == len(means)
        assert measure.value == pytest.approx(means.mean())
        ends = student.interval(0.95, len(means) - 1, measure.value, sem(means))
        assert [measure.low, measure.high] == pytest.approx(ends)
