"""Sweeps: the product of lists of settings, and names that say what differs.

    crossed((TopKConfig(),), {"k": (16, 32), "seed": (0, 1)})   four configurations
    labels(them, ())                                            topk-k16-seed0, topk-k16-seed1, …

A knob that only some architectures have multiplies only those.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from monosem.core.errors import ConfigError
from monosem.dictionaries.config import DictionaryConfig

_SHORT = {"n_latents": "n", "wiring": ""}
_LAST = ("n_latents", "lr", "seed")
"""What stands at the end of a name, in this order, after the knobs of the architecture."""


def crossed(
    bases: Sequence[DictionaryConfig], axes: Mapping[str, Sequence[Any]]
) -> tuple[DictionaryConfig, ...]:
    """Return every base with every combination of values of those `axes` that it has a field for.

    >>> from monosem.dictionaries import ReLU, TopK
    >>> found = crossed((TopK.config_type(), ReLU.config_type()), {"k": (8, 16)})
    >>> [(config.architecture, getattr(config, "k", None)) for config in found]
    [('topk', 8), ('topk', 16), ('relu', None)]
    """
    for name, values in axes.items():
        if len(set(values)) < len(values):
            raise ConfigError(
                f"`{name}` is given {_twice(values)} twice: nothing is trained twice. Give it once."
            )
    configs: list[DictionaryConfig] = []
    for base in bases:
        own = [name for name in axes if hasattr(base, name)]
        for values in itertools.product(*(axes[name] for name in own)):
            configs.append(dataclasses.replace(base, **dict(zip(own, values, strict=True))))
    return tuple(configs)


def labels(dictionaries: Sequence[DictionaryConfig], lrs: Sequence[float] = ()) -> tuple[str, ...]:
    """Return a name for each dictionary: its architecture, and what tells it from others of it.

    >>> from monosem.dictionaries import ReLU, TopK
    >>> several = [TopK.config_type(k=16), TopK.config_type(k=32), ReLU.config_type()]
    >>> labels(several)
    ('topk-k16', 'topk-k32', 'relu')
    >>> labels(several[:1] * 2, lrs=(2e-4, 5e-4))
    ('topk-lr0.0002', 'topk-lr0.0005')
    """
    settings = [_settings(config) for config in dictionaries]
    for one, lr in zip(settings, lrs, strict=False):
        one["lr"] = lr
    found: list[str] = []
    for config, own in zip(dictionaries, settings, strict=True):
        alike = [
            other
            for which, other in zip(dictionaries, settings, strict=True)
            if which.architecture == config.architecture
        ]
        differ = [name for name in own if any(other[name] != own[name] for other in alike)]
        differ.sort(key=lambda name: _LAST.index(name) if name in _LAST else -1)
        parts = [_part(name, own[name]) for name in differ]
        found.append("-".join(filter(None, [config.architecture, *parts])))
    return tuple(found)


def check_distinct(dictionaries: Sequence[DictionaryConfig], lrs: Sequence[float]) -> None:
    """Raise `ConfigError` where two dictionaries would be trained alike, or learning rates miscounted."""
    if lrs and len(lrs) != len(dictionaries):
        raise ConfigError(
            f"`optim.lrs` has {len(lrs)} learning rates for {len(dictionaries)} dictionaries. Give one "
            "for each, or none."
        )
    names = labels(dictionaries, lrs)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ConfigError(
                f"`{name}` would be trained twice, with the same settings and seed. Leave one out, or "
                "give them different seeds."
            )


def _settings(config: DictionaryConfig) -> dict[str, Any]:
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    kind = (
        config.wiring.kind if config.wiring.kind == "clt" else ""
    )  # the sites say which other it is
    return {**found, "wiring": "-".join(filter(None, (kind, "skip" * config.wiring.skip)))}


def _part(name: str, value: Any) -> str:
    short = _SHORT.get(name, name.replace("_", "-"))
    values = value if isinstance(value, tuple) else (value,)
    text = "_".join(str(each) for each in values)
    return f"{short}_{text}" if short[-1:].isdigit() else f"{short}{text}"


def _twice(values: Sequence[Any]) -> Any:
    return next(value for i, value in enumerate(values) if value in values[:i])
