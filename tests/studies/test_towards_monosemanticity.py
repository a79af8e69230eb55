"""Studies: the neurons of a one-layer model taken apart, at the smallest scale; edges checked by hand."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem import cli
from monosem.core.errors import ConfigError
from monosem.dictionaries.latents import ragged_from_dense
from monosem.dictionaries.relu import ReLU, ReLUConfig
from monosem.metrics.measure import Measure, not_applicable
from monosem.metrics.sample import Sample, Text
from monosem.metrics.specificity import Ahead, BestUnit, Specificity, curves
from monosem.metrics.universality import Similarity, similarity
from monosem.models.effects import logit_effects
from monosem.models.language_model import LanguageModel, load_model
from monosem.studies.by_token import activation_by_token
from monosem.studies.towards_monosemanticity.automata import TOP, after, raised
from monosem.studies.towards_monosemanticity.control import of_one_token
from monosem.studies.towards_monosemanticity.proxies import Found, judged
from monosem.studies.towards_monosemanticity.setting import SCALES, Setting
from monosem.studies.towards_monosemanticity.study import (
    FIGURES,
    figure_key,
    towards_monosemanticity,
)
from monosem.studies.towards_monosemanticity.universality import LEAST, children, edge, often
from monosem.text.tokens import TokenStore

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


def test_children_are_counted_above_what_chance_finds() -> None:
    void = Measure(value=None, void="not applicable: made by hand")
    found = Similarity(
        nearest=torch.zeros(4, dtype=torch.int64),
        correlations=torch.zeros(4),
        nearest_masked=torch.tensor([0, 0, 2, 2]),
        masked=torch.tensor([0.7, 0.9, 0.5, float("nan")]),
        by_chance=torch.zeros(4),
        nearest_masked_by_chance=torch.tensor([1, 1, 1, 1]),
        masked_by_chance=torch.tensor([0.6, 0.6, 0.6, 0.6]),
        n_tokens=1,
        correlation=void,
        masked_cosine=void,
    )
    assert edge(found) == pytest.approx(0.6)
    counts = children(found.masked, found.nearest_masked, edge(found), 3)
    assert counts.tolist() == [2.0, 0.0, 0.0]


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
    other = dataclasses.replace(alone, seed=1)
    changed = {name for name in FIGURES if figure_key(name, alone) != figure_key(name, both)}
    assert changed == {"universality"}
    assert all(figure_key(name, alone) != figure_key(name, other) for name in FIGURES)


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


def test_a_latent_that_fires_on_few_tokens_is_like_nobody() -> None:
    """Latent 1 of A fires once, where latent 0 of B does: masked cosine 1, of one token."""
    a, b = torch.zeros(2 * LEAST, 2), torch.zeros(2 * LEAST, 1)
    a[:LEAST, 0], a[0, 1], b[:LEAST, 0] = 1.0, 1.0, torch.rand(LEAST) + 0.1
    latents = [(ragged_from_dense(a[i::2]), ragged_from_dense(b[i::2])) for i in (0, 1)]
    found = similarity(often(lambda: latents), 2, 1)
    assert found.masked[0] == pytest.approx(float(b.mean() * 2 / b.square().mean().mul(2).sqrt()))
    assert found.masked[1].isnan()
    assert not similarity(lambda: latents, 2, 1).masked[1].isnan()


def agreeing(*, share: float, low: float, usual: float) -> Specificity:
    """A unit with `share` of its activation on a kind that holds for `usual` of all tokens."""
    on_kind = Measure(value=share, low=low, high=min(1.0, share + 0.05), null=usual)
    return Specificity(
        specificity=on_kind,
        expected=on_kind,
        sensitivity=Measure(value=0.3),
        correlation=Measure(value=0.5, low=low / 2, high=0.6, null=0.0),
        curves=curves(np.ones(4), np.zeros(4, bool)),
    )


def followed(kind: str, *, low: float, usual: float, neuron: float | None = 0.2) -> Found:
    """A latent with nine tenths of its activation on a kind, beside a neuron with `neuron` of its own."""
    agrees = agreeing(share=0.9, low=low, usual=usual)
    other, lead = BestUnit(latent=-1, correlation=not_applicable("two tokens")), None
    if neuron is not None:
        theirs = agreeing(share=neuron, low=neuron, usual=usual)
        other = BestUnit(latent=1, correlation=theirs.correlation, agreement=theirs)
        lead = Ahead(
            correlation=Measure(value=-0.1, low=-0.2, high=0.05, null=0.0),
            expected=Measure(value=0.9 - neuron, low=0.8 - neuron, high=1.0 - neuron, null=0.0),
        )
    return Found(kind, 0, agrees.correlation, agrees, other, lead)


def test_a_feature_counts_as_found_by_the_lower_end_of_what_is_on_its_kind() -> None:
    assert judged(followed("Arabic", low=0.8, usual=0.1)).startswith("found, on 30% of the kind")
    assert judged(followed("DNA", low=0.0, usual=0.01)).startswith(
        "seen, but the intervals leave it open"
    )
    # names and single letters, which the paper's proxy of base64 holds for
    assert judged(followed("base64", low=0.8, usual=0.16)).startswith("not to be told")


def test_a_latent_is_ahead_of_a_neuron_by_their_difference_alone() -> None:
    """The latent's interval lies above the neuron's point, and that of the difference around nothing."""
    said = judged(followed("Arabic", low=0.8, usual=0.1, neuron=0.2))
    assert "the best neuron: not, it fires on other things" in said
    assert "correlation is not told from the neuron's" in said and said.endswith("kind ahead")
    worse = judged(followed("Arabic", low=0.8, usual=0.1, neuron=1.0))
    assert "the best neuron: found, on 30% of the kind" in worse
    assert worse.endswith("not told from the neuron's")
    nobody = judged(followed("Arabic", low=0.8, usual=0.1, neuron=None))
    assert nobody.endswith("the best neuron: not measured (two tokens)")


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
    assert len(pages) == 2 and items["dictionaries of one sweep"] == 2
    assert all("How often its features fire" in (out / page).read_text("utf-8") for page in pages)
