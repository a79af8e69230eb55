"""`docs/zoo.md` runs as it stands, block after block, and its table of genres is the generator's."""

import re
from pathlib import Path

from monosem.models.loading import embedded_names
from monosem.models.small import PRESETS
from monosem.text.genres.corpus import GENRES

PAGE = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")


def test_its_code_runs_and_says_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, scope)
    assert capsys.readouterr().out.startswith("not applicable: the model lacks it\n")


def test_its_tables_name_every_preset_genre_and_share():
    for name in PRESETS:
        assert f"`{name}`" in PAGE or name == "tiny", name
    for genre in GENRES:
        assert f"`{genre.name}`" in PAGE or genre.name.startswith("induction-prefix"), genre.name
        if genre.share and f"| `{genre.name}` |" in PAGE:
            assert f"| `{genre.name}` | {genre.share:.0f} % |" in PAGE


def test_its_table_of_abilities_has_every_model_of_the_package_and_every_ability():
    table = (
        PAGE.split("`monosem evaluate --abilities` shows\n\n```\n")[1].split("\n\n")[0].splitlines()
    )
    assert table[0].split() == ["ability", "bar", "chance", *embedded_names()]
    tested = [genre for genre in GENRES if genre.ability is not None]
    for genre, row in zip(tested, table[2:], strict=True):
        name, bar, chance, *_ = row.split()
        assert name == genre.name and genre.ability is not None
        assert bar == f"{genre.ability.bar:.2f}" and chance == f"{genre.ability.chance:.2f}"
