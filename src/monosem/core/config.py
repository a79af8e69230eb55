"""Frozen dataclasses to JSON and back, and the hash of their content.

A configuration is a frozen keyword-only dataclass of plain values, paths, tuples and other
configurations. A family of configurations that share a base (dictionaries) names its member in
the field `architecture`: the base defines `resolve(data) -> type`, which `from_json` asks.
"""

import collections.abc
import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from monosem.core.errors import ConfigError, suggestion

T = TypeVar("T")

Json = dict[str, Any]


def to_json(config: object) -> Any:
    """Return `config` as values that `json` can write; dataclasses become dictionaries."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        data = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        architecture = getattr(type(config), "architecture", None)
        return {"architecture": architecture, **data} if isinstance(architecture, str) else data
    if isinstance(config, Mapping):
        return {str(k): to_json(v) for k, v in cast(Mapping[Any, Any], config).items()}
    if isinstance(config, (list, tuple)):
        return [to_json(v) for v in cast(list[Any], config)]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise ConfigError(
        f"A configuration holds {config!r} of type `{type(config).__name__}`; "
        "it may hold only plain values, paths, tuples and other configurations."
    )


def from_json(kind: type[T], data: Json) -> T:
    """Build the dataclass `kind` from `data`.

    `ConfigError` names a field that is unknown or missing, and a value that is not of its field's type.
    """
    resolve = getattr(kind, "resolve", None)
    concrete = cast(type[Any], resolve(data) if resolve is not None else kind)
    known = {f.name for f in dataclasses.fields(concrete)}
    given = {k: v for k, v in data.items() if k != "architecture" or k in known}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"`{concrete.__name__}` has no field `{name}`.{suggestion(name, known)} "
                f"Fields: {', '.join(sorted(known))}."
            )
    for field in dataclasses.fields(concrete):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.init and field.name not in given:
            raise ConfigError(
                f"`{concrete.__name__}` needs the field `{field.name}`, which is not given."
            )
    hints = typing.get_type_hints(concrete)
    own = concrete.__name__
    return concrete(**{k: _value(hints[k], v, f"{own}.{k}") for k, v in given.items()})


def read_json(path: Path) -> object:
    """What a file holds; `OSError`, `ValueError` or `RecursionError` for what no configuration would be.

    A foreign folder is looked at too, and may hold anything under the name of a configuration.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def content_hash(value: object, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `value` as canonical JSON.

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    str: ((str,), "a text"),
    Path: ((str, Path), "a path"),
}
"""What JSON may hold for each plain type, and how messages call it."""


_MOST_BYTES = 2**26


def _value(hint: Any, value: Any, name: str) -> Any:
    """The value of the field `name` as its type asks for it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(hint, args, value, name)
    if origin is Literal:
        if not any(value == own and type(value) is type(own) for own in args):
            raise _wrong(name, value, f"one of {', '.join(f'`{own}`' for own in args)}")
        return value
    if hint in _PLAIN:
        accepted, wanted = _PLAIN[hint]
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise _wrong(name, value, wanted)
        try:
            return hint(value)
        except OverflowError as error:  # a whole number larger than any float
            raise _wrong(name, f"a number of {value.bit_length():,} bits", wanted) from error
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, dict):
            raise _wrong(name, value, f"the settings of `{hint.__name__}` by name")
        return from_json(hint, cast(Json, value))
    return _many(origin or hint, args, value, name)


def _many(origin: Any, args: tuple[Any, ...], value: Any, name: str) -> Any:
    """A tuple, a list or a mapping; what is of another type stays as it is."""
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise _wrong(name, value, "a list")
        items = cast(list[Any], value)
        alike = origin is list or (len(args) == 2 and args[1] is Ellipsis)
        if not alike and args and len(items) != len(args):
            raise _wrong(name, value, f"a list of {len(args)}")
        hints = [args[0] if args else Any] * len(items) if alike else args or [Any] * len(items)
        pairs = zip(hints, items, strict=True)
        return origin(_value(h, v, f"{name}[{i}]") for i, (h, v) in enumerate(pairs))
    if origin in (dict, Mapping, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "values by name")
        entries = cast(Mapping[Any, Any], value)
        hint = args[1] if len(args) == 2 else Any
        return {key: _value(hint, own, f"{name}.{key}") for key, own in entries.items()}
    return value


def _first_that_fits(hint: Any, args: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    inner = [own for own in args if own is not types.NoneType]
    for own in inner[:-1]:
        with contextlib.suppress(ConfigError):
            return _value(own, value, name)
    if len(inner) == 1:
        return _value(inner[0], value, name)
    try:
        return _value(inner[-1], value, name)
    except ConfigError:
        raise _wrong(name, value, f"`{hint}`") from None


def _wrong(name: str, value: Any, wanted: str) -> ConfigError:
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return ConfigError(
        f"`{name}` is {shown}, and must be {wanted}. Correct it in the configuration."
    )
