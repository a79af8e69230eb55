"""The models of the package: what their READMEs claim is measured, and learning shows in their logs."""

import json
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

import monosem
from monosem.metrics.abilities import LACKS, ability
from monosem.models.loading import EMBEDDED, embedded_names
from monosem.text.genres.corpus import GENRES

DOCS = Path(__file__).parents[2] / "docs"
ABLE = [genre.name for genre in GENRES if genre.ability is not None]


def test_the_models_of_the_package_are_small_and_have_their_logs():
    assert {"1L-a", "2L-attn-only"} <= set(embedded_names())
    sizes = [sum(p.stat().st_size for p in (EMBEDDED / n).iterdir()) for n in embedded_names()]
    assert max(sizes) <= 4_000_000 and sum(sizes) <= 14_000_000
    for name in embedded_names():
        log = (EMBEDDED / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [json.loads(line)["step"] for line in log]
        assert steps == sorted(set(steps)) and (EMBEDDED / name / "README.md").is_file()


def test_two_layers_of_attention_have_induction_and_one_layer_has_not():
    two = ability(monosem.load_model("2L-attn-only"), "induction", n=100)
    one = ability(monosem.load_model("1L-a"), "induction", n=100)
    assert two.holds and two.low > two.bar, two
    assert one.verdict == LACKS, one


@pytest.mark.parametrize("name", [n for n in embedded_names() if n != "1L-a"])
def test_a_readme_says_of_every_ability_what_is_measured(name):
    table = (EMBEDDED / name / "README.md").read_text(encoding="utf-8").split("**Abilities**")[1]
    rows = {line.split()[0]: line for line in table.splitlines() if line.split()[:1]}
    for tested in ABLE:
        claimed = rows[tested].rstrip().endswith(" yes")
        if claimed:
            found = ability(monosem.load_model(name), tested, n=80, seed=1)
            assert found.share is not None and found.high >= found.bar, found


def test_the_log_shows_induction_come_at_once():
    curve = runpy.run_path(str(DOCS / "zoo.py"))["curves"]()["induction"]
    tokens = [t for t, _ in curve]
    below, above = [t for t, share in curve if share < 0.2], [t for t, s in curve if s >= 0.8]
    # From chance to four cases of five while the tokens read no more than double.
    assert tokens == sorted(tokens) and below and above
    assert above[0] < 2 * below[-1], curve
    assert all(share > 0.5 for t, share in curve if t > above[0]), curve


def test_the_figure_of_the_page_is_drawn_from_the_log():
    drawn = runpy.run_path(str(DOCS / "zoo.py"))["figure"]()
    assert (DOCS / "induction.svg").read_text(encoding="utf-8") == drawn + "\n", (
        "run `python docs/zoo.py`"
    )
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 (ours)
