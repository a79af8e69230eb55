"""Configurations: to JSON and back, unknown fields, the content hash."""

import doctest
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.core import config as config_module
from monosem.core.config import content_hash, from_json, to_json
from monosem.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Shape:
    architecture: ClassVar[str] = ""
    width: int = 1

    @classmethod
    def resolve(cls, data: dict[str, Any]) -> type["Shape"]:
        return {"round": Round, "square": Square}[data["architecture"]]


@dataclass(frozen=True, kw_only=True)
class Round(Shape):
    architecture: ClassVar[str] = "round"
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    architecture: ClassVar[str] = "square"


@dataclass(frozen=True, kw_only=True)
class Run:
    out: Path = Path("here")
    shapes: tuple[Shape, ...] = ()
    pair: tuple[int, str] = (1, "a")
    inner: Square = field(default_factory=Square)
    label: str | None = None


def test_a_nested_configuration_survives_json() -> None:
    run = Run(out=Path("a/b"), shapes=(Round(radius=2.5), Square(width=3)), pair=(2, "b"))
    again = from_json(Run, json.loads(json.dumps(to_json(run))))
    assert again == run
    assert isinstance(again.shapes[0], Round)


def test_a_member_of_a_family_writes_its_name() -> None:
    assert to_json(Round()) == {"architecture": "round", "width": 1, "radius": 1.0}


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no field `labell`\. Did you mean `label`\?"):
        from_json(Run, {"labell": "x"})


@dataclass(frozen=True, kw_only=True)
class Typed:
    flag: bool = False
    count: int = 1
    share: float = 0.5
    name: str = ""
    kind: Literal["a", "b"] = "a"
    several: tuple[float, ...] = ()
    by_name: dict[str, float] = field(default_factory=dict[str, float])
    maybe: bool | None = None
    either: int | tuple[int, ...] = 0
    inner: Square = field(default_factory=Square)
    any_thing: Any = None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("flag", 1, "`Typed.flag` is 1, and must be true or false"),
        ("count", "many", '`Typed.count` is "many", and must be a whole number'),
        ("count", True, "`Typed.count` is true, and must be a whole number"),
        ("count", 2.0, "`Typed.count` is 2.0, and must be a whole number"),
        ("count", None, "`Typed.count` is null, and must be a whole number"),
        ("share", "0.5", '`Typed.share` is "0.5", and must be a number'),
        ("name", 3, "`Typed.name` is 3, and must be a text"),
        ("kind", "c", '`Typed.kind` is "c", and must be one of `a`, `b`'),
        ("several", 1.0, "`Typed.several` is 1.0, and must be a list"),
        ("several", [1.0, "x"], r'`Typed.several\[1\]` is "x", and must be a number'),
        ("by_name", {"fvu": "low"}, '`Typed.by_name.fvu` is "low", and must be a number'),
        ("by_name", [], "`Typed.by_name` is .*, and must be values by name"),
        ("maybe", "yes", '`Typed.maybe` is "yes", and must be true or false'),
        ("either", "x", '`Typed.either` is "x", and must be `int'),
        ("inner", 3, "`Typed.inner` is 3, and must be the settings of `Square` by name"),
        ("inner", {"architecture": "square", "width": "wide"}, "`Square.width` is"),
        ("name", ["long"] * 100, "…, and must be a text"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_field(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{says}.* Correct it in the configuration"):
        from_json(Typed, {name: value})


def test_what_json_says_in_other_words_is_taken() -> None:
    found = from_json(Typed, {"share": 1, "several": [1, 2.5], "maybe": None, "either": [1, 2]})
    assert (found.share, found.several, found.either) == (1.0, (1.0, 2.5), (1, 2))
    assert type(found.share) is float
    assert from_json(Typed, {"any_thing": [1, "x"]}).any_thing == [1, "x"]


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="of type `object`"):
        to_json({"x": object()})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_hash_ignores_the_order_of_keys(data: dict[str, Any]) -> None:
    backwards = dict(reversed(list(data.items())))
    assert content_hash(data) == content_hash(backwards)
    assert len(content_hash(data)) == 16


def test_the_hash_tells_different_content_apart() -> None:
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash(Round()) != content_hash(Square())


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(config_module).failed == 0


def test_a_whole_number_larger_than_any_float_is_refused():
    with pytest.raises(ConfigError, match=r"`Round.radius` is .*1,329 bits.*a number"):
        from_json(Round, {"architecture": "round", "radius": 10**400})
