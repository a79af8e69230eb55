"""The public names: exactly these, each there, none costing anything before it is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import monosem

NAMES = [
    "BatchTopKConfig",
    "Dictionary",
    "DictionaryConfig",
    "EvaluateConfig",
    "FeatureDatabase",
    "FeaturesConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "LanguageModel",
    "MatryoshkaConfig",
    "MonosemConfig",
    "MonosemError",
    "MonosemForCausalLM",
    "PAnnealConfig",
    "ReLUAprilConfig",
    "ReLUConfig",
    "Suite",
    "TiedConfig",
    "TokenStore",
    "TokensConfig",
    "TopKConfig",
    "TrainConfig",
    "TrainingRun",
    "Wiring",
    "build_features",
    "build_token_store",
    "evaluate",
    "load",
    "load_model",
    "register",
    "train",
    "train_suite",
    "write_report",
]


def test_the_public_names_are_exactly_these() -> None:
    assert dir(monosem) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_object_of_its_room(name: str) -> None:
    found = getattr(monosem, name)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(monosem.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, line.module)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert seen == set(monosem._HOMES.items())


def test_importing_monosem_imports_no_torch() -> None:
    code = "import sys, monosem; dir(monosem); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `Sae`"):
        monosem.Sae  # type: ignore[attr-defined]  # noqa: B018


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    with pytest.raises(AttributeError, match="Did you mean `ReLUConfig`"):
        monosem.ReluConfig  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(monosem.__file__).parent / "py.typed").is_file()
