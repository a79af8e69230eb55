"""Studies: the dictionaries of Cunningham et al. beside their baselines, at the smallest scale."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem import cli
from monosem.core.errors import MonosemError
from monosem.dictionaries.tied import Tied, TiedConfig
from monosem.metrics.stream import enough, visit
from monosem.models.language_model import LanguageModel
from monosem.studies.sparse_autoencoders.cases import by_token
from monosem.studies.sparse_autoencoders.curve import value, without
from monosem.studies.sparse_autoencoders.setting import SCALES, Setting
from monosem.studies.sparse_autoencoders.study import sparse_autoencoders
from monosem.text.tokens import TokenStore

SITE = "blocks.0.hook_resid_post"


def test_perplexity_is_e_to_the_loss_with_the_splice() -> None:
    row = {"loss": 2.0, "delta_ce": 0.5, "fvu": None}
    assert value(row, "perplexity") == pytest.approx(math.exp(2.5))
    assert without(row) == pytest.approx(math.exp(2.0))
    assert math.isnan(value(row, "fvu"))


def test_activation_by_token_is_what_a_loop_over_tokens_adds_up(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    dictionary = Tied(TiedConfig(d_in=16, n_latents=12))
    dictionary.W_dec.data = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)
    scale = SCALES["tiny"]
    setting = Setting(scale, model, store, SITE, "blocks.0.mlp.hook_post", tmp_path)
    mass, counts = by_token(dictionary, setting)
    contexts = enough(visit(store, "heldout", 0), store, scale.n_eval)
    tokens = torch.from_numpy(store.tokens(contexts))
    x = model.capture(tokens, [SITE])[next(iter(model.capture(tokens[:1], [SITE])))]
    ordinary = torch.from_numpy(store.ordinary(tokens.numpy()))
    mass = mass.toarray()
    expected, fired = np.zeros_like(mass), np.zeros_like(counts)
    for row, token in zip(
        dictionary.encode(x[ordinary]).detach().numpy(), tokens[ordinary], strict=True
    ):
        expected[:, int(token)] += row
        fired += row > 0
    assert np.allclose(mass, expected, rtol=1e-3, atol=1e-3) and np.array_equal(counts, fired)
    assert counts.sum() > 0


def test_names_that_do_not_exist_are_refused_before_anything_is_made(
    model: LanguageModel, store: TokenStore, tmp_path: Path
) -> None:
    for wrong in (
        {"scale": "tin"},
        {"figures": ("size",)},
        {"residual": "blocks.9.hook_resid_post"},
    ):
        with pytest.raises(MonosemError, match=r"[Dd]id you mean|has"):
            sparse_autoencoders(tmp_path / "out", model=model, store=store, **wrong)  # pyright: ignore
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_verb_recomputes_the_paper_at_the_smallest_scale_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = "sparse-autoencoders-find-features", tmp_path / "study"
    given = ["study", name, "--scale", "tiny", "--out", str(out), "--json"]
    assert cli.main(given) == 0
    items = {i["item"]: i for i in json.loads(capsys.readouterr().out)}
    residual = {k: v["here"] for k, v in items.items() if k.startswith("residual")}
    fvus = [v for k, v in residual.items() if k.endswith("FVU of the dictionary")]
    assert len(fvus) == 2 and fvus[1] < fvus[0] < 1
    random = [v for k, v in residual.items() if "random" in k]
    assert all(ours < theirs for ours, theirs in zip(fvus, random, strict=True))
    assert [i for i in items.values() if str(i["here"]).startswith("missing")]
    page = (out / "report.html").read_text("utf-8")
    assert "<svg" in page and "Found again in a larger dictionary" in page
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")}
    assert cli.main(given) == 0
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.figure.json")} == before
