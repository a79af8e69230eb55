"""A room that reads models learns of the rooms that build some only when a model asks for one."""

import sys

import monosem
from monosem.core import homes


def test_a_home_is_imported_when_a_type_of_its_own_is_asked_for_and_no_sooner(
    tmp_path, monkeypatch
):
    (tmp_path / "a_home_of_models.py").write_text("entered = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(homes.MODEL_HOMES, "strange_", "a_home_of_models")
    homes.import_home("gpt2")
    assert "a_home_of_models" not in sys.modules
    homes.import_home("strange_gpt2")
    assert sys.modules.pop("a_home_of_models").entered


def test_the_package_enters_the_home_of_its_attention_only_models():
    assert monosem.__name__ == "monosem"
    assert homes.MODEL_HOMES["monosem_attention_only_"] == "monosem.constructions.attention_only"
