"""Studies: the neurons of a one-layer model taken apart, at the smallest scale; edges checked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monosem import cli
from monosem.core.errors import ConfigError
from monosem.metrics.measure import Measure
from monosem.metrics.sample import Sample, Text
from monosem.metrics.universality import Similarity
from monosem.models.language_model import LanguageModel, load_model
from monosem.studies.by_token import activation_by_token
from monosem.studies.towards_monosemanticity.automata import after
from monosem.studies.towards_monosemanticity.control import of_one_token
from monosem.studies.towards_monosemanticity.study import FIGURES, towards_monosemanticity
from monosem.studies.towards_monosemanticity.universality import children, edge
from monosem.text.tokens import TokenStore


def drawn(tokens: list[list[int]], latents: list[list[float]]) -> Sample:
    """A sample of two contexts whose first token is special."""
    ids = np.array(tokens)
    ordinary = np.ones(ids.shape, bool)
    ordinary[:, 0] = False
    text = Text(np.arange(len(ids)), ids, ordinary, [[""] * ids.shape[1]] * len(ids))
    values = csr_array(np.array(latents, dtype=np.float32))
    return Sample(text, torch.zeros(values.shape[0], 2), values)


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
    assert not (tmp_path / "out").exists()
    assert cli.main(["study", "sparse-autoencoders-find-features", "--second", "1L-a"]) == 2
    assert cli.main(["study", "towards-monosemanticity", "--residual", "hook_embed"]) == 2


@pytest.mark.slow
def test_the_verb_recomputes_the_paper_at_the_smallest_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    given = ["study", "towards-monosemanticity", "--scale", "tiny", "--out", str(out), "--json"]
    assert cli.main(given) == 0
    items = {i["item"]: i["here"] for i in json.loads(capsys.readouterr().out)}
    assert items["1 × (512 latents): loss recovered (zero)"] > 0.7
    assert items["shuffled model: FVU"] > items["model: FVU"]
    assert {p.name for p in out.glob("*.figure.json")} == {f"{n}.figure.json" for n in FIGURES}
    assert "Finite-state automata" in (out / "report.html").read_text("utf-8")
